// config.json of Hugging Face transformers.
#include <algorithm>
#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>
#include <set>

#include "model/config.h"
#include "tensor/tensor_entry.h"

namespace qnext {
namespace {

using Json = nlohmann::ordered_json;

// A value as errors show it; null: there is none.
std::string shown(const Json* value) {
  if (value == nullptr) return "nothing";
  std::string text = value->dump(-1, ' ', /*ensure_ascii=*/true, Json::error_handler_t::replace);
  return text.size() > 80 ? text.substr(0, 77) + "..." : text;
}

constexpr int kMaxJsonDepth = 32;
constexpr std::size_t kMaxJsonBytes = std::size_t{4} << 20;  // known files have some kilobytes

// What JSON itself leaves open: nesting is refused before the parser recurses into it, and so is a key that stands
// twice in one object, of which readers would take either.
class JsonGuard {
 public:
  bool operator()(int depth, Json::parse_event_t event, const Json& parsed) {
    if (depth > kMaxJsonDepth) too_deep_ = true;
    if (too_deep_) return false;
    const auto level = static_cast<std::size_t>(depth);
    if (event == Json::parse_event_t::object_start) {
      keys_.resize(level + 2);
      keys_.back().clear();
    } else if (event == Json::parse_event_t::key) {
      const auto& key = parsed.get_ref<const std::string&>();
      if (!keys_[level].insert(key).second && !repeated_) repeated_ = key;
    }
    return true;
  }

  bool too_deep() const { return too_deep_; }
  const std::optional<std::string>& repeated() const { return repeated_; }

 private:
  std::vector<std::set<std::string>> keys_;  // by depth: of the object that is open there
  bool too_deep_ = false;
  std::optional<std::string> repeated_;
};

Result<Json> parse_json(std::string_view text, const std::string& file) {
  if (text.size() > kMaxJsonBytes) {
    return error("{}: expected a config of at most {} bytes, found {}; is this another file?", file, kMaxJsonBytes,
                 text.size());
  }
  JsonGuard guard;
  Json root;
  try {
    root = Json::parse(text, std::ref(guard));
  } catch (const Json::exception& failure) {
    if (!guard.too_deep()) return error("{}: expected JSON, found none: {}", file, printable(failure.what()));
  }
  if (guard.too_deep()) return error("{}: expected at most {} levels of nesting, found more", file, kMaxJsonDepth);
  if (guard.repeated()) {
    return error("{}: {}: expected once in its object, found twice", file, printable(*guard.repeated()));
  }
  if (!root.is_object()) return error("{}: expected a JSON object, found {}", file, shown(&root));
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
    if (message_.empty()) message_ = fmt::format("{}: {}: expected {}, found {}", where_, key, expected, shown(found));
  }
  void fail(const char* key, std::string_view expected) { fail(key, expected, find(key)); }

  Status status() const { return message_.empty() ? success() : Status(Error{message_}); }
  Error take_error() { return Error{std::move(message_)}; }  // requires that something failed

 private:
  const Json& object_;
  std::string where_;
  std::string message_;
};

Result<Architecture> parse_architecture(Fields& fields) {
  const std::string model_type = fields.text("model_type", "");
  for (Architecture architecture : {Architecture::kQwen3Next, Architecture::kQwen3Moe, Architecture::kQwen3}) {
    if (model_type == architecture_name(architecture)) return architecture;
  }
  fields.fail("model_type", "\"qwen3_next\", \"qwen3_moe\" or \"qwen3\" (no other family is supported)");
  return fields.take_error();
}

double default_attention_factor(double factor) {
  return factor <= 1 ? 1.0 : 0.1 * std::log(factor) + 1.0;
}

YarnConfig parse_yarn(Fields& rope, std::size_t max_context_tokens) {
  YarnConfig yarn;
  yarn.factor = rope.number("factor");
  yarn.original_context_tokens =
      rope.number("original_max_position_embeddings", static_cast<double>(max_context_tokens));
  yarn.beta_fast = rope.number("beta_fast", 32.0);
  yarn.beta_slow = rope.number("beta_slow", 1.0);
  yarn.attention_factor = rope.number("attention_factor", default_attention_factor(yarn.factor));
  // Other families' variants of YaRN; to pass over them would give other angles in silence.
  if (!rope.flag("truncate", true)) rope.fail("truncate", "true or nothing");
  for (const char* key : {"mscale", "mscale_all_dim"}) {
    if (rope.find(key) != nullptr) rope.fail(key, "nothing");
  }
  return yarn;
}

// The older spelling is rope_theta + partial_rotary_factor beside rope_scaling; the newer has all in rope_parameters.
// As in transformers, rope_scaling goes before rope_parameters, and what stands in the object before what stands
// beside.
Status parse_rope(ModelConfig& config, Fields& fields, const std::string& file) {
  const double default_fraction = config.architecture == Architecture::kQwen3Next ? 0.25 : 1.0;
  double fraction = fields.number("partial_rotary_factor", default_fraction);
  config.rope.theta = fields.number("rope_theta", kDefaultRopeTheta);

  const Json* older = fields.find("rope_scaling");
  const char* key = older != nullptr && !older->empty() ? "rope_scaling" : "rope_parameters";
  if (const Json* scaling = fields.find(key)) {
    if (!scaling->is_object()) {
      fields.fail(key, "an object", scaling);
      return fields.status();
    }
    Fields rope(*scaling, file + ": " + key);
    config.rope.theta = rope.number("rope_theta", config.rope.theta);
    fraction = rope.number("partial_rotary_factor", fraction);
    const char* kind_key = rope.find("rope_type") != nullptr ? "rope_type" : "type";
    const std::string kind = rope.text(kind_key, "default");
    if (kind == "yarn") {
      config.rope.yarn = parse_yarn(rope, config.max_context_tokens);
    } else if (kind != "default") {
      rope.fail(kind_key, "\"default\" or \"yarn\"");
    }
    QN_RETURN_IF_ERROR(rope.status());
  }
  QN_RETURN_IF_ERROR(fields.status());
  if (!(fraction > 0 && fraction <= 1)) {
    return error("{}: partial_rotary_factor: expected a number in (0, 1], found {}", file, fraction);
  }
  config.rope.R = static_cast<std::size_t>(static_cast<double>(std::min(config.Dh, kMaxDimension)) * fraction);
  return success();
}

Status parse_layer_types(ModelConfig& config, Fields& fields, const std::string& file, const Json& types) {
  if (!types.is_array() || types.size() != config.layers.size()) {
    fields.fail("layer_types", fmt::format("a list of {} names, one a layer", config.layers.size()));
    return fields.status();
  }
  const bool has_delta_net = config.architecture == Architecture::kQwen3Next;
  for (std::size_t layer_idx = 0; layer_idx < config.layers.size(); ++layer_idx) {
    const Json& type = types[layer_idx];
    const bool is_linear = has_delta_net && type == "linear_attention";
    if (!is_linear && type != "full_attention") {
      return error("{}: layer_types[{}]: expected \"full_attention\"{}, found {}", file, layer_idx,
                   has_delta_net ? " or \"linear_attention\"" : "", shown(&type));
    }
    config.layers[layer_idx].mixer = is_linear ? MixerKind::kGatedDeltaNet : MixerKind::kAttention;
  }
  return success();
}

Status parse_mixers(ModelConfig& config, Fields& fields, const std::string& file) {
  if (const Json* types = fields.find("layer_types")) return parse_layer_types(config, fields, file, *types);
  if (config.architecture != Architecture::kQwen3Next) return success();
  const std::size_t interval = fields.count("full_attention_interval", 4);
  if (interval == 0) fields.fail("full_attention_interval", "a number of at least 1");
  QN_RETURN_IF_ERROR(fields.status());
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
  if (step == 0) fields.fail("decoder_sparse_step", "a number of at least 1");
  QN_RETURN_IF_ERROR(fields.status());
  for (std::size_t layer_idx = 0; layer_idx < config.layers.size(); ++layer_idx) {
    const bool sparse = config.E > 0 && (layer_idx + 1) % step == 0;
    config.layers[layer_idx].feed_forward = sparse ? FeedForwardKind::kMoe : FeedForwardKind::kDense;
  }
  if (const Json* dense_layers = fields.find("mlp_only_layers")) {
    if (!dense_layers->is_array()) {
      fields.fail("mlp_only_layers", "a list of layer numbers", dense_layers);
      return fields.status();
    }
    for (const Json& layer_idx : *dense_layers) {
      if (!layer_idx.is_number_unsigned() || layer_idx.get<std::size_t>() >= config.layers.size()) {
        return error("{}: mlp_only_layers: expected layer numbers below {}, found {}", file, config.layers.size(),
                     shown(&layer_idx));
      }
      config.layers[layer_idx.get<std::size_t>()].feed_forward = FeedForwardKind::kDense;
    }
  }
  return success();
}

// What would change the network and is not supported must be off.
Status expect_plain(Fields& fields) {
  if (fields.text("hidden_act", "silu") != "silu") fields.fail("hidden_act", "\"silu\"");
  if (fields.flag("attention_bias", false)) {
    fields.fail("attention_bias", "false (biased projections are not supported)");
  }
  if (fields.flag("use_sliding_window", false)) {
    fields.fail("use_sliding_window", "false (sliding windows are not supported)");
  }
  return fields.status();
}

// The head width of a config that does not say it, as transformers' classes have it.
std::size_t default_head_width(const ModelConfig& config) {
  switch (config.architecture) {
    case Architecture::kQwen3Next:
      return 256;
    case Architecture::kQwen3Moe:
      return config.Hq == 0 ? 0 : config.D / config.Hq;
    case Architecture::kQwen3:
      return 128;
  }
  return 0;
}

}  // namespace

Result<ModelConfig> parse_config_json(std::string_view text, const std::string& file) {
  QN_TRY(const Json root, parse_json(text, file));
  Fields fields(root, file);
  ModelConfig config;
  QN_TRY(config.architecture, parse_architecture(fields));
  QN_RETURN_IF_ERROR(expect_plain(fields));

  const std::size_t num_layers = fields.count("num_hidden_layers");
  if (num_layers == 0 || num_layers > kMaxLayers) {
    fields.fail("num_hidden_layers", fmt::format("a number from 1 to {}", kMaxLayers));
    return fields.take_error();
  }
  config.layers.resize(num_layers);
  config.V = fields.count("vocab_size");
  config.D = fields.count("hidden_size");
  config.eps = static_cast<float>(fields.number("rms_norm_eps", 1e-6));
  config.tied_head = fields.flag("tie_word_embeddings", false);
  config.max_context_tokens = fields.count("max_position_embeddings");
  config.Hq = fields.count("num_attention_heads");
  config.Hkv = fields.count("num_key_value_heads", config.Hq);
  config.Dh = fields.count("head_dim", default_head_width(config));
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
