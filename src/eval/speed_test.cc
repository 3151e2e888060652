#include "eval/speed.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/thread_pool.h"
#include "eval/work_count.h"
#include "kernels/dispatch.h"

namespace qnext {
namespace {

// The 80B-A3B model (design/model.md, section 1).
ModelConfig config_80b() {
  ModelConfig cfg;
  for (std::size_t i = 0; i < 48; ++i) {
    cfg.layers.push_back({.mixer = (i + 1) % 4 == 0 ? MixerKind::kAttention : MixerKind::kGatedDeltaNet,
                          .feed_forward = FeedForwardKind::kMoe});
  }
  cfg.V = 151936, cfg.D = 2048;
  cfg.Hq = 16, cfg.Hkv = 2, cfg.Dh = 256, cfg.attention_gate = true;
  cfg.Hk = 16, cfg.Hv = 32, cfg.Dk = 128, cfg.Dv = 128, cfg.conv_taps = 4;
  cfg.E = 512, cfg.A = 10, cfg.F = 512, cfg.shared_expert_width = 512;
  return cfg;
}

TEST(CountParameters, The80BModel) {
  const ModelConfig cfg = config_80b();
  const ParameterCount count = count_parameters(cfg);
  EXPECT_NEAR(static_cast<double>(count.total()), 79.67e9, 0.01e9);  // its model card: 80B
  EXPECT_NEAR(static_cast<double>(count.active(cfg)), 3.56e9, 0.01e9);
  EXPECT_EQ(count.mtp, 0u);
}

TEST(CountParameters, AreWhatTheFileHolds) {
  const auto model = Qwen3Next::load(std::string(QNEXT_SOURCE_DIR) + "/tests/data/golden/next-tiny").value();
  std::uint64_t num_in_file = 0;
  for (const TensorEntry& entry : std::get<Safetensors>(model->weights().file).tensors()) {
    num_in_file += entry.bytes / dtype_info(entry.type).block_bytes;
  }
  EXPECT_EQ(count_parameters(model->config()).total(), num_in_file);
}

TEST(CountSequenceBytes, The80BModel) {
  const SequenceBytes bytes = count_sequence_bytes(config_80b(), 4096, DType::kBF16);
  EXPECT_EQ(bytes.kv_bytes, 4096u * 24 * 1024);  // 24 KiB a token
  EXPECT_EQ(bytes.state_bytes, (36u * 32 * 128 * 128 + 36u * 3 * 8192) * 4);
}

TEST(CountWork, GrowsWithRowsDepthAndExperts) {
  const auto model = Qwen3Next::load(std::string(QNEXT_SOURCE_DIR) + "/tests/data/golden/next-tiny").value();
  const ModelConfig& cfg = model->config();
  const Work one = count_work(model->weights(), {.num_tokens = 1});
  // Every matrix but the embedding and the MTP block, experts by their share, in bf16.
  const std::uint64_t expected = 2 * (count_parameters(cfg).active(cfg));
  EXPECT_NEAR(static_cast<double>(one.weight_bytes), static_cast<double>(expected),
              0.02 * static_cast<double>(expected))
      << "norms, gates and taps are not matrices";
  const Work deep = count_work(model->weights(), {.num_tokens = 1, .depth = 100});
  EXPECT_EQ(deep.weight_bytes, one.weight_bytes);
  EXPECT_EQ(deep.kv_bytes - one.kv_bytes, 100u * 2 * 2 * cfg.Hkv * cfg.Dh * 4);  // two attention layers, K and V, f32
  EXPECT_EQ(deep.ops - one.ops, 100u * 2 * 4 * cfg.Hq * cfg.Dh);
  const Work many = count_work(model->weights(), {.num_tokens = 1000, .num_logit_rows = 1});
  EXPECT_GT(many.weight_bytes, one.weight_bytes);
  EXPECT_LE(many.weight_bytes, model->weights().parameter_bytes + 1000 * cfg.D * 2);
  const Work two = count_work(model->weights(), {.num_sequences = 2, .num_tokens = 1, .num_logit_rows = 2});
  EXPECT_EQ(two.ops, 2 * one.ops);
  EXPECT_EQ(two.state_bytes, 2 * one.state_bytes);
}

TEST(CountWork, MoreLayersAreTheModelsAgain) {
  const auto model = Qwen3Next::load(std::string(QNEXT_SOURCE_DIR) + "/tests/data/golden/next-tiny").value();
  const std::size_t num_layers = model->config().num_layers();
  const auto count = [&](std::size_t layers) {
    return count_work(model->weights(), {.depth = 9, .num_layers = layers});
  };
  EXPECT_EQ(count(0).bytes(), count(num_layers).bytes());
  EXPECT_EQ(count(3 * num_layers).bytes() - count(2 * num_layers).bytes(),
            count(2 * num_layers).bytes() - count(num_layers).bytes());
  EXPECT_GT(count(2 * num_layers).ops, count(num_layers).ops);
}

TEST(CountWork, APromptIsTheSumOfItsChunks) {
  const auto model = Qwen3Next::load(std::string(QNEXT_SOURCE_DIR) + "/tests/data/golden/next-tiny").value();
  const Work whole = count_prefill_work(model->weights(), {.num_tokens = 100, .chunk_tokens = 100});
  const Work cut = count_prefill_work(model->weights(), {.num_tokens = 100, .chunk_tokens = 30});
  EXPECT_EQ(whole.ops, cut.ops);
  EXPECT_LT(whole.bytes(), cut.bytes());
}

constexpr auto kBegin = [](std::string_view) {};
constexpr auto kAlways = [] { return true; };
const SpeedObserver kGoOn = {.begin = kBegin, .go_on = kAlways};

TEST(MeasureSpeed, ReportsEveryLengthAtEveryDepth) {
  const auto model = Qwen3Next::load(std::string(QNEXT_SOURCE_DIR) + "/tests/data/golden/next-tiny").value();
  ThreadPool pool(2);
  const Ops ops(*find_table("").value(), pool);
  const SpeedConfig config{.prompt_tokens = {3, 70},
                           .gen_tokens = 2,
                           .depths = {0, 40},
                           .batches = {2, 3},
                           .num_repetitions = 2,
                           .chunk_tokens = 32};
  const std::vector<SpeedResult> results = measure_speed(*model, ops, config, kGoOn).value();
  ASSERT_EQ(results.size(), 8u);
  for (const SpeedResult& result : results) {
    EXPECT_GT(result.roofs.read_bytes_per_s, 0);
    EXPECT_GT(result.roofs.matmul_ops_per_s, 0);
    EXPECT_GT(result.share_of_bandwidth, 0);
    EXPECT_GT(result.share_of_matmul, 0);
    EXPECT_EQ(result.num_threads, 2u);
    EXPECT_GT(result.tokens_per_s(), 0);
    EXPECT_GE(result.median_s, result.fastest_s);
    EXPECT_NE(result.output_hash, 0u);
  }
  EXPECT_EQ(results[2].phase, Phase::kDecode);
  EXPECT_EQ(results[2].num_sequences, 2u);
  EXPECT_EQ(results[3].num_sequences, 3u);
  EXPECT_NE(results[2].output_hash, results[6].output_hash) << "depth changes what is said";
}

TEST(MeasureSpeed, StopsWhenTold) {
  const auto model = Qwen3Next::load(std::string(QNEXT_SOURCE_DIR) + "/tests/data/golden/next-tiny").value();
  ThreadPool pool(1);
  const Ops ops(*find_table("").value(), pool);
  int num_steps = 0;
  const auto go_on = [&num_steps] { return ++num_steps < 3; };
  const auto out = measure_speed(*model, ops, {.prompt_tokens = {1}}, {.begin = kBegin, .go_on = go_on});
  EXPECT_EQ(num_steps, 3);
  EXPECT_THAT(out.message(), testing::HasSubstr("stopped"));
}

}  // namespace
}  // namespace qnext
