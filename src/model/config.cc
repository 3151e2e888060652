#include "model/config.h"

#include <cmath>
#include <limits>

namespace qnext {

std::size_t ModelConfig::num_layers_of(MixerKind mixer) const {
  std::size_t count = 0;
  for (const LayerConfig& layer : layers) count += layer.mixer == mixer ? 1 : 0;
  return count;
}

std::size_t ModelConfig::kv_bytes_per_token(std::size_t bytes_per_value) const {
  return (num_layers_of(MixerKind::kAttention) + (has_mtp ? 1 : 0)) * 2 * Hkv * Dh * bytes_per_value;
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

// No dimension of this family is near this; below it, products of three fit 64 bits with room.
constexpr std::size_t kMaxDimension = std::size_t{1} << 20;
constexpr std::size_t kMaxLayers = 4096;

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
  rules.require(std::isfinite(yarn.factor) && yarn.factor >= 1, "rope_scaling.factor", "a number of at least 1",
                fmt::format("{}", yarn.factor));
  rules.require(yarn.original_context_tokens >= 1, "rope_scaling.original_max_position_embeddings", "a positive number",
                fmt::format("{}", yarn.original_context_tokens));
  rules.require(yarn.beta_fast > 0 && yarn.beta_slow > 0, "rope_scaling.beta_fast, beta_slow", "positive numbers",
                fmt::format("{}, {}", yarn.beta_fast, yarn.beta_slow));
  rules.require(std::isfinite(yarn.attention_factor) && yarn.attention_factor > 0, "rope_scaling.attention_factor",
                "a positive number", fmt::format("{}", yarn.attention_factor));
}

}  // namespace

Status check_config(const ModelConfig& config, const std::string& file) {
  Rules rules(file);
  rules.require(!config.layers.empty() && config.layers.size() <= kMaxLayers, "num_hidden_layers",
                fmt::format("a number from 1 to {}", kMaxLayers), fmt::format("{}", config.layers.size()));
  rules.dimension("vocab_size", config.V);
  rules.dimension("hidden_size", config.D);
  rules.require(config.eps > 0 && config.eps < 1, "rms_norm_eps", "a number in (0, 1)", fmt::format("{}", config.eps));

  if (config.num_layers_of(MixerKind::kAttention) > 0 || config.has_mtp) {
    rules.dimension("num_attention_heads", config.Hq);
    rules.dimension("num_key_value_heads", config.Hkv);
    rules.dimension("head_dim", config.Dh);
    rules.divides("num_key_value_heads", config.Hkv, config.Hq);
    rules.require(config.Hq * config.Dh <= kMaxDimension, "num_attention_heads * head_dim",
                  fmt::format("at most {}", kMaxDimension), fmt::format("{}", config.Hq * config.Dh));
    rules.require(config.Dh <= 512, "head_dim", "at most 512", fmt::format("{}", config.Dh));
    rules.require(config.rope.R >= 2 && config.rope.R % 2 == 0 && config.rope.R <= config.Dh, "rotary dimensions",
                  fmt::format("an even number from 2 to head_dim {}", config.Dh), fmt::format("{}", config.rope.R));
    rules.require(std::isfinite(config.rope.theta) && config.rope.theta > 1, "rope_theta", "a number above 1",
                  fmt::format("{}", config.rope.theta));
  }
  if (config.rope.yarn) check_yarn(rules, *config.rope.yarn);
  if (config.num_layers_of(MixerKind::kGatedDeltaNet) > 0) {
    rules.dimension("linear_num_key_heads", config.Hk);
    rules.dimension("linear_num_value_heads", config.Hv);
    rules.dimension("linear_key_head_dim", config.Dk);
    rules.dimension("linear_value_head_dim", config.Dv);
    rules.divides("linear_num_key_heads", config.Hk, config.Hv);
    rules.require(config.conv_taps >= 2 && config.conv_taps <= 64, "linear_conv_kernel_dim", "a number from 2 to 64",
                  fmt::format("{}", config.conv_taps));
    rules.require(config.C() <= kMaxDimension, "conv channels", fmt::format("at most {}", kMaxDimension),
                  fmt::format("{}", config.C()));
    rules.require(config.Dk <= 512 && config.Dv <= 512, "linear head dims", "at most 512",
                  fmt::format("{} and {}", config.Dk, config.Dv));
  }
  bool any_moe = false;
  bool any_dense = false;
  for (const LayerConfig& layer : config.layers) {
    (layer.feed_forward == FeedForwardKind::kMoe ? any_moe : any_dense) = true;
  }
  if (any_dense) rules.dimension("intermediate_size", config.dense_width);
  if (any_moe) {
    rules.dimension("num_experts", config.E);
    rules.dimension("moe_intermediate_size", config.F);
    rules.require(config.A >= 1 && config.A <= config.E, "num_experts_per_tok",
                  fmt::format("a number from 1 to num_experts {}", config.E), fmt::format("{}", config.A));
    rules.require(config.shared_expert_width <= kMaxDimension, "shared_expert_intermediate_size",
                  fmt::format("at most {}", kMaxDimension), fmt::format("{}", config.shared_expert_width));
  }
  return rules.status();
}

}  // namespace qnext
