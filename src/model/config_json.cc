// config.json of Hugging Face transformers.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "model/config.h"

namespace qnext {
namespace {

using Json = nlohmann::json;

constexpr int kMaxJsonDepth = 32;

// Refuses nesting beyond kMaxJsonDepth before the parser recurses into it.
Result<Json> parse_json(std::string_view text, const std::string& file) {
  bool too_deep = false;
  const auto depth_guard = [&](int depth, Json::parse_event_t, Json&) {
    too_deep |= depth > kMaxJsonDepth;
    return !too_deep;
  };
  Json root = Json::parse(text, depth_guard, /*allow_exceptions=*/false);
  if (too_deep) return error("{}: nested deeper than {} levels", file, kMaxJsonDepth);
  if (root.is_discarded()) return error("{}: not valid JSON", file);
  if (!root.is_object()) return error("{}: expected a JSON object, found {}", file, root.type_name());
  return root;
}

// Typed access to the fields of one object; remembers the first error.
class Fields {
 public:
  Fields(const Json& object, std::string where) : object_(object), where_(std::move(where)) {}

  // The field, or null when it is absent or null.
  const Json* find(const char* key) const {
    const auto it = object_.find(key);
    return it == object_.end() || it->is_null() ? nullptr : &*it;
  }

  std::size_t count(const char* key, std::optional<std::size_t> fallback = std::nullopt) {
    const Json* field = find(key);
    if (field == nullptr && fallback) return *fallback;
    if (field == nullptr || !field->is_number_unsigned()) {
      fail(key, "a non-negative whole number", field);
      return 0;
    }
    return field->get<std::size_t>();
  }

  double number(const char* key, std::optional<double> fallback = std::nullopt) {
    const Json* field = find(key);
    if (field == nullptr && fallback) return *fallback;
    if (field == nullptr || !field->is_number()) {
      fail(key, "a number", field);
      return 0;
    }
    return field->get<double>();
  }

  bool flag(const char* key, bool fallback) {
    const Json* field = find(key);
    if (field == nullptr) return fallback;
    if (!field->is_boolean()) {
      fail(key, "true or false", field);
      return fallback;
    }
    return field->get<bool>();
  }

  std::string text(const char* key, const std::string& fallback) {
    const Json* field = find(key);
    if (field == nullptr) return fallback;
    if (!field->is_string()) {
      fail(key, "a string", field);
      return fallback;
    }
    return field->get<std::string>();
  }

  void fail(const char* key, std::string_view expected, const Json* found) {
    if (!message_.empty()) return;
    std::string shown = found == nullptr ? "nothing" : found->dump(-1, ' ', true, Json::error_handler_t::replace);
    if (shown.size() > 80) shown = shown.substr(0, 77) + "...";
    message_ = fmt::format("{}: {}: expected {}, found {}", where_, key, expected, shown);
  }

  Status status() const { return message_.empty() ? success() : Status(Error{message_}); }

 private:
  const Json& object_;
  std::string where_;
  std::string message_;
};

Result<Architecture> parse_architecture(Fields& fields, const std::string& file) {
  const std::string model_type = fields.text("model_type", "");
  for (Architecture architecture : {Architecture::kQwen3Next, Architecture::kQwen3Moe, Architecture::kQwen3}) {
    if (model_type == architecture_name(architecture)) return architecture;
  }
  return error("{}: model_type: expected qwen3_next, qwen3_moe or qwen3, found \"{}\"; no other family is supported",
               file, model_type);
}

double default_attention_factor(double factor) {
  return factor <= 1 ? 1.0 : 0.1 * std::log(factor) + 1.0;
}

// The older spelling is rope_theta + partial_rotary_factor beside rope_scaling; the newer has all three in
// rope_parameters. Either may be present, and the newer wins where both speak.
Status parse_rope(ModelConfig& config, Fields& fields, const std::string& file) {
  const double default_theta = config.architecture == Architecture::kQwen3Next ? 1e7 : 1e6;
  const double default_fraction = config.architecture == Architecture::kQwen3Next ? 0.25 : 1.0;
  double fraction = fields.number("partial_rotary_factor", default_fraction);
  config.rope.theta = fields.number("rope_theta", default_theta);

  const char* key = fields.find("rope_parameters") != nullptr ? "rope_parameters" : "rope_scaling";
  if (const Json* scaling = fields.find(key)) {
    if (!scaling->is_object()) {
      fields.fail(key, "an object", scaling);
      return fields.status();
    }
    Fields rope(*scaling, file + ": " + key);
    config.rope.theta = rope.number("rope_theta", config.rope.theta);
    fraction = rope.number("partial_rotary_factor", fraction);
    const std::string kind = rope.text("rope_type", rope.text("type", "default"));
    if (kind == "yarn") {
      YarnConfig yarn;
      yarn.factor = rope.number("factor");
      yarn.original_context_tokens =
          rope.number("original_max_position_embeddings", static_cast<double>(config.max_context_tokens));
      yarn.beta_fast = rope.number("beta_fast", 32.0);
      yarn.beta_slow = rope.number("beta_slow", 1.0);
      yarn.attention_factor = rope.number("attention_factor", default_attention_factor(yarn.factor));
      config.rope.yarn = yarn;
    } else if (kind != "default") {
      return error("{}: {}.rope_type: expected default or yarn, found \"{}\"", file, key, kind);
    }
    QN_RETURN_IF_ERROR(rope.status());
  }
  if (!(fraction > 0 && fraction <= 1)) {
    return error("{}: partial_rotary_factor: expected a number in (0, 1], found {}", file, fraction);
  }
  config.rope.R = static_cast<std::size_t>(static_cast<double>(std::min<std::size_t>(config.Dh, 1 << 20)) * fraction);
  return fields.status();
}

Status parse_mixers(ModelConfig& config, Fields& fields, const std::string& file) {
  if (const Json* types = fields.find("layer_types")) {
    if (!types->is_array() || types->size() != config.layers.size()) {
      fields.fail("layer_types", fmt::format("a list of {} names, one a layer", config.layers.size()), types);
      return fields.status();
    }
    for (std::size_t layer_idx = 0; layer_idx < config.layers.size(); ++layer_idx) {
      const Json& type = (*types)[layer_idx];
      if (type == "full_attention") {
        config.layers[layer_idx].mixer = MixerKind::kAttention;
      } else if (type == "linear_attention" && config.architecture == Architecture::kQwen3Next) {
        config.layers[layer_idx].mixer = MixerKind::kGatedDeltaNet;
      } else {
        return error("{}: layer_types[{}]: expected full_attention{}, found {}", file, layer_idx,
                     config.architecture == Architecture::kQwen3Next ? " or linear_attention" : "",
                     type.dump(-1, ' ', true, Json::error_handler_t::replace));
      }
    }
    return success();
  }
  if (config.architecture != Architecture::kQwen3Next) return success();
  const std::size_t interval = fields.count("full_attention_interval", 4);
  if (interval == 0) return error("{}: full_attention_interval: expected a number of at least 1, found 0", file);
  for (std::size_t layer_idx = 0; layer_idx < config.layers.size(); ++layer_idx) {
    config.layers[layer_idx].mixer =
        (layer_idx + 1) % interval == 0 ? MixerKind::kAttention : MixerKind::kGatedDeltaNet;
  }
  return success();
}

// Dense layers are those named in mlp_only_layers and those that decoder_sparse_step leaves out.
Status parse_feed_forwards(ModelConfig& config, Fields& fields, const std::string& file) {
  if (config.architecture == Architecture::kQwen3) {
    for (LayerConfig& layer : config.layers) layer.feed_forward = FeedForwardKind::kDense;
    config.dense_width = fields.count("intermediate_size");
    return fields.status();
  }
  // Newer exports of the older family say num_local_experts.
  config.E = fields.count(fields.find("num_local_experts") != nullptr ? "num_local_experts" : "num_experts");
  config.A = fields.count("num_experts_per_tok");
  config.F = fields.count("moe_intermediate_size");
  config.dense_width = fields.count("intermediate_size", 0);
  config.normalize_routing = fields.flag("norm_topk_prob", config.architecture == Architecture::kQwen3Next);
  if (config.architecture == Architecture::kQwen3Next) {
    config.shared_expert_width = fields.count("shared_expert_intermediate_size");
  }
  const std::size_t step = fields.count("decoder_sparse_step", 1);
  if (step == 0) return error("{}: decoder_sparse_step: expected a number of at least 1, found 0", file);
  for (std::size_t layer_idx = 0; layer_idx < config.layers.size(); ++layer_idx) {
    const bool sparse = config.E > 0 && (layer_idx + 1) % step == 0;
    config.layers[layer_idx].feed_forward = sparse ? FeedForwardKind::kMoe : FeedForwardKind::kDense;
  }
  if (const Json* dense_layers = fields.find("mlp_only_layers")) {
    if (!dense_layers->is_array()) fields.fail("mlp_only_layers", "a list of layer numbers", dense_layers);
    for (const Json& layer_idx : *dense_layers) {
      if (!layer_idx.is_number_unsigned() || layer_idx.get<std::size_t>() >= config.layers.size()) {
        return error("{}: mlp_only_layers: expected layer numbers below {}, found {}", file, config.layers.size(),
                     layer_idx.dump(-1, ' ', true, Json::error_handler_t::replace));
      }
      config.layers[layer_idx.get<std::size_t>()].feed_forward = FeedForwardKind::kDense;
    }
  }
  return fields.status();
}

}  // namespace

Result<ModelConfig> parse_config_json(std::string_view text, const std::string& file) {
  QN_TRY(const Json root, parse_json(text, file));
  Fields fields(root, file);
  ModelConfig config;
  QN_TRY(config.architecture, parse_architecture(fields, file));

  const std::string activation = fields.text("hidden_act", "silu");
  if (activation != "silu") return error("{}: hidden_act: expected silu, found \"{}\"", file, activation);
  if (fields.flag("attention_bias", false)) {
    return error("{}: attention_bias: expected false (biased projections are not supported), found true", file);
  }
  if (fields.flag("use_sliding_window", false)) {
    return error("{}: use_sliding_window: expected false (sliding windows are not supported), found true", file);
  }

  const std::size_t num_layers = fields.count("num_hidden_layers");
  if (num_layers == 0 || num_layers > 4096) {
    QN_RETURN_IF_ERROR(fields.status());
    return error("{}: num_hidden_layers: expected a number from 1 to 4096, found {}", file, num_layers);
  }
  config.layers.resize(num_layers);
  config.V = fields.count("vocab_size");
  config.D = fields.count("hidden_size");
  config.eps = static_cast<float>(fields.number("rms_norm_eps", 1e-6));
  config.tied_head = fields.flag("tie_word_embeddings", false);
  config.max_context_tokens = fields.count("max_position_embeddings");
  config.Hq = fields.count("num_attention_heads");
  config.Hkv = fields.count("num_key_value_heads", config.Hq);
  config.Dh = fields.count("head_dim", config.Hq == 0 ? 0 : config.D / config.Hq);
  config.attention_gate = config.architecture == Architecture::kQwen3Next;
  QN_RETURN_IF_ERROR(parse_rope(config, fields, file));
  QN_RETURN_IF_ERROR(parse_mixers(config, fields, file));
  if (config.num_layers_of(MixerKind::kGatedDeltaNet) > 0) {
    config.Hk = fields.count("linear_num_key_heads");
    config.Hv = fields.count("linear_num_value_heads");
    config.Dk = fields.count("linear_key_head_dim");
    config.Dv = fields.count("linear_value_head_dim");
    config.conv_taps = fields.count("linear_conv_kernel_dim", 4);
  }
  QN_RETURN_IF_ERROR(parse_feed_forwards(config, fields, file));
  QN_RETURN_IF_ERROR(fields.status());
  QN_RETURN_IF_ERROR(check_config(config, file));
  return config;
}

}  // namespace qnext
