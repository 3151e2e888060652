// GGUF metadata: as llama.cpp's converter writes it, as its model saver writes it, and bent.
#include <gmock/gmock.h>

#include "model/small_checkpoint.h"

namespace qnext::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

// Metadata (and tensors) of a small network, to be changed and parsed.
class GgufConfigTest : public ::testing::Test {
 protected:
  void use(const char* json, bool has_mtp = false) {
    original_ = parsed_config(json, has_mtp);
    metadata_ = to_gguf_metadata(original_);
    tensors_ = to_gguf_tensors(original_, random_tensors(original_));
    prefix_ = std::string(gguf_architecture_name(original_.architecture)) + ".";
  }
  void SetUp() override { use(kTinyNext); }

  Result<ModelConfig> parse() {
    const auto path = folder_.path() / "a.gguf";
    write_gguf(path, metadata_, tensors_);
    QN_TRY(const Gguf file, Gguf::open(path));
    return parse_config_gguf(file);
  }
  ModelConfig parsed() {
    auto config = parse();
    EXPECT_TRUE(config.ok()) << config.message();
    return config.ok() ? std::move(*config) : ModelConfig{};
  }
  // The error after one key was set (or, by nullopt, taken out); the key is whole again afterwards.
  std::string message_with(const std::string& key, const std::optional<MetaValue>& value) {
    const Metadata before = metadata_;
    metadata_.erase(prefix_ + key);
    if (value) metadata_[prefix_ + key] = *value;
    const auto config = parse();
    metadata_ = before;
    EXPECT_FALSE(config.ok()) << key;
    return config.ok() ? "" : config.message();
  }

  TempFolder folder_;
  ModelConfig original_;
  Metadata metadata_;
  Tensors tensors_;
  std::string prefix_;
};

std::string mixers_of(const ModelConfig& config) {
  std::string out;
  for (const LayerConfig& layer : config.layers) out += layer.mixer == MixerKind::kAttention ? 'A' : 'd';
  return out;
}

// What the tensors' shapes depend on, and what the arithmetic does.
std::string described(const ModelConfig& c) {
  std::string feed_forwards;
  for (const LayerConfig& layer : c.layers) feed_forwards += layer.feed_forward == FeedForwardKind::kMoe ? 'M' : 'f';
  return fmt::format(
      "{} {} {} V {} D {} eps {} tied {} mtp {} context {} H {} {} {} gate {} theta {} R {} yarn {} "
      "delta {} {} {} {} {} ffn {} {} {} {} {} norm {}",
      architecture_name(c.architecture), mixers_of(c), feed_forwards, c.V, c.D, c.eps, c.tied_head, c.has_mtp,
      c.max_context_tokens, c.Hq, c.Hkv, c.Dh, c.attention_gate, c.rope.theta, c.rope.R, c.rope.yarn.has_value(), c.Hk,
      c.Hv, c.Dk, c.Dv, c.conv_taps, c.dense_width, c.E, c.A, c.F, c.shared_expert_width, c.normalize_routing);
}

TEST_F(GgufConfigTest, EqualsConfigJson) {
  EXPECT_EQ(described(parsed()), described(original_));
  use(kTinyNext, /*has_mtp=*/true);
  EXPECT_EQ(described(parsed()), described(original_));
  use(kTinyMoe);
  EXPECT_EQ(described(parsed()), described(original_));
  use(kTinyDense);
  EXPECT_EQ(described(parsed()), described(original_));
}

TEST_F(GgufConfigTest, DefaultsAreThoseOfLlamaCpp) {
  for (const char* key :
       {"attention.value_length", "rope.dimension_count", "feed_forward_length", "expert_shared_feed_forward_length"}) {
    metadata_.erase(prefix_ + key);
  }
  original_.dense_width = 0;
  EXPECT_EQ(described(parsed()), described(original_));

  metadata_.erase("qwen3next.attention.recurrent_layers");
  EXPECT_EQ(mixers_of(parsed()), "ddd");  // an interval of 4
  metadata_["qwen3next.full_attention_interval"] = 2u;
  EXPECT_EQ(mixers_of(parsed()), "dAd");

  metadata_["qwen3next.rope.freq_base"] = 5e6f;
  metadata_["qwen3next.attention.layer_norm_rms_epsilon"] = 1e-5f;
  metadata_["qwen3next.expert_weights_norm"] = false;
  const ModelConfig config = parsed();
  EXPECT_EQ(config.rope.theta, 5e6);
  EXPECT_EQ(config.eps, 1e-5f);
  EXPECT_FALSE(config.normalize_routing);
}

TEST_F(GgufConfigTest, HeadIsTiedWhereItIsMissing) {
  EXPECT_FALSE(parsed().tied_head);
  tensors_.erase("output.weight");
  EXPECT_TRUE(parsed().tied_head);
}

TEST_F(GgufConfigTest, RecurrentLayersInEveryForm) {
  const std::string key = "qwen3next.attention.recurrent_layers";
  metadata_[key] = std::vector<bool>{false, true, true};
  EXPECT_EQ(mixers_of(parsed()), "Add");
  metadata_[key] = std::vector<std::uint32_t>{1, 0, 1};  // as llama.cpp's model saver has it
  EXPECT_EQ(mixers_of(parsed()), "dAd");
  metadata_[key] = std::vector<bool>{true, true, false, false};  // one more, for the MTP block
  EXPECT_EQ(mixers_of(parsed()), "ddA");
  metadata_[key] = 1u;  // the saver's short form of equal entries
  EXPECT_EQ(mixers_of(parsed()), "ddd");
  metadata_[key] = false;
  EXPECT_EQ(mixers_of(parsed()), "AAA");
  EXPECT_THAT(message_with("attention.recurrent_layers", std::vector<bool>{true, false}),
              AllOf(HasSubstr("a.gguf: " + key), HasSubstr("expected at least 3 entries"), HasSubstr("found 2")));
  EXPECT_THAT(message_with("attention.recurrent_layers", "yes"),
              AllOf(HasSubstr(key), HasSubstr("found string 'yes'")));
}

TEST_F(GgufConfigTest, DenseLayersShowByTheirTensors) {
  use(R"({"model_type": "qwen3_moe", "vocab_size": 33, "hidden_size": 32, "num_hidden_layers": 3,
      "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "norm_topk_prob": true,
      "max_position_embeddings": 512, "moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2,
      "intermediate_size": 64, "mlp_only_layers": [1]})");
  EXPECT_EQ(described(parsed()), described(original_));
}

TEST_F(GgufConfigTest, YarnAsTheConverterWritesIt) {
  metadata_["qwen3next.rope.scaling.type"] = "yarn";
  metadata_["qwen3next.rope.scaling.factor"] = 4.0f;
  metadata_["qwen3next.rope.scaling.original_context_length"] = 128u;
  ModelConfig config = parsed();
  ASSERT_TRUE(config.rope.yarn.has_value());
  EXPECT_EQ(config.rope.yarn->factor, 4);
  EXPECT_EQ(config.rope.yarn->original_context_tokens, 128);
  EXPECT_EQ(std::tuple(config.rope.yarn->beta_fast, config.rope.yarn->beta_slow), std::tuple(32, 1));
  const double usual = 0.1 * std::log(4.0) + 1;
  EXPECT_DOUBLE_EQ(config.rope.yarn->attention_factor, usual);

  metadata_["qwen3next.rope.scaling.yarn_beta_fast"] = 16.0f;
  metadata_["qwen3next.rope.scaling.yarn_beta_slow"] = 2.0f;
  metadata_["qwen3next.rope.scaling.attn_factor"] = 0.5f;
  metadata_.erase("qwen3next.rope.scaling.original_context_length");
  config = parsed();
  EXPECT_EQ(std::tuple(config.rope.yarn->beta_fast, config.rope.yarn->beta_slow), std::tuple(16, 2));
  EXPECT_DOUBLE_EQ(config.rope.yarn->attention_factor, 0.5 * usual);  // on top of what follows from the scale
  EXPECT_EQ(config.rope.yarn->original_context_tokens, 512);          // the whole context

  metadata_.erase("qwen3next.rope.scaling.attn_factor");
  metadata_["qwen3next.rope.scaling.yarn_attn_factor"] = 1.25f;  // config.json's attention_factor
  EXPECT_DOUBLE_EQ(parsed().rope.yarn->attention_factor, 1.25);
}

TEST_F(GgufConfigTest, OtherScalingsAreNotTakenForYarn) {
  metadata_["qwen3next.rope.scaling.type"] = "none";
  metadata_["qwen3next.rope.scaling.factor"] = 4.0f;
  EXPECT_FALSE(parsed().rope.yarn.has_value());
  EXPECT_THAT(message_with("rope.scaling.type", std::nullopt),  // llama.cpp: linear
              HasSubstr("a.gguf: qwen3next.rope.scaling.type: expected none or yarn, found linear by 4"));
  for (const char* type : {"linear", "longrope", ""}) {
    EXPECT_THAT(message_with("rope.scaling.type", type), HasSubstr(fmt::format("found {} by 4", type)));
  }
  EXPECT_THAT(message_with("rope.scaling.type", 3u), HasSubstr("expected a string, found u32 3"));
  for (const float factor : {0.0f, 1.0f}) {
    metadata_["qwen3next.rope.scaling.type"] = "linear";
    metadata_["qwen3next.rope.scaling.factor"] = factor;
    EXPECT_FALSE(parsed().rope.yarn.has_value()) << factor;
  }
  metadata_["qwen3next.rope.scaling.type"] = "yarn";
  for (const float factor : {0.0f, -4.0f, INFINITY, NAN}) {
    EXPECT_THAT(message_with("rope.scaling.factor", factor), HasSubstr("rope scaling: factor: expected")) << factor;
  }
  metadata_["qwen3next.rope.scaling.factor"] = 4.0f;
  for (const char* key : {"rope.scaling.attn_factor", "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow"}) {
    for (const float value : {0.0f, -1.0f, INFINITY, NAN}) {
      EXPECT_THAT(message_with(key, value), HasSubstr("rope scaling: ")) << key << value;
    }
  }
}

TEST_F(GgufConfigTest, KeysAreRefusedByName) {
  for (const char* key : {"block_count", "context_length", "embedding_length", "attention.head_count", "expert_count",
                          "expert_used_count", "expert_feed_forward_length", "ssm.conv_kernel", "ssm.state_size",
                          "ssm.group_count", "ssm.time_step_rank", "ssm.inner_size"}) {
    const std::string name = "a.gguf: key 'qwen3next." + std::string(key) + "'";
    EXPECT_THAT(message_with(key, std::nullopt), AllOf(HasSubstr(name), HasSubstr("found no such key")));
    EXPECT_THAT(message_with(key, "8"), AllOf(HasSubstr(name), HasSubstr("found string '8'")));
    EXPECT_THAT(message_with(key, 8.0f), AllOf(HasSubstr(name), HasSubstr("found f32 8")));
    EXPECT_THAT(message_with(key, std::vector<std::uint32_t>{8, 8}), AllOf(HasSubstr(name), HasSubstr("array of 2")));
    for (const std::uint32_t value : {0u, 4'294'967'295u}) {
      const std::string message = message_with(key, value);
      if (key == std::string_view("ssm.time_step_rank") && value > 0) continue;  // ssm.inner_size is no multiple of it
      EXPECT_THAT(message, AllOf(HasSubstr(key), HasSubstr("expected "))) << value;
      EXPECT_THAT(message, HasSubstr(fmt::format("found {}", value))) << value;
    }
  }
  metadata_.erase("qwen3next.attention.value_length");  // which would have to be the key length
  for (const char* key : {"attention.head_count_kv", "attention.key_length", "attention.value_length",
                          "rope.dimension_count", "nextn_predict_layers", "full_attention_interval"}) {
    metadata_.erase("qwen3next.attention.recurrent_layers");  // or the interval would not be looked at
    EXPECT_THAT(message_with(key, "8"), HasSubstr(key));
    if (std::string_view(key) != "full_attention_interval") {
      EXPECT_THAT(message_with(key, 4'294'967'295u), AllOf(HasSubstr(key), HasSubstr("found 4294967295")));
    }
    if (std::string_view(key) != "nextn_predict_layers") {
      EXPECT_THAT(message_with(key, 0u), HasSubstr("found 0"));
    }
  }
  for (const float eps : {0.0f, -1e-6f, 1.0f, NAN, INFINITY}) {
    EXPECT_THAT(message_with("attention.layer_norm_rms_epsilon", eps), HasSubstr("layer_norm_rms_epsilon")) << eps;
  }
  for (const float theta : {0.0f, 1.0f, -1e4f, NAN, INFINITY}) {
    EXPECT_THAT(message_with("rope.freq_base", theta), HasSubstr("rope.freq_base")) << theta;
  }
  EXPECT_THAT(message_with("expert_weights_norm", 1u), HasSubstr("expert_weights_norm"));
  EXPECT_THAT(message_with("ssm.inner_size", 33u), HasSubstr("expected a multiple of qwen3next.ssm.time_step_rank 4"));
}

TEST_F(GgufConfigTest, ArchitectureAndVocabularyMustBeThere) {
  for (const char* name : {"qwen2", "qwen3_next", "", "\x1b[31m"}) {
    metadata_["general.architecture"] = name;
    EXPECT_THAT(parse().message(), AllOf(HasSubstr("a.gguf: general.architecture: expected qwen3next"),
                                         HasSubstr("no other family is supported"), Not(HasSubstr("\x1b"))));
  }
  metadata_.erase("general.architecture");
  EXPECT_THAT(parse().message(), HasSubstr("'general.architecture': expected a string, found no such key"));
  use(kTinyNext);
  tensors_["token_embd.weight"].shape = {33 * 32};
  EXPECT_THAT(parse().message(), HasSubstr("tensor token_embd.weight: expected a matrix [vocabulary, "));
  tensors_.erase("token_embd.weight");
  EXPECT_THAT(parse().message(), HasSubstr("found none"));
}

}  // namespace
}  // namespace qnext::test
