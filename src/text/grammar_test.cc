#include "text/grammar.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "text/detokenizer.h"
#include "text/test_data.h"

namespace qnext {
namespace {

using ::testing::HasSubstr;

constexpr TokenId kEnd = 2041;            // <|im_end|>
constexpr std::size_t kVocabSize = 2050;  // two more than the tokenizer has

class Grammar : public ::testing::Test {
 protected:
  Tokenizer tokenizer_ = small_tokenizer();
  GrammarFactory factory_ = GrammarFactory::make(tokenizer_, std::vector<TokenId>{kEnd}, kVocabSize).value();

  std::vector<bool> mask(GrammarMatcher& matcher) {
    std::vector<std::uint32_t> words(factory_.mask_words(), 0xFFFFFFFF);
    const Status status = matcher.compute_mask(words);
    EXPECT_TRUE(status.ok()) << (status.ok() ? "" : status.message());
    std::vector<bool> bits(words.size() * 32);
    for (std::size_t id = 0; id < bits.size(); ++id) bits[id] = (words[id / 32] >> (id % 32) & 1) != 0;
    return bits;
  }

  // Whether the grammar takes the whole text and may end there.
  bool takes(GrammarKind kind, std::string_view grammar, std::string_view text) {
    Result<GrammarMatcher> matcher = factory_.make_matcher(kind, grammar);
    if (!matcher.ok()) {
      ADD_FAILURE() << matcher.message();
      return false;
    }
    const std::vector<TokenId> ids = *tokenizer_.encode(text);
    return *matcher->accept(ids) == ids.size() && *matcher->is_accepting();
  }

  // Generates at random what the mask allows, weighing the end token up so that the text ends.
  std::string generate(GrammarMatcher& matcher, std::mt19937& random, std::size_t max_tokens) {
    Detokenizer detokenizer(tokenizer_, /*skip_special=*/true);
    std::string text;
    for (std::size_t token_idx = 0; token_idx < max_tokens; ++token_idx) {
      const std::vector<bool> allowed = mask(matcher);
      std::vector<TokenId> ids;
      for (std::size_t id = 0; id < kVocabSize; ++id) {
        if (allowed[id]) ids.push_back(static_cast<TokenId>(id));
      }
      if (ids.empty() || allowed[kEnd]) return text + detokenizer.finish();
      const TokenId id = ids[random() % ids.size()];
      EXPECT_EQ(*matcher.accept({&id, 1}), 1u);
      text += detokenizer.feed(id);
    }
    return text + "...";
  }
};

constexpr std::string_view kSchema = R"({"type": "object", "properties": {"city": {"type": "string", "maxLength": 8},
    "days": {"type": "integer", "minimum": 1, "maximum": 14}}, "required": ["city", "days"],
    "additionalProperties": false})";

TEST_F(Grammar, TakesWhatItDescribes) {
  EXPECT_TRUE(takes(GrammarKind::kJsonSchema, kSchema, R"({"city": "Oslo", "days": 14})"));
  EXPECT_FALSE(takes(GrammarKind::kJsonSchema, kSchema, R"({"city": "Oslo", "days": 15})"));
  EXPECT_FALSE(takes(GrammarKind::kJsonSchema, kSchema, R"({"city": "Oslo"})"));
  EXPECT_FALSE(takes(GrammarKind::kJsonSchema, kSchema, R"({"city": "Oslo", "days": 1, "x": 1})"));
  EXPECT_TRUE(takes(GrammarKind::kJsonObject, "", R"({"a": [1, {"b": null}], "c": "é\n"})"));
  EXPECT_FALSE(takes(GrammarKind::kJsonObject, "", "[1]"));
  EXPECT_TRUE(takes(GrammarKind::kRegex, "[a-f]+(/[0-9]{2})?", "cafe/42"));
  EXPECT_FALSE(takes(GrammarKind::kRegex, "[a-f]+(/[0-9]{2})?", "cafe/4"));
  EXPECT_TRUE(takes(GrammarKind::kChoice, R"x(["yes", "no, (really?)", "1+1"])x", "no, (really?)"));
  EXPECT_TRUE(takes(GrammarKind::kChoice, R"x(["yes", "no, (really?)", "1+1"])x", "1+1"));
  EXPECT_FALSE(takes(GrammarKind::kChoice, R"x(["yes", "no, (really?)", "1+1"])x", "11"));
  EXPECT_FALSE(takes(GrammarKind::kChoice, R"(["yes", "no"])", "yesno"));
  EXPECT_TRUE(takes(GrammarKind::kLark, "start: \"a\" start \"b\" | \"c\"", "aacbb"));
  EXPECT_FALSE(takes(GrammarKind::kLark, "start: \"a\" start \"b\" | \"c\"", "aacb"));
}

TEST_F(Grammar, MasksLeadOnlyToWhatItDescribes) {
  std::mt19937 random(3);
  for (int round = 0; round < 20; ++round) {
    GrammarMatcher matcher = factory_.make_matcher(GrammarKind::kJsonSchema, kSchema).value();
    const std::string text = generate(matcher, random, 200);
    const nlohmann::json json = nlohmann::json::parse(text, nullptr, false);
    ASSERT_TRUE(json.is_object()) << text;
    EXPECT_TRUE(json["city"].is_string()) << text;
    EXPECT_GE(json["days"].get<int>(), 1) << text;
    EXPECT_LE(json["days"].get<int>(), 14) << text;
  }
}

TEST_F(Grammar, MaskIsExactlyWhatAcceptTakes) {
  GrammarMatcher matcher = factory_.make_matcher(GrammarKind::kRegex, "(ab|ac|中)d*").value();
  const std::vector<bool> allowed = mask(matcher);
  for (TokenId id = 0; id < static_cast<TokenId>(kVocabSize); ++id) {
    const std::size_t num_accepted = *matcher.accept({&id, 1});
    EXPECT_EQ(num_accepted, allowed[static_cast<std::size_t>(id)] ? 1u : 0u) << id << tokenizer_.token_bytes(id);
    ASSERT_TRUE(matcher.rollback(num_accepted).ok());
  }
  for (std::size_t id = kVocabSize; id < allowed.size(); ++id) EXPECT_FALSE(allowed[id]);
}

TEST_F(Grammar, EndsWithTheEndToken) {
  GrammarMatcher matcher = factory_.make_matcher(GrammarKind::kChoice, R"(["a"])").value();
  EXPECT_FALSE(*matcher.is_accepting());
  EXPECT_FALSE(mask(matcher)[kEnd]);
  const TokenId a = *tokenizer_.token_to_id("a");
  EXPECT_EQ(*matcher.accept({&a, 1}), 1u);
  EXPECT_TRUE(*matcher.is_accepting());
  const std::vector<bool> allowed = mask(matcher);
  EXPECT_EQ(std::count(allowed.begin(), allowed.end(), true), 1);
  EXPECT_TRUE(allowed[kEnd]);
  EXPECT_EQ(*matcher.accept({&a, 1}), 0u);  // refused, and nothing is lost
  EXPECT_TRUE(matcher.is_stopped());
  ASSERT_TRUE(matcher.rollback(1).ok());
  EXPECT_FALSE(*matcher.is_accepting());
  EXPECT_TRUE(mask(matcher)[static_cast<std::size_t>(a)]);
}

TEST_F(Grammar, AddedTokensAreNoText) {
  GrammarMatcher matcher = factory_.make_matcher(GrammarKind::kRegex, "(?s:.*)").value();
  const std::vector<bool> allowed = mask(matcher);
  EXPECT_TRUE(allowed[*tokenizer_.token_to_id("<")]);
  EXPECT_TRUE(allowed[kEnd]);
  for (const char* added : {"<think>", "<tool_call>", "<|im_start|>", "<|endoftext|>"}) {
    EXPECT_FALSE(allowed[static_cast<std::size_t>(*tokenizer_.token_to_id(added))]) << added;
  }
}

// Where only one text can follow, the mask has one token of it, which may not be an added one.
TEST_F(Grammar, TheTextOfAnAddedTokenIsSpelt) {
  GrammarMatcher matcher = factory_.make_matcher(GrammarKind::kLark, "start: \"<think>x\"").value();
  std::string text;
  for (int i = 0; i < 20 && !matcher.is_stopped(); ++i) {
    const std::vector<bool> allowed = mask(matcher);
    const auto id = static_cast<TokenId>(std::ranges::find(allowed, true) - allowed.begin());
    ASSERT_EQ(*matcher.accept({&id, 1}), 1u) << "after " << text;
    text += tokenizer_.token_bytes(id);
  }
  EXPECT_EQ(text, "<think>x");
}

TEST_F(Grammar, RollsBack) {
  GrammarMatcher matcher = factory_.make_matcher(GrammarKind::kJsonSchema, kSchema).value();
  const std::vector<bool> first = mask(matcher);
  const std::vector<TokenId> ids = *tokenizer_.encode(R"({"city": "Oslo", "days")");
  for (const TokenId id : ids) ASSERT_EQ(*matcher.accept({&id, 1}), 1u);
  EXPECT_EQ(*matcher.accept(*tokenizer_.encode("] }")), 0u);
  ASSERT_TRUE(matcher.rollback(ids.size()).ok());
  EXPECT_EQ(mask(matcher), first);
  EXPECT_EQ(*matcher.accept(ids), ids.size());
  EXPECT_THAT(matcher.rollback(ids.size() + 1).message(), HasSubstr("rollback"));
}

TEST_F(Grammar, BadGrammarsAreErrors) {
  const auto message = [&](GrammarKind kind, std::string_view text) {
    const Result<GrammarMatcher> matcher = factory_.make_matcher(kind, text);
    return matcher.ok() ? std::string("no error") : matcher.message();
  };
  EXPECT_THAT(message(GrammarKind::kJsonSchema, "{"), HasSubstr("not JSON"));
  EXPECT_THAT(message(GrammarKind::kJsonSchema, R"({"type": "elephant"})"), HasSubstr("elephant"));
  EXPECT_THAT(message(GrammarKind::kJsonSchema, R"({"$ref": "http://example.com/schema"})"), HasSubstr("$ref"));
  EXPECT_THAT(message(GrammarKind::kJsonSchema, R"({"$ref": "#/nowhere"})"), HasSubstr("nowhere"));
  EXPECT_THAT(message(GrammarKind::kJsonSchema, R"({"type": "string", "pattern": "("})"), HasSubstr("regex"));
  EXPECT_THAT(message(GrammarKind::kJsonSchema, R"({"type": "integer", "minimum": 5, "maximum": 4})"), HasSubstr("4"));
  EXPECT_THAT(message(GrammarKind::kRegex, "("), HasSubstr("regex"));
  EXPECT_THAT(message(GrammarKind::kRegex, "a(?=b)"), HasSubstr("look"));
  EXPECT_THAT(message(GrammarKind::kChoice, "[]"), HasSubstr("empty"));
  EXPECT_THAT(message(GrammarKind::kChoice, "[1]"), HasSubstr("list of texts"));
  EXPECT_THAT(message(GrammarKind::kLark, "start: nothing"), HasSubstr("nothing"));
  EXPECT_THAT(message(GrammarKind::kLark, ""), HasSubstr("grammar"));
  EXPECT_THAT(message(GrammarKind::kRegex, std::string(2 << 20, 'a')), HasSubstr("at most"));
  EXPECT_THAT(message(GrammarKind::kRegex, "\xFF"), HasSubstr("not UTF-8"));
}

TEST_F(Grammar, BadIdsAndMasksAreErrors) {
  GrammarMatcher matcher = factory_.make_matcher(GrammarKind::kJsonObject, "").value();
  EXPECT_THAT(matcher.accept(std::vector<TokenId>{-1}).message(), HasSubstr("outside"));
  EXPECT_THAT(matcher.accept(std::vector<TokenId>{static_cast<TokenId>(kVocabSize)}).message(), HasSubstr("outside"));
  std::vector<std::uint32_t> words(3);
  EXPECT_THAT(matcher.compute_mask(words).message(), HasSubstr("3 words"));
  EXPECT_TRUE(mask(matcher)[static_cast<std::size_t>(*tokenizer_.token_to_id("{"))]);  // still usable
  EXPECT_FALSE(GrammarFactory::make(tokenizer_, {}, kVocabSize).ok());
  EXPECT_FALSE(GrammarFactory::make(tokenizer_, std::vector<TokenId>{-1}, kVocabSize).ok());
  EXPECT_FALSE(GrammarFactory::make(tokenizer_, std::vector<TokenId>{3000}, kVocabSize).ok());
  EXPECT_FALSE(GrammarFactory::make(tokenizer_, std::vector<TokenId>{kEnd}, 100).ok());
}

// Grammars that would cost without bound: an error now, or a matcher whose steps end.
TEST_F(Grammar, BombsEnd) {
  std::string deep = "{}";
  for (int depth = 0; depth < 60; ++depth) deep = R"({"type": "array", "items": )" + deep + "}";
  std::string wide = R"({"anyOf": [{"type": "null"})";
  for (int idx = 0; idx < 3000; ++idx)
    wide += R"(, {"type": "object", "properties": {"k)" + std::to_string(idx) + R"(": {}}})";
  std::string product = R"({"allOf": [)";
  for (int idx = 0; idx < 12; ++idx) {
    product += std::string(idx == 0 ? "" : ",") + R"({"anyOf": [{"type": "object"}, {"minLength": )" +
               std::to_string(idx) + R"(}, {"maximum": )" + std::to_string(idx) + "}]}";
  }
  const std::pair<GrammarKind, std::string> bombs[] = {
      {GrammarKind::kRegex, "((((a{1000}){1000}){1000}){1000})"},
      {GrammarKind::kRegex, "(.*a){200}b{0,100000}"},
      {GrammarKind::kRegex, "(?:a?){5000}a{5000}"},
      {GrammarKind::kRegex, "[^x]*x.{1000}[a-z]{500}|.*y.{900}"},
      {GrammarKind::kRegex, std::string(100'000, '(')},
      {GrammarKind::kRegex, std::string(100'000, '(') + std::string(100'000, ')')},
      {GrammarKind::kRegex, "\\p{L}{1,100000}"},
      {GrammarKind::kJsonSchema, R"({"type": "array", "minItems": 1000000000})"},
      {GrammarKind::kJsonSchema,
       R"({"type": "array", "items": {"type": "array", "minItems": 30000}, "minItems": 30000})"},
      {GrammarKind::kJsonSchema, R"({"type": "string", "minLength": 1000000000})"},
      {GrammarKind::kJsonSchema, R"({"type": "integer", "multipleOf": 99999989})"},
      {GrammarKind::kJsonSchema, R"({"$ref": "#"})"},
      {GrammarKind::kJsonSchema, R"({"allOf": [{"$ref": "#"}, {"$ref": "#"}]})"},
      {GrammarKind::kJsonSchema, R"({"anyOf": [{"$ref": "#"}, {"type": "array", "items": {"$ref": "#"}}]})"},
      {GrammarKind::kJsonSchema, deep},
      {GrammarKind::kJsonSchema, wide + "]}"},
      {GrammarKind::kJsonSchema, product + "]}"},
      {GrammarKind::kJsonSchema, std::string(1 << 20, '[')},
      {GrammarKind::kLark, "start: " + std::string(100'000, '(')},
      {GrammarKind::kLark, "start: start start | \"a\" | \"\""},
      {GrammarKind::kLark, "start: a\na: b b b b b b b b\nb: a | \"x\"?"},
  };
  for (const auto& [kind, text] : bombs) {
    Result<GrammarMatcher> matcher = factory_.make_matcher(kind, text);
    if (!matcher.ok()) continue;
    std::vector<std::uint32_t> words(factory_.mask_words());
    const std::vector<TokenId> ids = *tokenizer_.encode("aaaaaaaaxxxx[[[[");
    for (const TokenId id : ids) {
      if (!matcher->compute_mask(words).ok() || !matcher->accept({&id, 1}).ok()) break;
    }
  }
}

}  // namespace
}  // namespace qnext
