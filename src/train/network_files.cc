#include "train/network_files.h"

#include <cmath>
#include <cstring>
#include <set>

#include "tensor/safetensors_writer.h"
#include "text/tokenizer_config.h"

namespace qnext::train {
namespace {

constexpr std::size_t kMaxConfigBytes = std::size_t{1} << 20;

MoeWeights make_moe(const ModelConfig& config) {
  const std::int64_t D = signed_size(config.D), E = signed_size(config.E), F = signed_size(config.F);
  const std::int64_t shared = signed_size(config.shared_expert_width);
  return {.gate = torch::empty({E, D}),
          .gate_up = torch::empty({E, 2 * F, D}),
          .down = torch::empty({E, D, F}),
          .shared_gate_up = torch::empty({1, 2 * shared, D}),
          .shared_down = torch::empty({1, D, shared}),
          .shared_expert_gate = torch::empty({1, D})};
}

LayerWeights make_layer(const ModelConfig& config, MixerKind kind) {
  const std::int64_t D = signed_size(config.D), Dh = signed_size(config.Dh), Hkv = signed_size(config.Hkv);
  LayerWeights out{
      .input_norm = torch::empty({D}), .post_norm = torch::empty({D}), .mixer = {}, .moe = make_moe(config)};
  if (kind == MixerKind::kAttention) {
    const std::int64_t queries = signed_size(config.Hq) * Dh;
    out.mixer = AttentionWeights{.q_proj = torch::empty({2 * queries, D}),
                                 .k_proj = torch::empty({Hkv * Dh, D}),
                                 .v_proj = torch::empty({Hkv * Dh, D}),
                                 .o_proj = torch::empty({D, queries}),
                                 .q_norm = torch::empty({Dh}),
                                 .k_norm = torch::empty({Dh})};
    return out;
  }
  const std::int64_t values = signed_size(config.Hv * config.Dv), C = signed_size(config.C());
  const std::int64_t Hv = signed_size(config.Hv);
  out.mixer = DeltaNetWeights{.in_proj_qkvz = torch::empty({C + values, D}),
                              .in_proj_ba = torch::empty({2 * Hv, D}),
                              .conv1d = torch::empty({C, 1, signed_size(config.conv_taps)}),
                              .A_log = torch::empty({Hv}),
                              .dt_bias = torch::empty({Hv}),
                              .norm = torch::empty({signed_size(config.Dv)}),
                              .out_proj = torch::empty({D, values})};
  return out;
}

bool ends_with_any(const std::string& name, std::initializer_list<std::string_view> ends) {
  return std::any_of(ends.begin(), ends.end(), [&](std::string_view end) { return name.ends_with(end); });
}

void init_weight(const std::string& name, Tensor& value, std::size_t num_layers, const InitOptions& options,
                 torch::Generator& random) {
  if (name.ends_with("linear_attn.norm.weight")) {
    value.fill_(1);
  } else if (name.find("norm") != std::string::npos) {
    value.zero_();
  } else if (name.ends_with("conv1d.weight")) {
    const double bound = 1 / std::sqrt(static_cast<double>(value.size(2)));
    value.uniform_(-bound, bound, random);
  } else if (name.ends_with("A_log")) {
    value.uniform_(0.01, 16, random).log_();  // 0 itself would be a head whose logarithm is -inf
  } else if (name.ends_with("dt_bias")) {
    const Tensor step = torch::empty_like(value).uniform_(std::log(0.001), std::log(0.1), random).exp_();
    value.copy_(step + torch::log(-torch::expm1(-step)));  // softplus(value) = step
  } else {
    const bool joins_residual = ends_with_any(name, {"o_proj.weight", "out_proj.weight", "down_proj"});
    value.normal_(0, joins_residual ? 0.02 / std::sqrt(2.0 * static_cast<double>(num_layers)) : 0.02, random);
  }
  if (options.balanced_router && name.ends_with("mlp.gate.weight")) {
    const double length = 0.02 * std::sqrt(static_cast<double>(value.size(1)));
    value.mul_(length / value.norm(2, {1}, true));
  }
}

std::optional<torch::ScalarType> torch_type(DType type) {
  switch (type) {
    case DType::kF32:
      return torch::kFloat32;
    case DType::kF16:
      return torch::kFloat16;
    case DType::kBF16:
      return torch::kBFloat16;
    default:
      return std::nullopt;
  }
}

}  // namespace

std::vector<std::size_t> sizes_of(const Tensor& tensor) {
  return {tensor.sizes().begin(), tensor.sizes().end()};
}

NetworkWeights make_weights(const ModelConfig& config, bool has_mtp) {
  const std::int64_t D = signed_size(config.D), V = signed_size(config.V);
  NetworkWeights out;
  out.embed_tokens = torch::empty({V, D});
  out.lm_head = torch::empty({V, D});
  out.norm = torch::empty({D});
  for (const LayerConfig& layer : config.layers) out.layers.push_back(make_layer(config, layer.mixer));
  if (has_mtp) {
    out.mtp = MtpWeights{.fc = torch::empty({D, 2 * D}),
                         .embedding_norm = torch::empty({D}),
                         .hidden_norm = torch::empty({D}),
                         .norm = torch::empty({D}),
                         .layer = make_layer(config, MixerKind::kAttention)};
  }
  return out;
}

NetworkWeights init_weights(const ModelConfig& config, const InitOptions& options) {
  torch::NoGradGuard no_gradients;
  torch::Generator random = at::detail::createCPUGenerator(options.seed);
  NetworkWeights out = make_weights(config, options.has_mtp);
  for_each_weight(out, [&](const std::string& name, Tensor& value) {
    init_weight(name, value, config.num_layers(), options, random);
  });
  return out;
}

std::vector<ReleasedTensor> released_tensors(const NamedWeight& weight) {
  const auto stem = [&](std::string_view end) { return weight.name.substr(0, weight.name.size() - end.size()); };
  const auto halves = [](const Tensor& gate_up) { return gate_up.chunk(2, 0); };
  std::vector<ReleasedTensor> out;
  if (weight.name.ends_with("shared_expert.gate_up_proj")) {
    const auto parts = halves(weight.value[0]);
    out = {{stem("gate_up_proj") + "gate_proj.weight", parts[0]}, {stem("gate_up_proj") + "up_proj.weight", parts[1]}};
  } else if (weight.name.ends_with("shared_expert.down_proj")) {
    out = {{weight.name + ".weight", weight.value[0]}};
  } else if (weight.name.ends_with("experts.gate_up_proj")) {
    for (std::int64_t e = 0; e < weight.value.size(0); ++e) {
      const std::string prefix = stem("gate_up_proj") + std::to_string(e);
      const auto parts = halves(weight.value[e]);
      out.push_back({prefix + ".gate_proj.weight", parts[0]});
      out.push_back({prefix + ".up_proj.weight", parts[1]});
    }
  } else if (weight.name.ends_with("experts.down_proj")) {
    for (std::int64_t e = 0; e < weight.value.size(0); ++e) {
      out.push_back({stem("down_proj") + std::to_string(e) + ".down_proj.weight", weight.value[e]});
    }
  } else {
    out = {{weight.name, weight.value}};
  }
  return out;
}

Status read_tensor(const TensorEntry& entry, const std::string& file, Tensor out) {
  const std::optional<torch::ScalarType> type = torch_type(entry.type);
  if (!type) {
    return error("{}: tensor {}: expected f32, f16 or bf16, found {}", file, entry.name, dtype_info(entry.type).name);
  }
  if (entry.shape != sizes_of(out)) {
    return error("{}: tensor {}: expected shape {}, found {}", file, entry.name, shape_text(sizes_of(out)),
                 shape_text(entry.shape));
  }
  const Tensor bytes = torch::empty(out.sizes(), *type);  // the file's data need not be aligned
  std::memcpy(bytes.data_ptr(), entry.data, entry.bytes);
  out.copy_(bytes);
  if (!torch::isfinite(out).all().item<bool>()) return error("{}: tensor {}: a value is not finite", file, entry.name);
  return success();
}

Result<NetworkWeights> load_weights(const std::filesystem::path& folder, const ModelConfig& config) {
  torch::NoGradGuard no_gradients;
  QN_TRY(const Safetensors file, Safetensors::open(folder));
  NetworkWeights weights = make_weights(config, file.find("mtp.fc.weight") != nullptr);
  std::set<std::string> taken;
  for (const NamedWeight& weight : named_weights(weights)) {
    for (const ReleasedTensor& released : released_tensors(weight)) {
      const TensorEntry* entry = file.find(released.name);
      if (entry == nullptr) return error("{}: tensor {} is missing", file.file_names().front(), released.name);
      QN_RETURN_IF_ERROR(read_tensor(*entry, file.file_names()[entry->file_idx], released.view));
      taken.insert(released.name);
    }
  }
  for (const TensorEntry& entry : file.tensors()) {
    if (!taken.contains(entry.name)) {
      return error("{}: tensor {} is not one of this network's", file.file_names()[entry.file_idx],
                   printable(entry.name));
    }
  }
  return weights;
}

Result<Network> load_network(const std::filesystem::path& folder) {
  const std::string config_file = (folder / "config.json").string();
  QN_TRY(const std::string text, load_text_file(config_file, kMaxConfigBytes));
  QN_TRY(ModelConfig config, parse_config_json(text, config_file));
  QN_TRY(NetworkWeights weights, load_weights(folder, config));
  config.has_mtp = weights.mtp.has_value();
  return Network::make(config, std::move(weights));
}

Status export_weights(const NetworkWeights& weights, DType type, const std::filesystem::path& folder) {
  torch::NoGradGuard no_gradients;
  SafetensorsSpec spec{.tensors = {}, .metadata = {{"format", "pt"}}, .max_shard_bytes = std::nullopt};
  std::vector<Tensor> values;
  for (const NamedWeight& weight : named_weights(weights)) {
    for (ReleasedTensor& released : released_tensors(weight)) {
      spec.tensors.push_back({released.name, type, sizes_of(released.view)});
      values.push_back(released.view);
    }
  }
  QN_TRY(SafetensorsWriter writer, SafetensorsWriter::create(folder, spec));
  for (const Tensor& value : values) {
    const Tensor out = value.to(*torch_type(type)).contiguous();
    QN_RETURN_IF_ERROR(writer.append({static_cast<const std::byte*>(out.data_ptr()), out.nbytes()}));
  }
  return writer.commit();
}

}  // namespace qnext::train
