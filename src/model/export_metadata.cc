#include "model/export_metadata.h"

#include <algorithm>
#include <cmath>

namespace qnext {
namespace {

constexpr std::uint32_t kQuantizationVersion = 2;  // of the block formats (ggml.h, GGML_QNT_VERSION)

// The interval at which attention layers come, when they do; any beyond the layers when there are none.
std::optional<std::size_t> attention_interval(const ModelConfig& config) {
  const auto is_attention = [](const LayerConfig& layer) { return layer.mixer == MixerKind::kAttention; };
  const auto first = std::find_if(config.layers.begin(), config.layers.end(), is_attention);
  const std::size_t interval = static_cast<std::size_t>(first - config.layers.begin()) + 1;
  for (std::size_t layer_idx = 0; layer_idx < config.num_layers(); ++layer_idx) {
    if (is_attention(config.layers[layer_idx]) != ((layer_idx + 1) % interval == 0)) return std::nullopt;
  }
  return interval;
}

// Writes the keys of one architecture: "qwen3next." before each.
class ArchitectureKeys {
 public:
  ArchitectureKeys(GgufHeader& header, const ModelConfig& config)
      : header_(header), config_(config), prefix_(fmt::format("{}.", gguf_architecture_name(config.architecture))) {}

  void add_network() {
    const std::size_t num_mtp_blocks = config_.has_mtp ? 1 : 0;
    count("block_count", config_.num_layers() + num_mtp_blocks);
    count("context_length", config_.max_context_tokens);
    count("embedding_length", config_.D);
    if (config_.dense_width > 0) count("feed_forward_length", config_.dense_width);
    count("attention.head_count", config_.Hq);
    count("attention.head_count_kv", config_.Hkv);
    add_rope();
    number("attention.layer_norm_rms_epsilon", config_.eps);
    if (config_.E > 0) {
      count("expert_count", config_.E);
      count("expert_used_count", config_.A);
      if (!config_.normalize_routing) header_.add_bool(prefix_ + "expert_weights_norm", false);
    }
    count("attention.key_length", config_.Dh);
    count("attention.value_length", config_.Dh);
  }

  void add_parts() {
    if (config_.E > 0) count("expert_feed_forward_length", config_.F);
    if (config_.E > 0 && config_.architecture == Architecture::kQwen3Next) {
      count("expert_shared_feed_forward_length", config_.shared_expert_width);
    }
    if (config_.has_mtp) count("nextn_predict_layers", 1);
    if (config_.architecture == Architecture::kQwen3Next) add_delta_net();
    const std::size_t usual_rotary = config_.architecture == Architecture::kQwen3Next ? 0 : config_.Dh;
    if (config_.rope.R != usual_rotary) count("rope.dimension_count", config_.rope.R);
  }

 private:
  void add_rope() {
    if (const auto& yarn = config_.rope.yarn) {
      header_.add_string(prefix_ + "rope.scaling.type", "yarn");
      number("rope.scaling.factor", yarn->factor);
      count("rope.scaling.original_context_length", static_cast<std::size_t>(yarn->original_context_tokens));
      // On top of the factor that follows from the scale.
      const double extra = yarn->attention_factor / (yarn->factor <= 1 ? 1.0 : 0.1 * std::log(yarn->factor) + 1.0);
      if (std::fabs(extra - 1) > 1e-6) number("rope.scaling.attn_factor", extra);
      number("rope.scaling.yarn_beta_fast", yarn->beta_fast);
      number("rope.scaling.yarn_beta_slow", yarn->beta_slow);
    }
    number("rope.freq_base", config_.rope.theta);
  }

  void add_delta_net() {
    count("ssm.conv_kernel", config_.conv_taps);
    count("ssm.state_size", config_.Dk);
    count("ssm.group_count", config_.Hk);
    count("ssm.time_step_rank", config_.Hv);
    count("ssm.inner_size", config_.Hv * config_.Dv);
    if (const auto interval = attention_interval(config_)) return count("full_attention_interval", *interval);
    std::vector<bool> recurrent;
    for (const LayerConfig& layer : config_.layers) recurrent.push_back(layer.mixer == MixerKind::kGatedDeltaNet);
    if (config_.has_mtp) recurrent.push_back(false);
    header_.add_bools(prefix_ + "attention.recurrent_layers", recurrent);
  }

  void count(std::string_view key, std::size_t value) {
    header_.add_u32(prefix_ + std::string(key), static_cast<std::uint32_t>(std::min<std::size_t>(value, UINT32_MAX)));
  }
  void number(std::string_view key, double value) {
    header_.add_f32(prefix_ + std::string(key), static_cast<float>(value));
  }

  GgufHeader& header_;
  const ModelConfig& config_;
  std::string prefix_;
};

void add_sampling(GgufHeader& header, const SamplingDefaults& sampling) {
  if (sampling.top_k) header.add_u32("general.sampling.top_k", *sampling.top_k);
  if (sampling.top_p) header.add_f32("general.sampling.top_p", *sampling.top_p);
  if (sampling.min_p) header.add_f32("general.sampling.min_p", *sampling.min_p);
  if (sampling.temperature) header.add_f32("general.sampling.temp", *sampling.temperature);
  if (sampling.repetition_penalty) header.add_f32("general.sampling.penalty_repeat", *sampling.repetition_penalty);
}

// "4.5M", "80B": at least two digits.
std::string rounded_count(double count) {
  const auto scaled = count > 1e12  ? std::pair(count * 1e-12, 'T')
                      : count > 1e9 ? std::pair(count * 1e-9, 'B')
                      : count > 1e6 ? std::pair(count * 1e-6, 'M')
                                    : std::pair(count * 1e-3, 'K');
  const std::size_t whole_digits = scaled.first < 0.5 ? 0 : fmt::format("{:.0f}", scaled.first).size();
  return fmt::format("{:.{}f}{}", scaled.first, whole_digits < 2 ? 2 - whole_digits : 0, scaled.second);
}

}  // namespace

std::string gguf_size_label(const ExportPlan& plan) {
  std::size_t num_experts = 0;
  double met_by_one_expert = 0;
  for (const ExportTensor& tensor : plan.tensors) {
    const auto num_elements = static_cast<double>(tensor.rows.num_rows()) * static_cast<double>(tensor.rows.cols());
    const bool experts = tensor.spec.shape.size() == 3;
    if (experts) num_experts = tensor.spec.shape[0];
    met_by_one_expert += experts ? num_elements / static_cast<double>(num_experts) : num_elements;
  }
  const std::string count = rounded_count(met_by_one_expert);
  return num_experts > 0 ? fmt::format("{}x{}", num_experts, count) : count;
}

void add_gguf_metadata(GgufHeader& header, const ModelConfig& config, const ExportPlan& plan,
                       const GgufMetadata& metadata) {
  header.add_string("general.architecture", gguf_architecture_name(config.architecture));
  header.add_string("general.type", "model");
  add_sampling(header, metadata.sampling);
  if (!metadata.name.empty()) header.add_string("general.name", metadata.name);
  header.add_string("general.size_label", gguf_size_label(plan));
  ArchitectureKeys keys(header, config);
  keys.add_network();
  header.add_u32("general.file_type", gguf_file_type(metadata.type));
  keys.add_parts();
  header.add_u32("general.quantization_version", kQuantizationVersion);
}

void add_requantised_metadata(GgufHeader& header, const Gguf& source, DType type) {
  for (const GgufKv& kv : source.metadata()) {
    const bool ours = kv.key == "general.file_type" || kv.key == "general.quantization_version";
    // imatrix: how the source's weights were rounded, not these.
    if (!ours && !kv.key.starts_with("split.") && !kv.key.starts_with("quantize.imatrix.")) header.add_copy(kv);
  }
  header.add_u32("general.file_type", gguf_file_type(type));
  header.add_u32("general.quantization_version", kQuantizationVersion);
}

}  // namespace qnext
