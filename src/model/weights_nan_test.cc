// Matrices are mapped, not looked over: their NaNs and infinities reach the kernels. Whatever comes of them there, no
// table may crash, hang or leave its arrays, and experts keep their numbers below E.
#include <gtest/gtest.h>

#include <set>

#include "model/small_checkpoint.h"

namespace qnext::test {
namespace {

// As wide as the widest block, so that every type fits; both kinds of mixer, and the MTP block.
constexpr const char* kWide = R"({"model_type": "qwen3_next", "vocab_size": 33, "hidden_size": 256,
 "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64,
 "max_position_embeddings": 512, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 64,
 "linear_value_head_dim": 64, "moe_intermediate_size": 256, "num_experts": 5, "num_experts_per_tok": 3,
 "shared_expert_intermediate_size": 256, "layer_types": ["linear_attention", "full_attention"]})";

enum class Fill {
  kOnes,    // every scale, and every float, a NaN
  kRandom,  // scales of any kind: NaN, infinite, huge, subnormal
};

std::string filling(Fill fill, std::size_t num_bytes) {
  std::string out(num_bytes, '\xff');
  if (fill == Fill::kOnes) return out;
  std::mt19937 random(7);
  for (char& byte : out) byte = static_cast<char>(random());
  return out;
}

bool is_matrix(const std::string& name) {
  return name.ends_with(".weight") && name.find("norm") == std::string::npos &&
         name.find("conv1d") == std::string::npos;
}

// Runs tokens through the trunk and the MTP block on every table; the logits may be anything.
void run(const Qwen3Next& model, std::size_t num_tokens) {
  const ModelConfig& config = model.config();
  std::vector<TokenId> tokens(num_tokens);
  for (std::size_t i = 0; i < num_tokens; ++i) tokens[i] = static_cast<TokenId>(i * 7 % config.V);
  for (const KernelTable& table : available_tables()) {
    SCOPED_TRACE(table.name);
    std::size_t num_routed = 0;
    const Probe probe = [&](std::string_view name, std::size_t, View<const float> values) {
      if (name != "router.experts") return;
      for (std::size_t row = 0; row < values.dim(0); ++row) {
        std::set<float> chosen;
        for (std::size_t i = 0; i < values.dim(1); ++i) {
          ASSERT_LT(values(row, i), static_cast<float>(config.E));
          chosen.insert(values(row, i));
        }
        ASSERT_EQ(chosen.size(), config.A);  // none twice
        ++num_routed;
      }
    };
    Runner runner(model, table, 1);
    SequenceMemory memory(config, num_tokens);
    EXPECT_EQ(runner.logits(memory, tokens, num_tokens - 1, &probe).size(), num_tokens * config.V);
    const std::vector<float> trunk = runner.hidden();
    SequenceSpan span = memory.span(num_tokens - 1);
    span.first_position = 0;
    (void)model.forward_mtp(runner.ops(), runner.arena(),
                            {.token_ids = std::span(tokens).subspan(1), .spans = {&span, 1}},
                            View<const float>(trunk.data(), {num_tokens - 1, config.D}), memory.caches(), &probe);
    EXPECT_GE(num_routed, 2 * num_tokens);
  }
}

class NanWeightsTest : public ::testing::TestWithParam<std::tuple<DType, Fill>> {};

TEST_P(NanWeightsTest, NoTableCrashes) {
  const auto [type, fill] = GetParam();
  static const ModelConfig config = parsed_config(kWide, /*has_mtp=*/true);
  static const Tensors hf = random_tensors(config);
  static const Tensors gguf = to_gguf_tensors(config, hf);
  const bool is_fp8 = type == DType::kF8E4M3;  // which GGUF does not have
  const Tensors& whole = is_fp8 ? hf : gguf;
  Tensors tensors = whole;
  for (const auto& [name, tensor] : whole) {
    if (!is_matrix(name)) continue;
    std::size_t count = 1;
    for (const std::size_t extent : tensor.shape) count *= extent;
    tensors[name] = {type, tensor.shape, filling(fill, dtype_bytes(type, count))};
    if (!is_fp8) continue;
    const std::vector<std::size_t> blocks = {ceil_div(tensor.shape[0], kFp8ScaleBlock),
                                             ceil_div(tensor.shape[1], kFp8ScaleBlock)};
    tensors[name + "_scale_inv"] = f32_tensor(blocks, std::vector<float>(blocks[0] * blocks[1], 1e30f));
  }
  const TempFolder folder;
  std::filesystem::path path = folder.path();
  if (is_fp8) {
    folder.write("config.json", kWide);
    write_safetensors(path / "model.safetensors", tensors);
  } else {
    path /= "nan.gguf";
    write_gguf(path, to_gguf_metadata(config), tensors);
  }
  const auto model = Qwen3Next::load(path.string());
  ASSERT_TRUE(model.ok()) << model.message();
  run(**model, 3);
}

INSTANTIATE_TEST_SUITE_P(Types, NanWeightsTest,
                         ::testing::Combine(::testing::Values(DType::kF32, DType::kF16, DType::kBF16, DType::kF8E4M3,
                                                              DType::kQ4_0, DType::kQ4_1, DType::kQ5_0, DType::kQ5_1,
                                                              DType::kQ8_0, DType::kQ2_K, DType::kQ3_K, DType::kQ4_K,
                                                              DType::kQ5_K, DType::kQ6_K, DType::kIQ4_NL,
                                                              DType::kIQ4_XS, DType::kMXFP4),
                                            ::testing::Values(Fill::kOnes, Fill::kRandom)),
                         [](const auto& info) {
                           return std::string(dtype_info(std::get<DType>(info.param)).name) +
                                  (std::get<Fill>(info.param) == Fill::kOnes ? "_ones" : "_random");
                         });

// One bad number in one place, through whole chunks and several attention tiles, where most of the others are sound.
TEST(NanWeights, OneNanThroughWholeChunks) {
  const TempFolder folder;
  const ModelConfig config = parsed_config(kTinyNext, /*has_mtp=*/true);
  const Tensors whole = random_tensors(config);
  folder.write("config.json", kTinyNext);
  for (const char* name :
       {"model.layers.0.linear_attn.in_proj_qkvz.weight", "model.layers.0.linear_attn.in_proj_ba.weight",
        "model.layers.0.mlp.gate.weight", "model.layers.0.mlp.experts.1.up_proj.weight",
        "model.layers.1.self_attn.q_proj.weight", "model.layers.1.self_attn.k_proj.weight",
        "model.layers.1.self_attn.v_proj.weight", "lm_head.weight", "model.embed_tokens.weight"}) {
    SCOPED_TRACE(name);
    for (const float value : {NAN, INFINITY, -INFINITY, 3e38f}) {
      Tensors tensors = whole;
      tensors.at(name).floats()[config.D + 1] = value;
      write_safetensors(folder.path() / "model.safetensors", tensors);
      const auto model = Qwen3Next::load(folder.path().string());
      ASSERT_TRUE(model.ok()) << model.message();
      run(**model, 70);
    }
  }
}

}  // namespace
}  // namespace qnext::test
