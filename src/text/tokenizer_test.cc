#include "text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "text/test_data.h"

namespace qnext {
namespace {

using ::testing::HasSubstr;

// Every text of golden/text/tokenize.json: ids and the decoded text, byte for byte.
void expect_golden(const Tokenizer& tokenizer, const char* part) {
  const nlohmann::json cases = read_json("tokenize.json")[part];
  ASSERT_EQ(cases.size(), 200u);
  for (const nlohmann::json& c : cases) {
    const std::string text = c["text"];
    const Result<std::vector<TokenId>> ids = tokenizer.encode(text);
    ASSERT_TRUE(ids.ok()) << ids.message();
    EXPECT_EQ(*ids, c["ids"].get<std::vector<TokenId>>()) << text;
    EXPECT_EQ(*tokenizer.decode(*ids), c["decoded"].get<std::string>()) << text;
  }
}

TEST(Tokenizer, SmallMatchesTransformers) {
  expect_golden(small_tokenizer(), "small");
}

TEST(Tokenizer, SmallFromGgufMatchesTransformers) {
  expect_golden(Tokenizer::from_vocabulary(gguf_vocabulary()).value(), "small");
}

class Qwen3Tokenizer : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(qwen3_tokenizer_path())) {
      GTEST_SKIP() << qwen3_tokenizer_path() << " is not there: scripts/setup.sh downloads it";
    }
  }
};

TEST_F(Qwen3Tokenizer, MatchesTransformers) {
  expect_golden(Tokenizer::load_file(qwen3_tokenizer_path()).value(), "qwen3");
}

TEST_F(Qwen3Tokenizer, SurvivesTheWayThroughGguf) {
  const Tokenizer tokenizer = Tokenizer::load_file(qwen3_tokenizer_path()).value();
  EXPECT_EQ(tokenizer.vocab_size(), 151669u);
  const Vocabulary vocabulary = tokenizer.vocabulary(151936).value();
  EXPECT_EQ(vocabulary.tokens.size(), 151936u);
  EXPECT_EQ(vocabulary.tokens.back(), "[PAD151935]");
  EXPECT_EQ(vocabulary.token_types.back(), 5);
  EXPECT_EQ(vocabulary.token_types[151659], 3);  // <|fim_prefix|>: not special, but looks it
  EXPECT_EQ(vocabulary.token_types[151667], 4);  // <think>
  EXPECT_EQ(vocabulary.merges.size(), 151387u);
  EXPECT_EQ(vocabulary.merges[2], "i n");
  const Tokenizer back = Tokenizer::from_vocabulary(vocabulary).value();
  EXPECT_EQ(back.vocab_size(), 151669u);
  expect_golden(back, "qwen3");
}

TEST(Tokenizer, WritesTheVocabularyThatLlamaCppWrites) {
  const Vocabulary expected = gguf_vocabulary();
  const Vocabulary found = small_tokenizer().vocabulary(2048).value();
  EXPECT_EQ(found.pre, expected.pre);
  EXPECT_EQ(found.tokens, expected.tokens);
  EXPECT_EQ(found.token_types, expected.token_types);
  EXPECT_EQ(found.merges, expected.merges);
  EXPECT_EQ(found.special.bos, expected.special.bos);
  EXPECT_EQ(found.special.eos, expected.special.eos);
  EXPECT_EQ(found.special.pad, expected.special.pad);
  EXPECT_EQ(found.add_bos, expected.add_bos);
}

TEST(Tokenizer, PadsTheVocabularyToTheModel) {
  const Tokenizer tokenizer = small_tokenizer();
  const Vocabulary padded = tokenizer.vocabulary(2050).value();
  EXPECT_EQ(padded.tokens[2049], "[PAD2049]");
  EXPECT_EQ(padded.token_types[2049], 5);
  const Tokenizer back = Tokenizer::from_vocabulary(padded).value();
  EXPECT_EQ(back.vocab_size(), 2048u);
  EXPECT_EQ(back.token_bytes(2049), "");
  EXPECT_THAT(tokenizer.vocabulary(2047).message(), HasSubstr("2047"));
  EXPECT_FALSE(tokenizer.vocabulary(std::size_t{1} << 40).ok());
}

TEST(Tokenizer, SpecialTokensInTextAreTokensOrText) {
  const Tokenizer tokenizer = small_tokenizer();
  const std::string text = "<|im_start|>user\nhi<|im_end|><think>";
  const std::vector<TokenId> parsed = *tokenizer.encode(text);
  EXPECT_EQ(parsed.front(), 2040);
  EXPECT_EQ(parsed.back(), 2046);
  EXPECT_EQ(std::count(parsed.begin(), parsed.end(), 2041), 1);
  const std::vector<TokenId> plain = *tokenizer.encode(text, {.parse_special = false});
  EXPECT_EQ(std::count(plain.begin(), plain.end(), 2040), 0);
  EXPECT_EQ(std::count(plain.begin(), plain.end(), 2041), 0);
  EXPECT_EQ(plain.back(), 2046);  // not a special token: always a token
  EXPECT_EQ(*tokenizer.decode(plain), text);
  EXPECT_EQ(*tokenizer.decode(parsed, /*skip_special=*/true), "user\nhi<think>");
}

TEST(Tokenizer, TokensByIdAndByText) {
  const Tokenizer tokenizer = small_tokenizer();
  EXPECT_EQ(tokenizer.vocab_size(), 2048u);
  EXPECT_EQ(tokenizer.token_bytes(220), " ");
  EXPECT_EQ(tokenizer.token_bytes(2046), "<think>");
  EXPECT_EQ(tokenizer.token_bytes(2048), "");
  EXPECT_EQ(tokenizer.token_bytes(-1), "");
  EXPECT_TRUE(tokenizer.is_special(2041));
  EXPECT_FALSE(tokenizer.is_special(2046));
  EXPECT_FALSE(tokenizer.is_special(-1));
  EXPECT_EQ(tokenizer.token_to_id("<|im_end|>"), 2041);
  EXPECT_EQ(tokenizer.token_to_id(" "), 220);
  EXPECT_EQ(tokenizer.token_to_id("\n"), 198);
  EXPECT_EQ(tokenizer.token_to_id("no such token"), std::nullopt);
  EXPECT_EQ(tokenizer.token_to_id("\xFF"), std::nullopt);
  EXPECT_EQ(tokenizer.special_ids().eos, 2041);
  EXPECT_EQ(tokenizer.special_ids().pad, 2039);
  EXPECT_EQ(tokenizer.special_ids().bos, std::nullopt);
}

TEST(Tokenizer, DecodesBytesThatAreNoText) {
  const Tokenizer tokenizer = small_tokenizer();
  const std::vector<TokenId> euro = *tokenizer.encode("€");
  ASSERT_GT(euro.size(), 1u);
  EXPECT_EQ(*tokenizer.decode(std::span(euro).first(1)), "\xEF\xBF\xBD");
  EXPECT_EQ(*tokenizer.decode(std::vector<TokenId>{3000, 220, 1'000'000'000}), " ");
  EXPECT_THAT(tokenizer.decode(std::vector<TokenId>{-7}).message(), HasSubstr("-7"));
  EXPECT_THAT(tokenizer.encode("ab\xFFz").message(), HasSubstr("offset 2"));
}

TEST(Tokenizer, BeginsATextWhereTheFileSaysSo) {
  Vocabulary vocabulary = gguf_vocabulary();
  vocabulary.add_bos = true;
  EXPECT_THAT(Tokenizer::from_vocabulary(vocabulary).message(), HasSubstr("bos_token_id"));
  vocabulary.special.bos = 2039;
  const Tokenizer tokenizer = Tokenizer::from_vocabulary(vocabulary).value();
  EXPECT_EQ(*tokenizer.encode(" ", {.add_special = true}), (std::vector<TokenId>{2039, 220}));
  EXPECT_EQ(*tokenizer.encode(" "), (std::vector<TokenId>{220}));

  nlohmann::json json = read_json("tokenizer-small/tokenizer.json");
  json["post_processor"]["single"] = nlohmann::json::parse(R"([
      {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}])");
  json["post_processor"]["special_tokens"] = nlohmann::json::parse(
      R"({"<|endoftext|>": {"id": "<|endoftext|>", "ids": [2039], "tokens": ["<|endoftext|>"]}})");
  const Tokenizer from_json = Tokenizer::from_json(json.dump()).value();
  EXPECT_EQ(*from_json.encode(" ", {.add_special = true}), (std::vector<TokenId>{2039, 220}));
  EXPECT_EQ(*from_json.encode(" "), (std::vector<TokenId>{220}));
}

TEST(Tokenizer, LongRunsOfWhiteSpaceStayWhole) {
  const Tokenizer tokenizer = small_tokenizer();
  const std::string text = std::string(3 << 18, ' ') + "x";
  EXPECT_EQ(*tokenizer.decode(*tokenizer.encode(text)), text);
}

}  // namespace
}  // namespace qnext
