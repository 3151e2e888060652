#include "apps/convert.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "apps/command.h"
#include "apps/convert_text.h"
#include "tensor/file_test_util.h"
#include "tensor/safetensors.h"
#include "text/tokenizer.h"

namespace qnext {
namespace {

using test::TempFolder;
using ::testing::HasSubstr;
namespace fs = std::filesystem;

std::string golden(const std::string& relative) {
  return std::string(QNEXT_SOURCE_DIR) + "/tests/data/golden/" + relative;
}
const std::string kQuantised = "next-gguf/next-Q4_K_M.gguf";

// Runs `qnext convert ARGUMENTS`; its result, or the error's text in `message`.
ExitCode run(std::vector<std::string> arguments, std::string* message = nullptr) {
  CLI::App root;
  Action action;
  add_convert_command(root, action);
  arguments.insert(arguments.begin(), "convert");
  std::reverse(arguments.begin(), arguments.end());  // as CLI11 takes them
  root.parse(arguments);
  const Result<ExitCode> result = action();
  if (result.ok()) return *result;
  if (message != nullptr) *message = result.message();
  return ExitCode::kFailed;
}

TEST(ConvertOptions, TypesAreTheListedOnesInAnyCase) {
  EXPECT_EQ(*parse_export_type("Q4_K", gguf_export_types()), DType::kQ4_K);
  const auto unknown = parse_export_type("q4_k_m", gguf_export_types());
  ASSERT_FALSE(unknown.ok());
  EXPECT_THAT(unknown.message(), HasSubstr("\"q4_k_m\": expected one of f32, f16, bf16, q8_0"));
  EXPECT_FALSE(parse_export_type("f8_e4m3", gguf_export_types()).ok());  // readable, not writable
  EXPECT_FALSE(parse_export_type("q8_0", safetensors_export_types()).ok());
}

TEST(ConvertOptions, OverridesAreARegexAndAType) {
  const auto fine = parse_type_override("blk\\.(1|2)\\.=Q6_K");
  ASSERT_TRUE(fine.ok()) << fine.message();
  EXPECT_EQ(fine->type, DType::kQ6_K);
  EXPECT_TRUE(fine->pattern.matches("blk.2.attn_q.weight"));
  EXPECT_FALSE(fine->pattern.matches("blk.3.attn_q.weight"));
  EXPECT_THAT(parse_type_override("ffn").message(), HasSubstr("expected REGEX=TYPE"));
  EXPECT_THAT(parse_type_override("=q6_k").message(), HasSubstr("expected REGEX=TYPE"));
  EXPECT_THAT(parse_type_override("(=q6_k").message(), HasSubstr("not an extended regular expression"));
  EXPECT_THAT(parse_type_override("ffn=q9").message(), HasSubstr("\"q9\": expected one of"));
}

TEST(ConvertOptions, WhatDoesNotGoTogetherIsWrongUsage) {
  const TempFolder out;
  const std::string gguf = (out.path() / "a.gguf").string();
  const std::string folder = (out.path() / "a").string();
  EXPECT_EQ(run({golden("next-tiny"), gguf, "--type", "q7"}), ExitCode::kUsage);
  EXPECT_EQ(run({golden("next-tiny"), gguf, "--imatrix", "x.dat"}), ExitCode::kUsage);
  EXPECT_EQ(run({golden("next-tiny"), gguf, "--tensor-type", "ffn"}), ExitCode::kUsage);
  EXPECT_EQ(run({golden(kQuantised), folder, "--type", "q8_0"}), ExitCode::kUsage);
  EXPECT_EQ(run({golden(kQuantised), folder, "--tensor-type", "ffn=f16"}), ExitCode::kUsage);
  EXPECT_EQ(run({golden(kQuantised), folder + ".safetensors"}), ExitCode::kUsage);
  EXPECT_EQ(run({golden(kQuantised), gguf, "--name", "x"}), ExitCode::kUsage);
  EXPECT_EQ(out.num_files(), 0u);
}

TEST(ConvertDestination, RefusesTheSourceAndWhatIsThere) {
  const TempFolder folder;
  const std::string source = folder.write("source.gguf", "x").string();
  const std::string other = folder.write("other.gguf", "x").string();
  const std::string shard = folder.write("model.safetensors", "x").string();
  const std::string here = folder.path().string();
  EXPECT_THAT(check_destination(source, {source}, true, true).message(), HasSubstr("is the source itself"));
  EXPECT_THAT(check_destination(here + "/./source.gguf", {source}, true, true).message(), HasSubstr("source itself"));
  EXPECT_THAT(check_destination(here, {shard}, false, true).message(), HasSubstr("is the source itself"));
  EXPECT_THAT(check_destination(other, {source}, true, false).message(), HasSubstr("is there already"));
  EXPECT_TRUE(check_destination(other, {source}, true, true).ok());
  EXPECT_THAT(check_destination(here, {source}, false, false).message(), HasSubstr("is there already"));
  EXPECT_TRUE(check_destination(here, {source}, false, true).ok());
  EXPECT_THAT(check_destination(here, {source}, true, true).message(), HasSubstr("expected a file, found a folder"));
  EXPECT_THAT(check_destination(other, {source}, false, true).message(), HasSubstr("expected a folder, found a file"));
  EXPECT_TRUE(check_destination(here + "/new.gguf", {source}, true, false).ok());
}

TEST(Convert, GgufToSafetensorsAndBackKeepsTextAndTensors) {
  const TempFolder out;
  const std::string folder = (out.path() / "folder").string();
  const std::string gguf = (out.path() / "again.gguf").string();
  ASSERT_EQ(run({golden(kQuantised), folder, "--type", "f32"}), ExitCode::kDone);
  ASSERT_EQ(run({folder, gguf, "--type", "f32", "--name", "again"}), ExitCode::kDone);
  const auto before = Gguf::open(golden(kQuantised));
  const auto after = Gguf::open(gguf);
  ASSERT_TRUE(after.ok()) << after.message();
  EXPECT_EQ(*after->get_string("general.name"), "again");
  std::size_t num_text_keys = 0;
  for (const GgufKv& kv : before->metadata()) {
    if (!kv.key.starts_with("tokenizer.")) continue;
    ++num_text_keys;
    const GgufValue* value = after->find(kv.key);
    ASSERT_NE(value, nullptr) << kv.key;
    ASSERT_EQ(value->payload.size(), kv.value.payload.size()) << kv.key;
    EXPECT_EQ(std::memcmp(value->payload.data(), kv.value.payload.data(), value->payload.size()), 0) << kv.key;
  }
  EXPECT_GE(num_text_keys, 8u);
  EXPECT_EQ(after->tensors().size(), before->tensors().size());

  EXPECT_TRUE(Tokenizer::load_file(folder + "/tokenizer.json").ok());
  std::string message;
  EXPECT_EQ(run({golden(kQuantised), folder}, &message), ExitCode::kFailed);
  EXPECT_THAT(message, HasSubstr("--force"));
}

TEST(Convert, SafetensorsInAnotherTypeTakeTheirFilesAlong) {
  const TempFolder out;
  const std::string folder = (out.path() / "f32").string();
  ASSERT_EQ(run({golden("next-tiny"), folder, "--type", "f32"}), ExitCode::kDone);
  const auto before = Safetensors::open(golden("next-tiny"));
  const auto after = Safetensors::open(folder);
  ASSERT_TRUE(after.ok()) << after.message();
  ASSERT_EQ(after->tensors().size(), before->tensors().size());
  for (const TensorEntry& tensor : after->tensors()) EXPECT_EQ(tensor.type, DType::kF32) << tensor.name;
  EXPECT_TRUE(fs::exists(folder + "/config.json"));
}

TEST(Convert, FailuresLeaveNothingBehind) {
  const TempFolder out;
  std::string message;
  EXPECT_EQ(run({"/no/such", (out.path() / "a.gguf").string()}, &message), ExitCode::kFailed);
  EXPECT_THAT(message, HasSubstr("/no/such"));
  EXPECT_EQ(run({golden("next-tiny"), (out.path() / "a.gguf").string(), "--tensor-type", "nothing=q8_0"}, &message),
            ExitCode::kFailed);
  EXPECT_THAT(message, HasSubstr("matches no matrix"));
  EXPECT_EQ(run({golden("next-tiny"), (out.path() / "no/folder/a.gguf").string()}, &message), ExitCode::kFailed);
  EXPECT_THAT(message, HasSubstr("no/folder"));
  EXPECT_EQ(out.num_files(), 0u);
}

TEST(ConvertText, RefusesATokenizerLargerThanTheModel) {
  const TempFolder out;
  const std::string folder = (out.path() / "folder").string();
  ASSERT_EQ(run({golden(kQuantised), folder}), ExitCode::kDone);
  EXPECT_TRUE(load_text_parts(folder, 2048).ok());
  EXPECT_FALSE(load_text_parts(folder, 2047).ok());
}

TEST(ConvertText, TakesIdsAndSamplingFromTheConfigs) {
  const TempFolder out;
  const std::string folder = (out.path() / "folder").string();
  ASSERT_EQ(run({golden(kQuantised), folder}), ExitCode::kDone);
  fs::remove(folder + "/tokenizer_config.json");
  fs::remove(folder + "/config.json");
  std::ofstream(folder + "/generation_config.json")
      << R"({"eos_token_id": [2041, 2039], "pad_token_id": 99999, "top_k": 20, "top_p": 0.8, "temperature": "hot"})";
  const auto parts = load_text_parts(folder, 2050);
  ASSERT_TRUE(parts.ok()) << parts.message();
  EXPECT_EQ(parts->vocabulary->special.eos, TokenId{2041});
  EXPECT_EQ(parts->vocabulary->special.pad, std::nullopt);  // beyond the vocabulary
  EXPECT_EQ(parts->vocabulary->tokens.size(), 2050u);
  EXPECT_EQ(parts->sampling.top_k, 20u);
  EXPECT_EQ(parts->sampling.top_p, 0.8f);
  EXPECT_EQ(parts->sampling.temperature, std::nullopt);
  std::ofstream(folder + "/generation_config.json") << "[1, 2";
  EXPECT_THAT(load_text_parts(folder, 2050).message(), HasSubstr("generation_config.json: expected a JSON object"));
}

TEST(ConvertText, SaysWhyNoTokenizerCanBeDerived) {
  GgufHeader header;
  const std::vector<std::string_view> texts = {"a"};
  const std::vector<std::int32_t> types = {1};
  header.add_strings("tokenizer.ggml.tokens", texts);
  header.add_i32s("tokenizer.ggml.token_type", types);
  header.add_strings("tokenizer.ggml.merges", {});
  header.add_string("tokenizer.ggml.pre", "llama-bpe");
  const auto encoded = header.encode();
  const auto file = Gguf::parse(encoded->bytes, "header");
  ASSERT_TRUE(file.ok()) << file.message();
  const auto side_files = make_side_files(*file, {});
  ASSERT_TRUE(side_files.ok()) << side_files.message();
  EXPECT_THAT(side_files->note, HasSubstr("'llama-bpe'"));
  for (const SideFile& side_file : side_files->files) EXPECT_NE(side_file.name, "tokenizer.json");
}

TEST(ConvertText, RefusesMetadataThatContradictsItself) {
  const auto refusal = [](std::string_view token, std::vector<std::int32_t> types) {
    GgufHeader header;
    const std::vector<std::string_view> texts = {token};
    header.add_strings("tokenizer.ggml.tokens", texts);
    header.add_i32s("tokenizer.ggml.token_type", types);
    header.add_strings("tokenizer.ggml.merges", {});
    header.add_string("tokenizer.ggml.pre", "qwen2");
    const auto encoded = header.encode();
    const auto file = Gguf::parse(encoded->bytes, "header");
    const auto side_files = make_side_files(*file, {});
    return side_files.ok() ? std::string() : side_files.message();
  };
  EXPECT_EQ(refusal("a", {1}), "");
  EXPECT_THAT(refusal("a", {1, 1}), HasSubstr("expected 1 entries, one a token, found 2"));
  EXPECT_THAT(refusal("\xff", {1}), HasSubstr("not UTF-8"));
}

}  // namespace
}  // namespace qnext
