// config.json, written for transformers.
#include <charconv>
#include <nlohmann/json.hpp>

#include "model/export_metadata.h"

namespace qnext {
namespace {

using Json = nlohmann::ordered_json;

std::string_view torch_type(DType type) {
  switch (type) {
    case DType::kF32:
      return "float32";
    case DType::kF16:
      return "float16";
    default:
      return "bfloat16";
  }
}

// 1e-06f as 1e-06, not as the nearest double to that float.
double shortest_double(float value) {
  const std::string text = fmt::format("{}", value);
  double out = value;
  std::from_chars(text.data(), text.data() + text.size(), out);
  return out;
}

Json optional_id(const std::optional<TokenId>& id) {
  return id ? Json(*id) : Json(nullptr);
}

std::string_view class_name(Architecture architecture) {
  switch (architecture) {
    case Architecture::kQwen3Next:
      return "Qwen3NextForCausalLM";
    case Architecture::kQwen3Moe:
      return "Qwen3MoeForCausalLM";
    case Architecture::kQwen3:
      return "Qwen3ForCausalLM";
  }
  return "";
}

void add_rope(Json& out, const ModelConfig& config) {
  const RopeConfig& rope = config.rope;
  out["rope_theta"] = shortest_double(static_cast<float>(rope.theta));
  if (config.architecture == Architecture::kQwen3Next) {
    out["partial_rotary_factor"] = static_cast<double>(rope.R) / static_cast<double>(config.Dh);
  }
  out["rope_scaling"] = nullptr;
  if (!rope.yarn) return;
  out["rope_scaling"] = {
      {"rope_type", "yarn"},
      {"factor", shortest_double(static_cast<float>(rope.yarn->factor))},
      {"original_max_position_embeddings", static_cast<std::uint64_t>(rope.yarn->original_context_tokens)},
      {"beta_fast", shortest_double(static_cast<float>(rope.yarn->beta_fast))},
      {"beta_slow", shortest_double(static_cast<float>(rope.yarn->beta_slow))},
      {"attention_factor", rope.yarn->attention_factor},
  };
}

void add_delta_net(Json& out, const ModelConfig& config) {
  out["linear_conv_kernel_dim"] = config.conv_taps;
  out["linear_key_head_dim"] = config.Dk;
  out["linear_value_head_dim"] = config.Dv;
  out["linear_num_key_heads"] = config.Hk;
  out["linear_num_value_heads"] = config.Hv;
}

void add_moe(Json& out, const ModelConfig& config) {
  out["decoder_sparse_step"] = 1;
  Json dense_layers = Json::array();
  for (std::size_t layer_idx = 0; layer_idx < config.num_layers(); ++layer_idx) {
    if (config.layers[layer_idx].feed_forward == FeedForwardKind::kDense) dense_layers.push_back(layer_idx);
  }
  out["mlp_only_layers"] = dense_layers;
  out["num_experts"] = config.E;
  out["num_experts_per_tok"] = config.A;
  out["moe_intermediate_size"] = config.F;
  if (config.architecture == Architecture::kQwen3Next) {
    out["shared_expert_intermediate_size"] = config.shared_expert_width;
  }
  out["norm_topk_prob"] = config.normalize_routing;
}

}  // namespace

std::string config_json_text(const ModelConfig& config, DType type, const SpecialTokens& tokens) {
  Json out;
  out["architectures"] = {class_name(config.architecture)};
  out["model_type"] = architecture_name(config.architecture);
  out["torch_dtype"] = torch_type(type);
  out["vocab_size"] = config.V;
  out["hidden_size"] = config.D;
  out["intermediate_size"] = config.dense_width;
  out["num_hidden_layers"] = config.num_layers();
  out["num_attention_heads"] = config.Hq;
  out["num_key_value_heads"] = config.Hkv;
  out["head_dim"] = config.Dh;
  out["hidden_act"] = "silu";
  out["attention_bias"] = false;
  out["max_position_embeddings"] = config.max_context_tokens;
  out["rms_norm_eps"] = shortest_double(config.eps);
  out["tie_word_embeddings"] = config.tied_head;
  add_rope(out, config);
  if (config.architecture == Architecture::kQwen3Next) {
    Json layer_types = Json::array();
    for (const LayerConfig& layer : config.layers) {
      layer_types.push_back(layer.mixer == MixerKind::kAttention ? "full_attention" : "linear_attention");
    }
    out["layer_types"] = layer_types;
    add_delta_net(out, config);
  }
  if (config.E > 0) add_moe(out, config);
  out["bos_token_id"] = optional_id(tokens.bos);
  out["eos_token_id"] = optional_id(tokens.eos);
  out["pad_token_id"] = optional_id(tokens.pad);
  return out.dump(2) + "\n";
}

std::string retyped_config_json(std::string_view source_text, DType type) {
  Json out = Json::parse(source_text, nullptr, /*allow_exceptions=*/false);
  QN_CHECK(out.is_object(), "config.json was parsed before as an object");
  out.erase("quantization_config");  // FP8: the scales have been applied
  for (const char* key : {"dtype", "torch_dtype"}) {
    if (out.contains(key)) out[key] = torch_type(type);
  }
  return out.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace qnext
