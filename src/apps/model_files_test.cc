#include "apps/model_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "apps/conversation.h"
#include "apps/generation.h"
#include "tensor/file_test_util.h"

namespace qnext {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string data(const std::string& relative) {
  return std::string(QNEXT_SOURCE_DIR) + "/tests/data/" + relative;
}

const char* const kGguf = "golden/next-gguf/next-Q4_K_M.gguf";

TEST(GenerationConfig, ReadsWhatIsThere) {
  const auto out = parse_generation_config(
      R"({"do_sample": true, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "eos_token_id": [151645, 151643, 151645]})",
      "f");
  EXPECT_EQ(out->do_sample, true);
  EXPECT_EQ(out->temperature, 0.6f);
  EXPECT_EQ(out->top_k, 20u);
  EXPECT_EQ(out->min_p, std::nullopt);
  EXPECT_THAT(out->stop_token_ids, ElementsAre(151645, 151643));
  EXPECT_THAT(parse_generation_config(R"({"eos_token_id": 7})", "f")->stop_token_ids, ElementsAre(7));
  EXPECT_THAT(parse_generation_config(R"({"eos_token_id": null})", "f")->stop_token_ids, ElementsAre());
}

TEST(GenerationConfig, NamesTheFieldThatIsWrong) {
  EXPECT_THAT(parse_generation_config("[1]", "dir/g.json").message(), HasSubstr("dir/g.json: expected a JSON object"));
  EXPECT_THAT(parse_generation_config("{", "f").message(), HasSubstr("expected a JSON object"));
  EXPECT_THAT(parse_generation_config(R"({"temperature": "hot"})", "f").message(),
              HasSubstr("f: temperature: expected"));
  EXPECT_THAT(parse_generation_config(R"({"top_k": -1})", "f").message(), HasSubstr("top_k"));
  EXPECT_THAT(parse_generation_config(R"({"eos_token_id": [1, "x"]})", "f").message(), HasSubstr("eos_token_id"));
  EXPECT_THAT(parse_generation_config(R"({"eos_token_id": 99999999999})", "f").message(), HasSubstr("eos_token_id"));
}

TEST(TextFiles, OfAGguf) {
  const TextFiles files = load_text_files(data(kGguf)).value();
  ASSERT_TRUE(files.tokenizer.has_value());
  EXPECT_TRUE(files.chat_template.has_value());
  EXPECT_EQ(files.eos_token, "<|im_end|>");
  EXPECT_EQ(files.bos_token, "");
  EXPECT_THAT(files.generation.stop_token_ids, ::testing::Contains(2041));
  EXPECT_EQ(model_note(data(kGguf)), "these weights are random: expect nonsense");
}

TEST(TextFiles, OfAFolder) {
  const TextFiles bare = load_text_files(data("golden/next-tiny")).value();
  EXPECT_FALSE(bare.tokenizer.has_value());
  EXPECT_THAT(require_tokenizer(bare, "M").message(), HasSubstr("M: expected a tokenizer (tokenizer.json)"));
  EXPECT_EQ(model_note(data("golden/next-tiny")), std::nullopt);

  const test::TempFolder folder;
  folder.write("chat_template.jinja", "{{ messages[0].content }}");
  folder.write("tokenizer_config.json", R"({"eos_token": "<e>"})");
  folder.write("generation_config.json", R"({"temperature": 0.5})");
  folder.write("NOTE", "made\x1b[31m by hand\n\n");
  const TextFiles files = load_text_files(folder.path()).value();
  EXPECT_EQ(files.chat_template_source, "{{ messages[0].content }}");
  EXPECT_EQ(files.eos_token, "<e>");
  EXPECT_EQ(files.generation.temperature, 0.5f);
  EXPECT_EQ(model_note(folder.path()), "made[31m by hand");
}

TEST(TextFiles, BrokenOnesAreErrors) {
  EXPECT_THAT(load_text_files("/nonexistent").message(), HasSubstr("no such file"));
  EXPECT_THAT(load_text_files("/etc/passwd").message(), HasSubstr("/etc/passwd: expected a folder"));
  const auto message = [](const std::string& name, const std::string& text) {
    const test::TempFolder folder;
    folder.write(name, text);
    return load_text_files(folder.path()).message();
  };
  EXPECT_THAT(message("tokenizer.json", "{}"), HasSubstr("tokenizer.json"));
  EXPECT_THAT(message("generation_config.json", "no"), HasSubstr("generation_config.json"));
  EXPECT_THAT(message("chat_template.jinja", "{% if %}"), HasSubstr("template"));
}

TEST(RenderPrompt, GivesTheTemplateMessagesAndThinking) {
  const TextFiles files = load_text_files(data(kGguf)).value();
  const std::vector<Message> messages = {{"system", "Be \"brief\"."}, {"user", "hi\n\u00e9"}};
  EXPECT_EQ(*render_prompt(files, "M", messages, std::nullopt),
            "<|im_start|>system\nBe \"brief\".<|im_end|>\n<|im_start|>user\nhi\n\u00e9<|im_end|>\n"
            "<|im_start|>assistant\n");
  EXPECT_THAT(*render_prompt(files, "M", messages, false), ::testing::EndsWith("<think>\n\n</think>\n\n"));
  EXPECT_THAT(render_prompt({}, "M", messages, std::nullopt).message(), HasSubstr("M: expected a chat template"));
}

TEST(Conversation, SurvivesASaveAndALoad) {
  const std::vector<Message> messages = {{"system", "s"}, {"user", "\"\\\n\u2028"}, {"assistant", ""}};
  const std::vector<Message> back = parse_conversation(conversation_json(messages), "f").value();
  ASSERT_EQ(back.size(), 3u);
  EXPECT_EQ(back[1].content, messages[1].content);
  EXPECT_EQ(back[2].role, "assistant");
}

TEST(Conversation, RefusesOtherJson) {
  for (const char* json :
       {"", "[]", "{}", R"({"messages": 3})", R"({"messages": [3]})", R"({"messages": [{"role": "user"}]})",
        R"({"messages": [{"role": "me", "content": ""}]})", R"({"messages": [{"role": "user", "content": 1}]})"}) {
    EXPECT_THAT(parse_conversation(json, "saved.json").message(), HasSubstr("saved.json")) << json;
  }
}

TEST(ChooseSampling, FlagsGoBeforeTheModelsAdviceBeforeTheFamilys) {
  const SamplingParams fallback = choose_sampling({}, {});
  EXPECT_EQ(fallback.temperature, kFallbackTemperature);
  EXPECT_EQ(fallback.top_p, kFallbackTopP);
  EXPECT_EQ(fallback.top_k, kFallbackTopK);

  GenerationDefaults advice;
  advice.temperature = 0.6f;
  advice.repetition_penalty = 1.1f;
  EXPECT_EQ(choose_sampling({}, advice).temperature, 0.6f);
  EXPECT_EQ(choose_sampling({}, advice).top_p, 1) << "what is not advised is off, once anything is";
  EXPECT_EQ(choose_sampling({}, advice).repetition_penalty, 1.1f);
  advice.do_sample = false;
  EXPECT_EQ(choose_sampling({}, advice).temperature, 0);

  SamplingOptions flags;
  flags.temperature = 0.9f;
  flags.seed = 5;
  flags.repetition_penalty = 1.0f;
  EXPECT_EQ(choose_sampling(flags, advice).temperature, 0.9f);
  EXPECT_EQ(choose_sampling(flags, advice).seed, 5u);
  EXPECT_EQ(choose_sampling(flags, advice).repetition_penalty, 1);
}

}  // namespace
}  // namespace qnext
