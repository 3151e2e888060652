// What inspect and compare print, and the completion scripts.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <limits>

#include "apps/command.h"
#include "apps/compare_report.h"
#include "apps/completions.h"
#include "apps/inspect_report.h"
#include "apps/json_text.h"
#include "tensor/file_test_util.h"

namespace qnext {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

std::string golden(const std::string& relative) {
  return std::string(QNEXT_SOURCE_DIR) + "/tests/data/golden/" + relative;
}

// A config.json of the 80B-A3B model's shape (design/model.md, section 1).
constexpr const char* kConfig80B = R"({
  "model_type": "qwen3_next", "num_hidden_layers": 48, "vocab_size": 151936, "hidden_size": 2048,
  "max_position_embeddings": 262144, "num_attention_heads": 16, "num_key_value_heads": 2, "head_dim": 256,
  "partial_rotary_factor": 0.25, "rope_theta": 10000000, "linear_num_key_heads": 16, "linear_num_value_heads": 32,
  "linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4, "num_experts": 512,
  "num_experts_per_tok": 10, "moe_intermediate_size": 512, "shared_expert_intermediate_size": 512,
  "intermediate_size": 5120, "norm_topk_prob": true, "rms_norm_eps": 1e-6, "tie_word_embeddings": false})";

TEST(Inspect, The80BModelFromItsConfigAlone) {
  const test::TempFolder folder;
  const fs::path config = folder.write("config.json", kConfig80B);
  for (const std::string& path : {folder.path().string(), config.string()}) {
    const ModelReport report = make_model_report(path).value();
    EXPECT_EQ(report.format, "config");
    EXPECT_EQ(report.has_mtp(), std::nullopt);
    const auto json = report_json(report, {4096, 32768, 262144});
    EXPECT_EQ(json["layer_pattern"], "3:1");
    EXPECT_EQ(json["layers"].size(), 48u);
    EXPECT_EQ(json["mtp"], nullptr);
    EXPECT_EQ(json["weights_present"], false);
    ASSERT_EQ(json["memory"].size(), 3u);
    const std::uint64_t state_bytes = 36 * (32 * 128 * 128 + 3 * 8192) * 4;
    const std::uint64_t weight_bytes = 2 * json["parameters"]["total"].get<std::uint64_t>();
    for (std::size_t i = 0; i < 3; ++i) {
      const auto& line = json["memory"][i];
      const std::uint64_t kv_bytes = std::uint64_t{24 * 1024} << (12 + 3 * i);  // 4K, 32K, 256K tokens of 24 KiB
      EXPECT_EQ(line["kv_bf16_bytes"], kv_bytes);
      EXPECT_EQ(line["kv_f32_bytes"], 2 * kv_bytes);
      EXPECT_EQ(line["kv_i16_bytes"], kv_bytes / 128 * 129);  // a scale a vector of 256
      EXPECT_EQ(line["kv_q8_0_bytes"], kv_bytes / 64 * 34);
      EXPECT_EQ(line["total_q8_0_bytes"], kv_bytes / 64 * 34 + state_bytes + weight_bytes);
      EXPECT_EQ(line["state_bytes"], state_bytes);
      EXPECT_EQ(line["total_bf16_bytes"], kv_bytes + state_bytes + weight_bytes);
    }
    const std::string text = report_text(report, {4096, 32768, 262144});
    EXPECT_THAT(text, HasSubstr("48: 36 Gated DeltaNet + 12 gated attention, 3:1"));
    EXPECT_THAT(text, HasSubstr("79.7 G in all, 3.56 G active"));
    EXPECT_THAT(text, HasSubstr("256K"));
  }
}

TEST(Inspect, CountsAFilesTensors) {
  const ModelReport report = make_model_report(golden("next-gguf/next-Q4_K_M.gguf")).value();
  EXPECT_EQ(report.format, "gguf");
  EXPECT_EQ(report.has_mtp(), true);
  EXPECT_TRUE(report.has_tokenizer);
  std::uint64_t num_elements = 0;
  for (const auto& [type, count] : report.tensor_types) num_elements += count.num_elements;
  EXPECT_EQ(num_elements, count_parameters(report.config).total());
  EXPECT_LT(report.weight_bytes(), fs::file_size(golden("next-gguf/next-Q4_K_M.gguf")));
}

TEST(Inspect, SaysWhatIsWrong) {
  EXPECT_FALSE(make_model_report("/nonexistent").ok());
  const test::TempFolder folder;
  EXPECT_THAT(make_model_report(folder.path().string()).message(), HasSubstr("config.json: No such file"));
  folder.write("config.json", "{}");
  EXPECT_THAT(make_model_report(folder.path().string()).message(), HasSubstr("model_type"));
}

TEST(LayerPattern, IsGivenOnlyWhereThereIsOne) {
  ModelConfig config;
  const auto set = [&](std::string_view layers) {
    config.layers.clear();
    for (char c : layers) {
      config.layers.push_back({.mixer = c == 'a' ? MixerKind::kAttention : MixerKind::kGatedDeltaNet});
    }
    return layer_pattern(config);
  };
  EXPECT_EQ(set("dddaddda"), "3:1");
  EXPECT_EQ(set("dada"), "1:1");
  EXPECT_EQ(set("aaaa"), "");
  EXPECT_EQ(set("dddd"), "");
  EXPECT_EQ(set("ddda"
                "ddad"),
            "");
}

TEST(Compare, PrintsWhatItFound) {
  ModelConfig config;
  config.layers.resize(1);
  config.V = 2;
  LogitComparison logits;
  const std::vector<float> a = {0, 1, 2, 0};
  const std::vector<float> b = {1, 0, 2, 0};
  logits.add({a.data(), {2, 2}}, {b.data(), {2, 2}});
  CompareReport report{.model = "M", .reference = "R", .config = &config};
  report.comparison.logits = logits.finish();
  report.comparison.layers.resize(2);
  report.greedy = {.matched = 3, .total = 4};
  const auto json = compare_json(report);
  for (const char* key : {"mean_kl", "max_kl", "top1_agreement", "max_logit_diff_over_std", "greedy_matched",
                          "greedy_total", "positions", "layers"}) {
    EXPECT_TRUE(json.contains(key)) << key;
  }
  EXPECT_EQ(json["top1_agreement"], 0.5);
  EXPECT_EQ(json["layers"][1]["kind"], "final norm");
  EXPECT_THAT(compare_text(report, false), HasSubstr("3 of 4 the same"));
  EXPECT_THAT(compare_text(report, true), HasSubstr("top-1 agreement    50.00%"));
}

TEST(JsonText, NeverThrows) {
  EXPECT_EQ(json_line({{"path", "a\xFF"}, {"kl", std::numeric_limits<double>::infinity()}}),
            "{\"path\":\"a\xEF\xBF\xBD\",\"kl\":null}\n");
}

TEST(Completions, NameEveryCommandAndOption) {
  CLI::App root("a program", "qnext");
  Action action;
  add_inspect_command(root, action);
  add_bench_command(root, action);
  for (Shell shell : {Shell::kBash, Shell::kZsh, Shell::kFish}) {
    const std::string script = completion_script(root, shell);
    for (const char* word : {"inspect", "bench", "verify", "kv-type"}) EXPECT_THAT(script, HasSubstr(word));
  }
}

}  // namespace
}  // namespace qnext
