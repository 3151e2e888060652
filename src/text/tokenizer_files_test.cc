// Files that are broken, hostile, or of another family: every one is an error that says what is wrong.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <ostream>

#include "text/test_data.h"
#include "text/tokenizer.h"
#include "text/tokenizer_config.h"

namespace qnext {
namespace {

using ::testing::HasSubstr;

struct BadFile {
  const char* name;
  std::function<void(nlohmann::json&)> spoil;
  const char* expected;  // in the message
};
void PrintTo(const BadFile& file, std::ostream* out) {
  *out << file.name;
}

class BadTokenizerJson : public ::testing::TestWithParam<BadFile> {};

TEST_P(BadTokenizerJson, IsAnError) {
  nlohmann::json json = read_json("tokenizer-small/tokenizer.json");
  GetParam().spoil(json);
  const Result<Tokenizer> tokenizer = Tokenizer::from_json(json.dump());
  ASSERT_FALSE(tokenizer.ok());
  EXPECT_THAT(tokenizer.message(), HasSubstr(GetParam().expected));
}

INSTANTIATE_TEST_SUITE_P(
    Files, BadTokenizerJson,
    ::testing::Values(
        BadFile{"NoModel", [](auto& j) { j.erase("model"); }, "model"},
        BadFile{"OtherModel", [](auto& j) { j["model"]["type"] = "Unigram"; }, "model.type: expected \"BPE\""},
        BadFile{"Dropout", [](auto& j) { j["model"]["dropout"] = 0.1; }, "model.dropout"},
        BadFile{"Prefix", [](auto& j) { j["model"]["continuing_subword_prefix"] = "##"; }, "continuing_subword_prefix"},
        BadFile{"MissingByte", [](auto& j) { j["model"]["vocab"].erase("Ġ"); }, "byte 0x20"},
        BadFile{"MergeOfNothing",
                [](auto& j) {
                  j["model"]["merges"][0] = {"Ġ", "nowhere"};
                },
                "merge 0"},
        BadFile{"MergeOfThree",
                [](auto& j) {
                  j["model"]["merges"][0] = {"a", "b", "c"};
                },
                "more than two"},
        BadFile{"MergeOfOne", [](auto& j) { j["model"]["merges"][0] = "ab"; }, "one space"},
        BadFile{"HugeId", [](auto& j) { j["model"]["vocab"]["!"] = 4294967295u; }, "out of range"},
        BadFile{"HugeAddedId", [](auto& j) { j["added_tokens"][0]["id"] = 1 << 30; }, "out of range"},
        BadFile{"NegativeId", [](auto& j) { j["model"]["vocab"]["!"] = -1; }, "invalid value"},
        BadFile{"SharedId", [](auto& j) { j["model"]["vocab"]["!"] = 1; }, "needs its own"},
        BadFile{"TwoIds", [](auto& j) { j["added_tokens"][0]["content"] = "!"; }, "two ids"},
        BadFile{"Normalizer", [](auto& j) { j["normalizer"]["type"] = "Lowercase"; }, "expected NFC or null"},
        BadFile{"Decoder", [](auto& j) { j["decoder"] = nullptr; }, "decoder: expected ByteLevel"},
        BadFile{"NoWords", [](auto& j) { j["pre_tokenizer"] = nullptr; }, "pre_tokenizer"},
        BadFile{"OtherWords", [](auto& j) { j["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "((a*)*)*b"; },
                "Qwen family"},
        BadFile{"PrefixSpace", [](auto& j) { j["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = true; },
                "prefix space"},
        BadFile{"PostProcessor",
                [](auto& j) {
                  j["post_processor"] = {{"type", "Other"}};
                },
                "tokenizer.json"},
        BadFile{"List", [](auto& j) { j = nlohmann::json::array(); }, "tokenizer.json"}),
    [](const auto& test) { return test.param.name; });

TEST(BadTokenizer, TruncatedAtEveryThousandthByte) {
  const std::string json = read_file(data_path("tokenizer-small/tokenizer.json"));
  for (std::size_t num_bytes = 0; num_bytes + 1 < json.size(); num_bytes += 1000) {
    EXPECT_FALSE(Tokenizer::from_json(json.substr(0, num_bytes)).ok());
  }
}

TEST(BadTokenizer, DeepJsonIsAnError) {
  EXPECT_FALSE(Tokenizer::from_json(std::string(1 << 20, '[')).ok());
  EXPECT_FALSE(Tokenizer::from_json("{\"decoder\":" + std::string(1 << 20, '[')).ok());
}

TEST(BadVocabulary, IsAnError) {
  const auto message = [](const std::function<void(Vocabulary&)>& spoil) {
    Vocabulary vocabulary = gguf_vocabulary();
    spoil(vocabulary);
    const Result<Tokenizer> tokenizer = Tokenizer::from_vocabulary(vocabulary);
    return tokenizer.ok() ? std::string("no error") : tokenizer.message();
  };
  EXPECT_THAT(message([](auto& v) { v.pre = "gpt-2"; }), HasSubstr("qwen2"));
  EXPECT_THAT(message([](auto& v) { v.token_types.pop_back(); }), HasSubstr("found 2047"));
  EXPECT_THAT(message([](auto& v) { v.token_types[7] = 6; }), HasSubstr("token_type[7]"));
  EXPECT_THAT(message([](auto& v) { v.tokens[1] = v.tokens[0]; }), HasSubstr("tokens[1]"));
  EXPECT_THAT(message([](auto& v) { v.tokens[2040] = v.tokens[0]; }), HasSubstr("two ids"));
  EXPECT_THAT(message([](auto& v) { v.tokens[0] = "\xFF"; }), HasSubstr("not UTF-8"));
  EXPECT_THAT(message([](auto& v) { v.merges[0] = "a b c"; }), HasSubstr("one space"));
  EXPECT_THAT(message([](auto& v) { v.special.eos = 2048; }), HasSubstr("2048"));
  EXPECT_THAT(message([](auto& v) { v.special.pad = -1; }), HasSubstr("-1"));
  EXPECT_THAT(message([](auto& v) { v = {}; }), HasSubstr("unknown"));
  EXPECT_EQ(message([](auto& v) { v.pre = "deepseek-r1-qwen"; }), "no error");
}

TEST(LoadFile, SaysWhatIsMissing) {
  EXPECT_THAT(Tokenizer::load_file("/nowhere/tokenizer.json").message(), HasSubstr("/nowhere/tokenizer.json"));
  EXPECT_FALSE(Tokenizer::load_file("/").ok());
}

TEST(TokenizerConfig, ReadsTokensAndTemplates) {
  const TokenizerConfig config = parse_tokenizer_config(R"({
      "bos_token": null, "eos_token": "<|im_end|>", "pad_token": {"content": "<|endoftext|>", "special": true},
      "add_bos_token": false,
      "chat_template": [{"name": "tool_use", "template": "a"}, {"name": "default", "template": "b"}]})",
                                                        "config")
                                     .value();
  EXPECT_EQ(config.bos_token, std::nullopt);
  EXPECT_EQ(config.eos_token, "<|im_end|>");
  EXPECT_EQ(config.pad_token, "<|endoftext|>");
  EXPECT_EQ(config.add_bos_token, false);
  EXPECT_EQ(config.chat_template, "b");
  EXPECT_EQ(parse_tokenizer_config("{}", "config").value().chat_template, std::nullopt);
}

TEST(TokenizerConfig, RefusesOtherTypes) {
  for (const char* json : {"", "[]", R"({"eos_token": 7})", R"({"add_bos_token": "yes"})", R"({"chat_template": 1})",
                           R"({"chat_template": [{"name": "tool_use", "template": "a"}]})"}) {
    const Result<TokenizerConfig> config = parse_tokenizer_config(json, "the file");
    ASSERT_FALSE(config.ok()) << json;
    EXPECT_THAT(config.message(), HasSubstr("the file"));
  }
}

TEST(TokenizerConfig, TheTemplateFileGoesFirst) {
  const TokenizerConfig config = load_tokenizer_config(data_path("tokenizer-small")).value();
  EXPECT_EQ(config.chat_template, read_file(data_path("tokenizer-small/chat_template.jinja")));
  EXPECT_EQ(config.eos_token, "<|im_end|>");
  EXPECT_EQ(load_tokenizer_config("/nowhere").value().eos_token, std::nullopt);
}

}  // namespace
}  // namespace qnext
