// The metadata of GGUF files, as llama.cpp's converter writes it for qwen3next, qwen3moe and qwen3.
#include <cmath>

#include "model/config.h"
#include "tensor/gguf.h"

namespace qnext {
namespace {

// Typed access to the keys of one architecture ("qwen3next.block_count"); remembers the first error.
class Keys {
 public:
  Keys(const Gguf& gguf, std::string_view architecture) : gguf_(gguf), prefix_(fmt::format("{}.", architecture)) {}

  std::string name(std::string_view key) const { return prefix_ + std::string(key); }
  bool has(std::string_view key) const { return gguf_.find(name(key)) != nullptr; }

  std::size_t count(std::string_view key) { return keep(gguf_.get_u64(name(key))); }
  std::size_t count(std::string_view key, std::size_t fallback) { return has(key) ? count(key) : fallback; }
  double number(std::string_view key) { return keep(gguf_.get_f32(name(key))); }
  double number(std::string_view key, double fallback) { return has(key) ? number(key) : fallback; }
  bool flag(std::string_view key, bool fallback) { return has(key) ? keep(gguf_.get_bool(name(key))) : fallback; }

  Status status() const { return message_.empty() ? success() : Status(Error{message_}); }

 private:
  template <class T>
  T keep(Result<T> result) {
    if (result.ok()) return *result;
    if (message_.empty()) message_ = result.message();
    return T{};
  }

  const Gguf& gguf_;
  std::string prefix_;
  std::string message_;
};

Result<Architecture> parse_architecture(const Gguf& gguf) {
  QN_TRY(const std::string_view name, gguf.get_string("general.architecture"));
  for (Architecture architecture : {Architecture::kQwen3Next, Architecture::kQwen3Moe, Architecture::kQwen3}) {
    if (name == gguf_architecture_name(architecture)) return architecture;
  }
  return error(
      "{}: general.architecture: expected qwen3next, qwen3moe or qwen3, found \"{}\"; no other family is supported",
      gguf.file_names().front(), printable(name));
}

// llama.cpp scales linearly where a factor comes without a type; here only YaRN scales.
Status parse_rope(ModelConfig& config, const Gguf& gguf, Keys& keys) {
  config.rope.theta = keys.number("rope.freq_base", kDefaultRopeTheta);
  const std::size_t whole_or_quarter = config.architecture == Architecture::kQwen3Next ? config.Dh / 4 : config.Dh;
  config.rope.R = keys.count("rope.dimension_count", whole_or_quarter);

  std::string_view kind = keys.has("rope.scaling.factor") ? "linear" : "none";
  if (keys.has("rope.scaling.type")) {
    QN_TRY(kind, gguf.get_string(keys.name("rope.scaling.type")));
  }
  const double factor = kind == "none" ? 1 : keys.number("rope.scaling.factor", 1);
  QN_RETURN_IF_ERROR(keys.status());
  if (kind == "none" || (kind == "linear" && (factor == 1 || factor == 0))) return success();  // 0: llama.cpp's none
  if (kind != "yarn") {
    return error("{}: {}: expected none or yarn, found {} by {}; other scalings are not supported",
                 gguf.file_names().front(), keys.name("rope.scaling.type"), printable(kind), factor);
  }
  YarnConfig yarn;
  yarn.factor = factor;
  yarn.original_context_tokens =
      static_cast<double>(keys.count("rope.scaling.original_context_length", config.max_context_tokens));
  yarn.beta_fast = keys.number("rope.scaling.yarn_beta_fast", 32);
  yarn.beta_slow = keys.number("rope.scaling.yarn_beta_slow", 1);
  // The converter puts config.json's attention_factor into yarn_attn_factor, in place of the one that follows from the
  // scale; attn_factor goes on top of either.
  const double usual = factor <= 1 ? 1.0 : 0.1 * std::log(factor) + 1.0;
  yarn.attention_factor =
      keys.number("rope.scaling.yarn_attn_factor", usual) * keys.number("rope.scaling.attn_factor", 1);
  config.rope.yarn = yarn;
  return keys.status();
}

// By block: true where it is recurrent. llama.cpp writes numbers, and one for all where they are equal.
Result<std::vector<bool>> parse_recurrent_layers(const Gguf& gguf, const std::string& key, std::size_t num_blocks) {
  const GgufValue& value = *gguf.find(key);
  if (!value.is_array()) {
    if (value.type == GgufType::kBool) {
      QN_TRY(const bool all, gguf.get_bool(key));
      return std::vector<bool>(num_blocks, all);
    }
    QN_TRY(const std::uint32_t all, gguf.get_u32(key));
    return std::vector<bool>(num_blocks, all != 0);
  }
  if (value.element_type == GgufType::kBool) return gguf.get_bools(key);
  QN_TRY(const std::vector<std::uint32_t> numbers, gguf.get_u32s(key));
  return std::vector<bool>(numbers.begin(), numbers.end());
}

// A list with one entry a block (recurrent or not), or an interval.
Status parse_mixers(ModelConfig& config, const Gguf& gguf, Keys& keys) {
  if (config.architecture != Architecture::kQwen3Next) return success();
  const std::string list = keys.name("attention.recurrent_layers");
  if (gguf.find(list) != nullptr) {
    QN_TRY(const std::vector<bool> recurrent, parse_recurrent_layers(gguf, list, config.layers.size()));
    if (recurrent.size() < config.layers.size()) {
      return error("{}: {}: expected at least {} entries, one a block, found {}", gguf.file_names().front(), list,
                   config.layers.size(), recurrent.size());
    }
    for (std::size_t layer_idx = 0; layer_idx < config.layers.size(); ++layer_idx) {
      config.layers[layer_idx].mixer = recurrent[layer_idx] ? MixerKind::kGatedDeltaNet : MixerKind::kAttention;
    }
    return success();
  }
  const std::size_t interval = keys.count("full_attention_interval", 4);
  QN_RETURN_IF_ERROR(keys.status());
  if (interval == 0) {
    return error("{}: {}: expected at least 1, found 0", gguf.file_names().front(),
                 keys.name("full_attention_interval"));
  }
  for (std::size_t layer_idx = 0; layer_idx < config.layers.size(); ++layer_idx) {
    config.layers[layer_idx].mixer =
        (layer_idx + 1) % interval == 0 ? MixerKind::kAttention : MixerKind::kGatedDeltaNet;
  }
  return success();
}

void parse_feed_forwards(ModelConfig& config, const Gguf& gguf, Keys& keys) {
  config.dense_width = keys.count("feed_forward_length", 0);
  if (config.architecture != Architecture::kQwen3) {
    config.E = keys.count("expert_count");
    config.A = keys.count("expert_used_count");
    config.F = keys.count("expert_feed_forward_length");
    config.normalize_routing = keys.flag("expert_weights_norm", true);
    if (config.architecture == Architecture::kQwen3Next) {
      config.shared_expert_width = keys.count("expert_shared_feed_forward_length", config.F);
    }
  }
  // No key names the dense layers among MoE ones; their tensors do.
  for (std::size_t layer_idx = 0; layer_idx < config.layers.size(); ++layer_idx) {
    const bool dense = config.architecture == Architecture::kQwen3 ||
                       gguf.find_tensor(fmt::format("blk.{}.ffn_gate.weight", layer_idx)) != nullptr;
    config.layers[layer_idx].feed_forward = dense ? FeedForwardKind::kDense : FeedForwardKind::kMoe;
  }
}

Result<std::size_t> parse_vocab_size(const Gguf& gguf, Keys& keys) {
  const TensorEntry* embedding = gguf.find_tensor("token_embd.weight");
  if (embedding == nullptr || embedding->shape.size() != 2) {
    return error("{}: tensor token_embd.weight: expected a matrix [vocabulary, {}], found {}",
                 gguf.file_names().front(), keys.name("embedding_length"),
                 embedding == nullptr ? "none" : shape_text(embedding->shape));
  }
  return embedding->shape[0];
}

}  // namespace

Result<ModelConfig> parse_config_gguf(const Gguf& gguf) {
  const std::string& file = gguf.file_names().front();
  ModelConfig config;
  QN_TRY(config.architecture, parse_architecture(gguf));
  Keys keys(gguf, gguf_architecture_name(config.architecture));

  const std::size_t num_mtp_blocks = keys.count("nextn_predict_layers", 0);
  const std::size_t num_blocks = keys.count("block_count");
  QN_RETURN_IF_ERROR(keys.status());
  if (num_mtp_blocks > 1) {
    return error("{}: {}: expected 0 or 1, found {}", file, keys.name("nextn_predict_layers"), num_mtp_blocks);
  }
  if (num_blocks <= num_mtp_blocks || num_blocks > kMaxLayers) {
    return error("{}: {}: expected from {} to {}, found {}", file, keys.name("block_count"), num_mtp_blocks + 1,
                 kMaxLayers, num_blocks);
  }
  config.has_mtp = num_mtp_blocks == 1;
  config.layers.resize(num_blocks - num_mtp_blocks);

  QN_TRY(config.V, parse_vocab_size(gguf, keys));
  config.D = keys.count("embedding_length");
  config.eps = static_cast<float>(keys.number("attention.layer_norm_rms_epsilon", 1e-6));
  config.tied_head = gguf.find_tensor("output.weight") == nullptr;
  config.max_context_tokens = keys.count("context_length");
  config.Hq = keys.count("attention.head_count");
  config.Hkv = keys.count("attention.head_count_kv", config.Hq);
  config.Dh = keys.count("attention.key_length", config.Hq == 0 ? 0 : config.D / config.Hq);
  if (const std::size_t found = keys.count("attention.value_length", config.Dh); found != config.Dh) {
    QN_RETURN_IF_ERROR(keys.status());
    return error("{}: {}: expected the key length {}, found {}", file, keys.name("attention.value_length"), config.Dh,
                 found);
  }
  config.attention_gate = config.architecture == Architecture::kQwen3Next;
  QN_RETURN_IF_ERROR(parse_rope(config, gguf, keys));
  QN_RETURN_IF_ERROR(parse_mixers(config, gguf, keys));
  if (config.num_layers_of(MixerKind::kGatedDeltaNet) > 0) {
    config.Hk = keys.count("ssm.group_count");
    config.Hv = keys.count("ssm.time_step_rank");
    config.Dk = keys.count("ssm.state_size");
    const std::size_t value_width = keys.count("ssm.inner_size");
    config.conv_taps = keys.count("ssm.conv_kernel");
    QN_RETURN_IF_ERROR(keys.status());
    if (config.Hv != 0 && value_width % config.Hv != 0) {
      return error("{}: {}: expected a multiple of {} {}, found {}", file, keys.name("ssm.inner_size"),
                   keys.name("ssm.time_step_rank"), config.Hv, value_width);
    }
    config.Dv = config.Hv == 0 ? 0 : value_width / config.Hv;  // 0: check_config() says so
  }
  parse_feed_forwards(config, gguf, keys);
  QN_RETURN_IF_ERROR(keys.status());
  QN_RETURN_IF_ERROR(check_config(config, file));
  return config;
}

}  // namespace qnext
