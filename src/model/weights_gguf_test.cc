// One network in every layout that is read gives the same logits to the bit; what a GGUF file gets wrong is named.
#include <gmock/gmock.h>

#include <algorithm>

#include "model/small_checkpoint.h"

namespace qnext::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::vector<float> logits_at(const std::filesystem::path& path) {
  const auto model = Qwen3Next::load(path.string());
  EXPECT_TRUE(model.ok()) << model.message();
  return model.ok() ? logits_of(**model) : std::vector<float>{};
}

// Fuses experts' gate and up: in each expert, gate rows before up rows.
void fuse_gate_up(Tensors& tensors, const std::string& prefix, std::size_t num_experts) {
  const TestTensor gate = tensors.at(prefix + "ffn_gate_exps.weight");
  const TestTensor up = tensors.at(prefix + "ffn_up_exps.weight");
  TestTensor both{gate.type, {gate.shape[0], 2 * gate.shape[1], gate.shape[2]}, {}};
  const std::size_t expert_bytes = gate.bytes.size() / num_experts;
  for (std::size_t e = 0; e < num_experts; ++e) {
    both.bytes += gate.bytes.substr(e * expert_bytes, expert_bytes) + up.bytes.substr(e * expert_bytes, expert_bytes);
  }
  tensors.erase(prefix + "ffn_gate_exps.weight");
  tensors.erase(prefix + "ffn_up_exps.weight");
  tensors[prefix + "ffn_gate_up_exps.weight"] = both;
}

class GgufWeightsTest : public ::testing::Test {
 protected:
  void use(const std::string& json, bool has_mtp = false) {
    json_ = json;
    config_ = parsed_config(json, has_mtp);
    hf_ = random_tensors(config_);
    tensors_ = to_gguf_tensors(config_, hf_);
    metadata_ = to_gguf_metadata(config_);
  }
  void SetUp() override { use(kTinyNext); }

  std::filesystem::path write_hf() {
    folder_.write("config.json", json_);
    write_safetensors(folder_.path() / "model.safetensors", hf_);
    return folder_.path();
  }
  std::filesystem::path write(const std::string& name) {
    write_gguf(folder_.path() / name, metadata_, tensors_);
    return folder_.path() / name;
  }
  std::string message() {
    const auto weights = load_weights(write("bent.gguf").string());
    EXPECT_FALSE(weights.ok());
    return weights.ok() ? "" : weights.message();
  }

  TempFolder folder_;
  std::string json_;
  ModelConfig config_;
  Tensors hf_;
  Tensors tensors_;
  Metadata metadata_;
};

TEST_F(GgufWeightsTest, EveryLayoutIsTheSameNetwork) {
  for (const bool has_mtp : {false, true}) {
    use(kTinyNext, has_mtp);
    const std::vector<float> expected = logits_at(write_hf());
    ASSERT_TRUE(std::all_of(expected.begin(), expected.end(), [](float value) { return std::isfinite(value); }));
    EXPECT_GT(*std::max_element(expected.begin(), expected.end()), 0.1f);
    EXPECT_EQ(logits_at(write("current.gguf")), expected);

    const Tensors current = tensors_;
    for (const std::size_t layer_idx : {0, 2}) {  // older files: in_proj_qkvz as it was
      const std::string b = fmt::format("blk.{}.", layer_idx);
      tensors_.erase(b + "attn_qkv.weight");
      tensors_.erase(b + "attn_gate.weight");
      tensors_[b + "ssm_in.weight"] = hf_.at(fmt::format("model.layers.{}.linear_attn.in_proj_qkvz.weight", layer_idx));
    }
    EXPECT_EQ(logits_at(write("older.gguf")), expected);
    tensors_ = current;
    for (std::size_t i = 0; i < config_.num_layers() + (has_mtp ? 1 : 0); ++i) {
      fuse_gate_up(tensors_, fmt::format("blk.{}.", i), config_.E);
    }
    EXPECT_EQ(logits_at(write("fused.gguf")), expected);
  }
}

TEST_F(GgufWeightsTest, OrderOfWeightsMatters) {  // or the test above could not fail
  const std::vector<float> expected = logits_at(write_hf());
  for (const char* name : {"blk.0.attn_qkv.weight", "blk.2.attn_gate.weight", "blk.0.ssm_ba.weight",
                           "blk.1.ffn_gate_exps.weight", "blk.1.attn_q.weight", "blk.0.ssm_a"}) {
    const Tensors before = tensors_;
    std::string& bytes = tensors_.at(name).bytes;
    std::rotate(bytes.begin(), bytes.begin() + bytes.size() / 2, bytes.end());
    EXPECT_NE(logits_at(write("rotated.gguf")), expected) << name;
    tensors_ = before;
  }
}

TEST_F(GgufWeightsTest, SplitInThree) {
  const std::vector<float> expected = logits_at(write_hf());
  const Tensors all = tensors_;
  const Metadata metadata = metadata_;
  std::size_t tensor_idx = 0;
  std::vector<Tensors> parts(3);
  for (const auto& entry : all) parts[tensor_idx++ * 3 / all.size()].insert(entry);
  for (std::size_t i = 0; i < 3; ++i) {
    tensors_ = parts[i];
    metadata_ = i == 0 ? metadata : Metadata{};
    metadata_["split.no"] = static_cast<std::uint32_t>(i);
    metadata_["split.count"] = 3u;
    metadata_["split.tensors.count"] = static_cast<std::uint32_t>(all.size());
    write(fmt::format("net-{:05}-of-00003.gguf", i + 1));
  }
  EXPECT_EQ(logits_at(folder_.path() / "net-00001-of-00003.gguf"), expected);
  EXPECT_EQ(logits_at(folder_.path() / "net-00003-of-00003.gguf"), expected);

  // An error names the part that holds the tensor.
  const std::string name = "output_norm.weight";
  tensors_.at(name).shape = {2, 16};
  write("net-00003-of-00003.gguf");
  const auto weights = load_weights(folder_.path() / "net-00001-of-00003.gguf");
  ASSERT_FALSE(weights.ok());
  EXPECT_THAT(weights.message(),
              AllOf(HasSubstr("net-00003-of-00003.gguf: tensor " + name), HasSubstr("expected shape")));
}

TEST_F(GgufWeightsTest, TiedHeadAndElderSisters) {
  for (const std::string base : {kTinyNext, kTinyMoe, kTinyDense}) {
    use(with_fields(base, R"("tie_word_embeddings": true)"));
    EXPECT_FALSE(tensors_.contains("output.weight"));
    EXPECT_EQ(tensors_.contains("blk.0.ffn_norm.weight"), base != kTinyNext);
    const std::vector<float> expected = logits_at(write_hf());
    EXPECT_EQ(logits_at(write("tied.gguf")), expected);
    use(base);
    EXPECT_EQ(logits_at(write("untied.gguf")), logits_at(write_hf()));
  }
  use(with_fields(kTinyMoe, R"("decoder_sparse_step": 2)"));
  EXPECT_TRUE(tensors_.contains("blk.0.ffn_gate.weight") && tensors_.contains("blk.1.ffn_gate_exps.weight"));
  EXPECT_EQ(logits_at(write("dense_layer.gguf")), logits_at(write_hf()));
}

TEST_F(GgufWeightsTest, RoutingNormAndYarnMatter) {
  const std::vector<float> plain = logits_at(write("plain.gguf"));
  metadata_["qwen3next.expert_weights_norm"] = false;
  json_ = with_fields(kTinyNext, R"("norm_topk_prob": false)");
  const std::vector<float> raw = logits_at(write("raw.gguf"));
  EXPECT_EQ(raw, logits_at(write_hf()));
  EXPECT_NE(raw, plain);

  use(with_fields(kTinyNext, R"("rope_scaling": {"type": "yarn", "factor": 4.0, "attention_factor": 1.5,
      "original_max_position_embeddings": 128, "beta_fast": 16})"));
  metadata_["qwen3next.rope.scaling.type"] = "yarn";
  metadata_["qwen3next.rope.scaling.factor"] = 4.0f;
  metadata_["qwen3next.rope.scaling.original_context_length"] = 128u;
  metadata_["qwen3next.rope.scaling.yarn_attn_factor"] = 1.5f;
  metadata_["qwen3next.rope.scaling.yarn_beta_fast"] = 16.0f;
  const std::vector<float> yarn = logits_at(write("yarn.gguf"));
  EXPECT_EQ(yarn, logits_at(write_hf()));
  EXPECT_NE(yarn, plain);
}

// Every size as small as check_config() lets it be: shorter than any vector of any table.
TEST_F(GgufWeightsTest, TheSmallestNetworkRunsOnEveryTable) {
  use(R"({"model_type": "qwen3_next", "vocab_size": 1, "hidden_size": 1, "num_hidden_layers": 2,
      "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 2, "partial_rotary_factor": 1.0,
      "max_position_embeddings": 1, "linear_num_key_heads": 1, "linear_num_value_heads": 1, "linear_key_head_dim": 1,
      "linear_value_head_dim": 1, "linear_conv_kernel_dim": 2, "moe_intermediate_size": 1, "num_experts": 1,
      "num_experts_per_tok": 1, "shared_expert_intermediate_size": 1, "full_attention_interval": 2})",
      /*has_mtp=*/true);
  const auto from_hf = Qwen3Next::load(write_hf().string());
  const auto from_gguf = Qwen3Next::load(write("smallest.gguf").string());
  ASSERT_TRUE(from_hf.ok()) << from_hf.message();
  ASSERT_TRUE(from_gguf.ok()) << from_gguf.message();
  for (const KernelTable& table : available_tables()) {
    const std::vector<float> logits = logits_of(**from_hf, table);
    EXPECT_TRUE(std::all_of(logits.begin(), logits.end(), [](float value) { return std::isfinite(value); }));
    EXPECT_EQ(logits_of(**from_gguf, table), logits) << table.name;
  }
}

TEST_F(GgufWeightsTest, EveryTensorMustBeThereInItsShapeAndType) {
  use(kTinyNext, /*has_mtp=*/true);
  const Tensors whole = tensors_;
  for (const auto& [name, tensor] : whole) {
    const auto expect = [&, &name = name](const std::string& found) {
      EXPECT_THAT(message(), AllOf(HasSubstr("bent.gguf: tensor " + name + ": "), HasSubstr("expected "),
                                   HasSubstr("found " + found)))
          << name;
      tensors_ = whole;
    };
    // Without these it is another network: the vocabulary's size, the tied head.
    if (name != "token_embd.weight" && name != "output.weight") {
      tensors_.erase(name);
      expect("none");
    }
    TestTensor& bent = tensors_.at(name);
    bent.type = DType::kI32;
    expect("i32");
    if (name == "token_embd.weight") continue;
    tensors_.at(name).shape.push_back(2);
    tensors_.at(name).bytes += tensor.bytes;
    std::vector<std::size_t> shape = tensor.shape;
    shape.push_back(2);
    expect(shape_text(shape));
  }
  tensors_["blk.0.attn_q.bias"] = f32_tensor({64}, std::vector<float>(64));
  EXPECT_THAT(message(), AllOf(HasSubstr("bent.gguf: tensor blk.0.attn_q.bias: expected no such tensor"),
                               HasSubstr("found shape [64]")));
}

TEST_F(GgufWeightsTest, WrongNumbersOfExpertsAreRefused) {
  metadata_["qwen3next.expert_count"] = 3u;
  EXPECT_THAT(message(),
              HasSubstr("tensor blk.0.ffn_gate_inp.weight: expected shape [3, 32] by the config, found [4, 32]"));
  TestTensor& router = tensors_.at("blk.0.ffn_gate_inp.weight");
  router.shape = {3, 32};
  router.bytes.resize(3 * 32 * sizeof(float));
  EXPECT_THAT(message(),
              HasSubstr("tensor blk.0.ffn_gate_exps.weight: expected shape [3, 32, 32] by the config, found [4, "));
  fuse_gate_up(tensors_, "blk.0.", 4);
  EXPECT_THAT(message(),
              HasSubstr("ffn_gate_up_exps.weight: expected shape [3, 64, 32] by the config, found [4, 64, 32]"));
}

TEST_F(GgufWeightsTest, ValuesThatNoNetworkHasAreRefused) {
  const Tensors whole = tensors_;
  for (const float value : {NAN, INFINITY, -INFINITY}) {
    for (const char* name : {"blk.0.attn_norm.weight", "blk.1.attn_q_norm.weight", "blk.0.ssm_dt.bias", "blk.0.ssm_a",
                             "blk.2.ssm_conv1d.weight", "blk.0.ssm_norm.weight", "output_norm.weight"}) {
      tensors_.at(name).floats()[3] = value;
      EXPECT_THAT(message(),
                  HasSubstr(fmt::format("bent.gguf: tensor {}: expected finite numbers, found {}", name, value)));
      tensors_ = whole;
    }
  }
  tensors_.at("blk.0.ssm_a").floats()[3] = 0.5f;  // a state that grows: A_log, not converted
  EXPECT_THAT(message(), HasSubstr("tensor blk.0.ssm_a: expected -exp(A_log), at most 0, found 0.5"));
}

}  // namespace
}  // namespace qnext::test
