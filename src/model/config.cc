#include "model/config.h"

#include <algorithm>
#include <cmath>

#include "kernels/kernels.h"

namespace qnext {

std::size_t ModelConfig::num_layers_of(MixerKind mixer) const {
  std::size_t count = 0;
  for (const LayerConfig& layer : layers) count += layer.mixer == mixer ? 1 : 0;
  return count;
}

std::size_t ModelConfig::kv_bytes_per_token(DType type) const {
  return (num_layers_of(MixerKind::kAttention) + (has_mtp ? 1 : 0)) * 2 * kv_bytes(type, Hkv, Dh);
}

std::size_t ModelConfig::state_bytes() const {
  const std::size_t floats_a_layer = conv_taps == 0 ? 0 : Hv * Dk * Dv + (conv_taps - 1) * C();
  return num_layers_of(MixerKind::kGatedDeltaNet) * floats_a_layer * sizeof(float);
}

std::string_view architecture_name(Architecture architecture) {
  switch (architecture) {
    case Architecture::kQwen3Next:
      return "qwen3_next";
    case Architecture::kQwen3Moe:
      return "qwen3_moe";
    case Architecture::kQwen3:
      return "qwen3";
  }
  return "";
}

std::string_view gguf_architecture_name(Architecture architecture) {
  switch (architecture) {
    case Architecture::kQwen3Next:
      return "qwen3next";
    case Architecture::kQwen3Moe:
      return "qwen3moe";
    case Architecture::kQwen3:
      return "qwen3";
  }
  return "";
}

namespace {

constexpr std::size_t kMaxContextTokens = std::size_t{1} << 31;
constexpr std::size_t kMaxHeadWidth = 512;
constexpr std::size_t kMaxActiveExperts = 256;  // they are chosen by insertion

// Fields go by their names in config.json and, in brackets, in GGUF.
class Rules {
 public:
  explicit Rules(const std::string& file) : file_(file) {}

  void dimension(std::string_view field, std::size_t value) {
    require(value >= 1 && value <= kMaxDimension, field, fmt::format("a number from 1 to {}", kMaxDimension),
            fmt::format("{}", value));
  }
  void divides(std::string_view field, std::size_t divisor, std::size_t dividend) {
    require(divisor != 0 && dividend % divisor == 0, field, fmt::format("a divisor of {}", dividend),
            fmt::format("{}", divisor));
  }
  void require(bool holds, std::string_view field, const std::string& expected, const std::string& found) {
    if (!holds && message_.empty())
      message_ = fmt::format("{}: {}: expected {}, found {}", file_, field, expected, found);
  }
  Status status() const { return message_.empty() ? success() : Status(Error{message_}); }

 private:
  const std::string& file_;
  std::string message_;  // of the first rule broken
};

void check_yarn(Rules& rules, const YarnConfig& yarn) {
  constexpr auto kMost = static_cast<double>(kMaxContextTokens);
  const auto in_range = [&](std::string_view field, double value, double least) {
    rules.require(value >= least && value <= kMost, field, fmt::format("a number from {} to {}", least, kMost),
                  fmt::format("{}", value));
  };
  constexpr double kLeast = 1e-6;
  in_range("rope scaling: factor", yarn.factor, 1);
  in_range("rope scaling: original_max_position_embeddings (original_context_length)", yarn.original_context_tokens, 1);
  in_range("rope scaling: beta_fast", yarn.beta_fast, kLeast);
  in_range("rope scaling: beta_slow", yarn.beta_slow, kLeast);
  in_range("rope scaling: attention_factor (attn_factor)", yarn.attention_factor, kLeast);
}

// Also without an attention layer: the rotary tables and the K/V pages are laid out all the same.
void check_attention(Rules& rules, const ModelConfig& config) {
  rules.dimension("num_attention_heads (attention.head_count)", config.Hq);
  rules.dimension("num_key_value_heads (attention.head_count_kv)", config.Hkv);
  rules.dimension("head_dim (attention.key_length)", config.Dh);
  rules.divides("num_key_value_heads (attention.head_count_kv)", config.Hkv, config.Hq);
  rules.require(config.Hq * config.Dh <= kMaxDimension, "num_attention_heads * head_dim",
                fmt::format("at most {}", kMaxDimension), fmt::format("{}", config.Hq * config.Dh));
  rules.require(config.Dh <= kMaxHeadWidth, "head_dim (attention.key_length)", fmt::format("at most {}", kMaxHeadWidth),
                fmt::format("{}", config.Dh));
  rules.require(config.rope.R >= 2 && config.rope.R % 2 == 0 && config.rope.R <= config.Dh,
                "rotary dimensions (partial_rotary_factor * head_dim; rope.dimension_count)",
                fmt::format("an even number from 2 to head_dim {}", config.Dh), fmt::format("{}", config.rope.R));
  rules.require(std::isfinite(config.rope.theta) && config.rope.theta > 1, "rope_theta (rope.freq_base)",
                "a number above 1", fmt::format("{}", config.rope.theta));
  if (config.rope.yarn) check_yarn(rules, *config.rope.yarn);
}

void check_delta_net(Rules& rules, const ModelConfig& config) {
  rules.dimension("linear_num_key_heads (ssm.group_count)", config.Hk);
  rules.dimension("linear_num_value_heads (ssm.time_step_rank)", config.Hv);
  rules.dimension("linear_key_head_dim (ssm.state_size)", config.Dk);
  rules.dimension("linear_value_head_dim (ssm.inner_size / ssm.time_step_rank)", config.Dv);
  rules.divides("linear_num_key_heads (ssm.group_count)", config.Hk, config.Hv);
  rules.require(config.conv_taps >= 2 && config.conv_taps <= 64, "linear_conv_kernel_dim (ssm.conv_kernel)",
                "a number from 2 to 64", fmt::format("{}", config.conv_taps));
  rules.require(config.C() <= kMaxDimension, "conv channels", fmt::format("at most {}", kMaxDimension),
                fmt::format("{}", config.C()));
  rules.require(config.Dk <= kMaxHeadWidth && config.Dv <= kMaxHeadWidth, "linear head dims",
                fmt::format("at most {}", kMaxHeadWidth), fmt::format("{} and {}", config.Dk, config.Dv));
}

void check_moe(Rules& rules, const ModelConfig& config) {
  rules.dimension("num_experts (expert_count)", config.E);
  rules.dimension("moe_intermediate_size (expert_feed_forward_length)", config.F);
  const std::size_t max_active = std::min(config.E, kMaxActiveExperts);
  rules.require(config.A >= 1 && config.A <= max_active, "num_experts_per_tok (expert_used_count)",
                fmt::format("a number from 1 to {}, with num_experts {}", max_active, config.E),
                fmt::format("{}", config.A));
  rules.require(config.shared_expert_width <= kMaxDimension,
                "shared_expert_intermediate_size (expert_shared_feed_forward_length)",
                fmt::format("at most {}", kMaxDimension), fmt::format("{}", config.shared_expert_width));
}

}  // namespace

Status check_config(const ModelConfig& config, const std::string& file) {
  Rules rules(file);
  rules.require(!config.layers.empty() && config.layers.size() <= kMaxLayers, "num_hidden_layers (block_count)",
                fmt::format("a number from 1 to {}", kMaxLayers), fmt::format("{}", config.layers.size()));
  rules.dimension("vocab_size", config.V);
  rules.dimension("hidden_size (embedding_length)", config.D);
  rules.require(config.eps > 0 && config.eps < 1, "rms_norm_eps (attention.layer_norm_rms_epsilon)",
                "a number in (0, 1)", fmt::format("{}", config.eps));
  rules.require(config.max_context_tokens >= 1 && config.max_context_tokens <= kMaxContextTokens,
                "max_position_embeddings (context_length)", fmt::format("a number from 1 to {}", kMaxContextTokens),
                fmt::format("{}", config.max_context_tokens));
  check_attention(rules, config);
  if (config.num_layers_of(MixerKind::kGatedDeltaNet) > 0) check_delta_net(rules, config);

  // The MTP block is a layer as well, of experts where there are any.
  bool any_moe = config.has_mtp && config.E > 0;
  bool any_dense = config.has_mtp && config.E == 0;
  for (const LayerConfig& layer : config.layers) {
    (layer.feed_forward == FeedForwardKind::kMoe ? any_moe : any_dense) = true;
  }
  if (any_dense) rules.dimension("intermediate_size (feed_forward_length)", config.dense_width);
  if (any_moe) check_moe(rules, config);
  return rules.status();
}

}  // namespace qnext
