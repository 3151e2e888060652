// Networks that golden data does not have (other head counts, odd sizes, tied heads, dense layers, YaRN, FP8), against
// the slow twin.
#include <unistd.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "kernels/compare.h"
#include "model/slow_twin.h"
#include "model/test_support.h"
#include "tensor/float_formats.h"
#include "tensor/safetensors_writer.h"

namespace qnext::test {
namespace {

struct Shape {
  std::string name;
  std::string config;  // fields of config.json that differ from the small default
  DType type = DType::kF32;
  bool mtp = false;
};

// Random weights for a config, as a checkpoint on disk and as the doubles that it holds.
class RandomCheckpoint {
 public:
  RandomCheckpoint(const ModelConfig& cfg, DType type, bool mtp) : cfg_(cfg), type_(type) {
    matrix("model.embed_tokens.weight", cfg.V, cfg.D);
    if (!cfg.tied_head) matrix("lm_head.weight", cfg.V, cfg.D);
    vector("model.norm.weight", cfg.D);
    for (std::size_t i = 0; i < cfg.num_layers(); ++i) layer(fmt::format("model.layers.{}.", i), cfg.layers[i]);
    if (mtp) {
      matrix("mtp.fc.weight", cfg.D, 2 * cfg.D);
      for (const char* name :
           {"mtp.norm.weight", "mtp.pre_fc_norm_embedding.weight", "mtp.pre_fc_norm_hidden.weight"}) {
        vector(name, cfg.D);
      }
      layer("mtp.layers.0.", {MixerKind::kAttention, cfg.E > 0 ? FeedForwardKind::kMoe : FeedForwardKind::kDense});
    }
  }

  const std::map<std::string, Values>& values() const { return values_; }

  void write(const std::string& path) const {
    auto writer = SafetensorsWriter::create(path, {.tensors = specs_, .metadata = {}, .max_shard_bytes = std::nullopt});
    ASSERT_TRUE(writer.ok()) << writer.message();
    for (const TensorSpec& spec : specs_) {
      const auto& bytes = bytes_.at(spec.name);
      ASSERT_TRUE(writer->append(bytes).ok());
    }
    ASSERT_TRUE(writer->commit().ok());
  }

 private:
  void layer(const std::string& prefix, LayerConfig kind) {
    vector(prefix + "input_layernorm.weight", cfg_.D);
    vector(prefix + "post_attention_layernorm.weight", cfg_.D);
    if (kind.mixer == MixerKind::kAttention) {
      const std::string a = prefix + "self_attn.";
      matrix(a + "q_proj.weight", cfg_.Hq * cfg_.Dh * (cfg_.attention_gate ? 2 : 1), cfg_.D);
      matrix(a + "k_proj.weight", cfg_.Hkv * cfg_.Dh, cfg_.D);
      matrix(a + "v_proj.weight", cfg_.Hkv * cfg_.Dh, cfg_.D);
      matrix(a + "o_proj.weight", cfg_.D, cfg_.Hq * cfg_.Dh);
      vector(a + "q_norm.weight", cfg_.Dh);
      vector(a + "k_norm.weight", cfg_.Dh);
    } else {
      const std::string d = prefix + "linear_attn.";
      matrix(d + "in_proj_qkvz.weight", cfg_.C() + cfg_.Hv * cfg_.Dv, cfg_.D);
      plain(d + "in_proj_ba.weight", {2 * cfg_.Hv, cfg_.D}, 0.5);
      matrix(d + "out_proj.weight", cfg_.D, cfg_.Hv * cfg_.Dv);
      plain(d + "conv1d.weight", {cfg_.C(), 1, cfg_.conv_taps}, 0.5);
      plain(d + "A_log", {cfg_.Hv}, 0.5);
      plain(d + "dt_bias", {cfg_.Hv}, 0.5);
      plain(d + "norm.weight", {cfg_.Dv}, 1.0);
    }
    if (kind.feed_forward == FeedForwardKind::kDense) return mlp(prefix + "mlp.", cfg_.dense_width);
    plain(prefix + "mlp.gate.weight", {cfg_.E, cfg_.D}, 1.0);
    for (std::size_t e = 0; e < cfg_.E; ++e) mlp(fmt::format("{}mlp.experts.{}.", prefix, e), cfg_.F);
    if (cfg_.shared_expert_width == 0) return;
    mlp(prefix + "mlp.shared_expert.", cfg_.shared_expert_width);
    plain(prefix + "mlp.shared_expert_gate.weight", {1, cfg_.D}, 1.0);
  }

  void mlp(const std::string& prefix, std::size_t width) {
    matrix(prefix + "gate_proj.weight", width, cfg_.D);
    matrix(prefix + "up_proj.weight", width, cfg_.D);
    matrix(prefix + "down_proj.weight", cfg_.D, width);
  }

  void vector(const std::string& name, std::size_t width) { plain(name, {width}, 0.3); }

  void plain(const std::string& name, std::vector<std::size_t> shape, double spread) {
    std::size_t count = 1;
    for (std::size_t extent : shape) count *= extent;
    Values& values = values_[name];
    auto& bytes = bytes_[name];
    for (std::size_t i = 0; i < count; ++i) {
      const std::uint16_t bf16 = f32_to_bf16(static_cast<float>(spread * normal_(random_)));
      values.push_back(bf16_to_f32(bf16));
      append(bytes, bf16);
    }
    specs_.push_back({name, DType::kBF16, std::move(shape)});
  }

  // Rows of about unit gain, in the case's type.
  void matrix(const std::string& name, std::size_t rows, std::size_t cols) {
    const double spread = 1 / std::sqrt(static_cast<double>(cols));
    if (type_ != DType::kF8E4M3 || name == "lm_head.weight" || name == "model.embed_tokens.weight") {
      return plain(name, {rows, cols}, 1.5 * spread);
    }
    const std::size_t scale_cols = ceil_div(cols, kFp8ScaleBlock);
    Values& values = values_[name];
    auto& bytes = bytes_[name];
    std::vector<float> scales(ceil_div(rows, kFp8ScaleBlock) * scale_cols);
    for (float& scale : scales) scale = static_cast<float>(spread * (0.05 + 0.1 * uniform_(random_)));
    for (std::size_t i = 0; i < rows * cols; ++i) {
      auto code = static_cast<std::uint8_t>(random_() & 0xff);
      if ((code & 0x7f) > 0x5f) code &= 0xbf;  // no NaN, and no value above 30
      const float scale = scales[i / cols / kFp8ScaleBlock * scale_cols + i % cols / kFp8ScaleBlock];
      values.push_back(static_cast<double>(e4m3_to_f32(code)) * scale);
      append(bytes, code);
    }
    specs_.push_back({name, DType::kF8E4M3, {rows, cols}});
    auto& scale_bytes = bytes_[name + "_scale_inv"];
    for (float scale : scales) append(scale_bytes, scale);
    specs_.push_back({name + "_scale_inv", DType::kF32, {ceil_div(rows, kFp8ScaleBlock), scale_cols}});
  }

  template <class T>
  static void append(std::vector<std::byte>& bytes, T value) {
    const auto* raw = reinterpret_cast<const std::byte*>(&value);
    bytes.insert(bytes.end(), raw, raw + sizeof value);
  }

  const ModelConfig& cfg_;
  DType type_;
  std::mt19937_64 random_{20260917};
  std::normal_distribution<double> normal_;
  std::uniform_real_distribution<double> uniform_;
  std::vector<TensorSpec> specs_;
  std::map<std::string, std::vector<std::byte>> bytes_;
  std::map<std::string, Values> values_;
};

class SlowTwinTest : public testing::TestWithParam<Shape> {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / fmt::format("qnext-twin-{}-{}", GetParam().name, getpid());
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::filesystem::path folder_;
};

constexpr const char* kSmallNext = R"({"model_type": "qwen3_next", "vocab_size": 97, "hidden_size": 40,
 "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 24, "partial_rotary_factor": 0.25,
 "max_position_embeddings": 512, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16,
 "linear_value_head_dim": 16, "linear_conv_kernel_dim": 4, "moe_intermediate_size": 20, "num_experts": 6,
 "num_experts_per_tok": 2, "shared_expert_intermediate_size": 28, "intermediate_size": 36)";

constexpr const char* kSmallDense = R"({"model_type": "qwen3", "vocab_size": 101, "hidden_size": 36,
 "num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 14, "intermediate_size": 50,
 "max_position_embeddings": 256, "rope_theta": 10000.0)";

constexpr const char* kSmallMoe = R"({"model_type": "qwen3_moe", "vocab_size": 67, "hidden_size": 36,
 "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16, "intermediate_size": 50,
 "moe_intermediate_size": 22, "num_experts": 5, "num_experts_per_tok": 3, "max_position_embeddings": 256)";

TEST_P(SlowTwinTest, LogitsAgree) {
  const auto parsed = parse_config_json(GetParam().config, "config.json");
  ASSERT_TRUE(parsed.ok()) << parsed.message();
  const RandomCheckpoint checkpoint(*parsed, GetParam().type, GetParam().mtp);
  checkpoint.write(folder_ / "model.safetensors");
  std::ofstream(folder_ / "config.json") << GetParam().config;
  const auto model = Qwen3Next::load(folder_);
  ASSERT_TRUE(model.ok()) << model.message();
  const ModelConfig& cfg = (*model)->config();
  EXPECT_EQ(cfg.has_mtp, GetParam().mtp);

  std::vector<TokenId> tokens;
  for (std::size_t i = 0; i < 81; ++i) tokens.push_back(static_cast<TokenId>((i * 29 + i * i * 7) % cfg.V));
  const SlowTwin twin(cfg, checkpoint.values());
  const Rows hidden = twin.hidden(tokens);
  std::vector<float> expected;
  double largest = 0;
  for (const Values& row : twin.logits(hidden)) {
    for (double value : row)
      expected.push_back(static_cast<float>(value)), largest = std::max(largest, std::abs(value));
  }
  // As in golden_test: each layer may lose the roundings of its longest chain of sums.
  const std::size_t length = 3 * cfg.D + cfg.Dh + tokens.size() + 2 * std::max(cfg.F, cfg.dense_width);
  const double tolerance = static_cast<double>((cfg.num_layers() + 2) * length) * std::exp2(-24) * largest;
  for (const KernelTable& table : available_tables()) {
    SCOPED_TRACE(table.name);
    Runner runner(**model, table);
    for (std::size_t chunk_tokens : {tokens.size(), std::size_t{10}}) {
      SequenceMemory memory(cfg, tokens.size());
      EXPECT_TRUE(is_close(runner.logits(memory, tokens, chunk_tokens), expected, tolerance));
    }
    if (!GetParam().mtp) continue;
    SequenceMemory memory(cfg, tokens.size());
    (void)runner.logits(memory, tokens, tokens.size());
    const std::vector<float> trunk = runner.hidden();
    SequenceSpan span = memory.span(tokens.size() - 1);
    span.first_position = 0;
    const View<float> y = (*model)->forward_mtp(
        runner.ops(), runner.arena(), {.token_ids = std::span(tokens).subspan(1), .spans = {&span, 1}},
        View<const float>(trunk.data(), {tokens.size() - 1, cfg.D}), memory.caches());
    std::vector<float> expected_mtp;
    for (const Values& row : twin.mtp_hidden(tokens, hidden))
      expected_mtp.insert(expected_mtp.end(), row.begin(), row.end());
    EXPECT_TRUE(is_close(std::span<const float>(y.data(), y.num_elements()), expected_mtp, tolerance));
  }
}

// A field given again goes before the base's.
std::string with(const char* base, const std::string& fields) {
  return nlohmann::json::parse(base + fields + "}").dump();
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, SlowTwinTest,
    testing::Values(
        Shape{"Default", with(kSmallNext, "")}, Shape{"Mtp", with(kSmallNext, ""), DType::kF32, true},
        Shape{"KeyAndValueHeadsOfOtherWidths",
              with(kSmallNext, R"(, "linear_key_head_dim": 20, "linear_value_head_dim": 12)")},
        Shape{"OneValueHeadAKeyHead", with(kSmallNext, R"(, "linear_num_key_heads": 3, "linear_num_value_heads": 3)")},
        Shape{"ThreeValueHeadsAKeyHead",
              with(kSmallNext, R"(, "linear_num_key_heads": 2, "linear_num_value_heads": 6)")},
        Shape{"ThreeTaps", with(kSmallNext, R"(, "linear_conv_kernel_dim": 3)")},
        Shape{"TiedHead", with(kSmallNext, R"(, "tie_word_embeddings": true)")},
        Shape{"OddSizes", with(kSmallNext, R"(, "vocab_size": 131, "hidden_size": 37, "moe_intermediate_size": 13,
              "head_dim": 26, "partial_rotary_factor": 0.25, "linear_key_head_dim": 11, "linear_value_head_dim": 9)")},
        Shape{"DenseLayersNamed", with(kSmallNext, R"(, "mlp_only_layers": [0, 3])")},
        Shape{"DenseLayersByStep", with(kSmallNext, R"(, "decoder_sparse_step": 2)")},
        Shape{"LayerTypesListed", with(kSmallNext, R"(, "layer_types": ["full_attention", "linear_attention",
              "full_attention", "linear_attention"])")},
        Shape{"IntervalOfTwo", with(kSmallNext, R"(, "full_attention_interval": 2)")},
        Shape{"YarnOlderSpelling",
              with(kSmallNext, R"(, "head_dim": 64, "partial_rotary_factor": 0.5, "rope_theta": 10000.0,
              "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64})")},
        Shape{"YarnNewerSpelling", with(kSmallNext, R"(, "head_dim": 64, "rope_parameters": {"rope_type": "yarn",
              "rope_theta": 50000.0, "partial_rotary_factor": 0.5, "factor": 2.0, "beta_fast": 16, "beta_slow": 2,
              "original_max_position_embeddings": 32, "attention_factor": 1.25})")},
        Shape{"NoSharedExpertRawTopK",
              with(kSmallNext, R"(, "shared_expert_intermediate_size": 0, "norm_topk_prob": false)")},
        Shape{"Fp8", with(kSmallNext, R"(, "hidden_size": 144, "linear_num_value_heads": 2, "linear_key_head_dim": 128,
              "linear_value_head_dim": 72, "moe_intermediate_size": 132)"),
              DType::kF8E4M3, true},
        Shape{"Qwen3Dense", with(kSmallDense, "")},
        Shape{"Qwen3DenseTied", with(kSmallDense, R"(, "tie_word_embeddings": true)")},
        Shape{"Qwen3Moe", with(kSmallMoe, R"(, "norm_topk_prob": true, "decoder_sparse_step": 2)")},
        Shape{"Qwen3MoeRaw", with(kSmallMoe, "")}),
    [](const testing::TestParamInfo<Shape>& info) { return info.param.name; });

}  // namespace
}  // namespace qnext::test
