#include "train/chat_documents.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace qnext::train {
namespace {

using Json = nlohmann::ordered_json;
using ::testing::HasSubstr;

constexpr const char* kAppends =
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>\n{% endfor %}{% if add_generation_prompt %}<assistant>{% "
    "endif %}";
// Drops what earlier answers thought.
constexpr const char* kForgets =
    "{% for m in messages %}<{{ m.role }}>{{ m.content if loop.last else m.content.split('|')[-1] }}</>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}";

std::vector<TextDocument> documents(const char* source, const char* messages) {
  const ChatFormat format{*ChatTemplate::parse(source), "", ""};
  return *chat_documents(format, Json::parse(messages));
}

std::string shown(const std::vector<TextDocument>& documents) {  // what is learned in brackets
  std::string out;
  for (const TextDocument& document : documents) {
    for (const TextPart& part : document) out += part.learned ? "[" + part.text + "]" : part.text;
    out += "#";
  }
  return out;
}

constexpr const char* kTwoTurns = R"([{"role": "user", "content": "a"}, {"role": "assistant", "content": "x|b"},
                                      {"role": "user", "content": "c"}, {"role": "assistant", "content": "y|d"}])";

TEST(ChatDocuments, OnlyAnswersAreLearned) {
  EXPECT_EQ(shown(documents(kAppends, kTwoTurns)),
            "<user>a</>\n<assistant>[x|b</>]\n<user>c</>\n<assistant>[y|d</>]\n#");
}

TEST(ChatDocuments, ATemplateThatForgetsGivesADocumentPerAnswer) {
  EXPECT_EQ(shown(documents(kForgets, kTwoTurns)),
            "<user>a</>\n<assistant>[x|b</>]\n#<user>a</>\n<assistant>b</>\n<user>c</>\n<assistant>[y|d</>]\n#");
}

TEST(ChatDocuments, AConversationWithoutAnAnswerIsAnError) {
  const ChatFormat format{*ChatTemplate::parse(kAppends), "", ""};
  for (const char* bad : {"[]", "{}", R"([{"role": "user", "content": "a"}])", R"(["assistant"])"}) {
    const auto result = chat_documents(format, Json::parse(bad));
    ASSERT_FALSE(result) << bad;
    EXPECT_THAT(result.message(), HasSubstr("ends with the assistant's answer"));
  }
}

TEST(ChatDocuments, ATemplateThatIgnoresTheQuestionIsAnError) {
  const ChatFormat format{*ChatTemplate::parse("{{ messages | length }}"), "", ""};
  EXPECT_FALSE(chat_documents(format, Json::parse(kTwoTurns)));
}

}  // namespace
}  // namespace qnext::train
