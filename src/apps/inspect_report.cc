#include "apps/inspect_report.h"

#include <filesystem>

#include "apps/console.h"
#include "apps/model_files.h"
#include "apps/progress.h"
#include "model/caches.h"

namespace qnext {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr std::size_t kMaxConfigBytes = std::size_t{16} << 20;
constexpr std::uint64_t kBytesOfBf16 = 2;

std::map<DType, TensorTypeCount> count_types(const ModelWeights& weights) {
  std::map<DType, TensorTypeCount> out;
  for (const TensorEntry& entry : tensor_entries(weights)) {
    TensorTypeCount& count = out[entry.type];
    const DTypeInfo& info = dtype_info(entry.type);
    ++count.num_tensors;
    count.num_elements += entry.bytes / info.block_bytes * info.block_elements;
    count.num_bytes += entry.bytes;
  }
  return out;
}

// A config.json, or a folder that has one and no weights.
std::optional<fs::path> bare_config(const fs::path& path) {
  std::error_code ignored;
  if (path.extension() == ".json") return path;
  if (!fs::is_directory(path, ignored)) return std::nullopt;
  for (const auto& entry : fs::directory_iterator(path, ignored)) {
    if (entry.path().extension() == ".safetensors" || entry.path().filename() == "model.safetensors.index.json") {
      return std::nullopt;
    }
  }
  return path / "config.json";
}

Json config_json(const ModelConfig& cfg) {
  Json out = {{"num_layers", cfg.num_layers()},
              {"vocab_size", cfg.V},
              {"hidden_size", cfg.D},
              {"max_context_tokens", cfg.max_context_tokens},
              {"rms_norm_eps", cfg.eps},
              {"tied_head", cfg.tied_head},
              {"num_query_heads", cfg.Hq},
              {"num_kv_heads", cfg.Hkv},
              {"head_dim", cfg.Dh},
              {"attention_gate", cfg.attention_gate},
              {"rope_theta", cfg.rope.theta},
              {"rotary_dims", cfg.rope.R},
              {"yarn_factor", cfg.rope.yarn ? Json(cfg.rope.yarn->factor) : Json(nullptr)},
              {"linear_key_heads", cfg.Hk},
              {"linear_value_heads", cfg.Hv},
              {"linear_key_dim", cfg.Dk},
              {"linear_value_dim", cfg.Dv},
              {"conv_taps", cfg.conv_taps},
              {"num_experts", cfg.E},
              {"experts_per_token", cfg.A},
              {"expert_width", cfg.F},
              {"shared_expert_width", cfg.shared_expert_width},
              {"dense_width", cfg.dense_width}};
  return out;
}

Json parameters_json(const ModelConfig& cfg) {
  const ParameterCount count = count_parameters(cfg);
  return {{"total", count.total()},
          {"active_per_token", count.active(cfg)},
          {"embedding", count.embedding},
          {"head", count.head},
          {"attention", count.attention},
          {"gated_delta_net", count.delta_net},
          {"router", count.router},
          {"experts", count.experts},
          {"shared_expert", count.shared_expert},
          {"dense", count.dense},
          {"norms", count.norms},
          {"mtp", count.mtp}};
}

// One row of a "name   value" list.
std::string row(std::string_view name, const std::string& value) {
  return fmt::format("  {:<14} {}\n", name, value);
}

std::string layers_text(const ModelConfig& cfg) {
  const std::size_t num_delta = cfg.num_layers_of(MixerKind::kGatedDeltaNet);
  const std::size_t num_attention = cfg.num_layers_of(MixerKind::kAttention);
  std::string text = fmt::format("{}: ", cfg.num_layers());
  if (num_delta > 0) text += fmt::format("{} Gated DeltaNet + ", num_delta);
  text += fmt::format("{} {}attention", num_attention, cfg.attention_gate ? "gated " : "");
  if (const std::string pattern = layer_pattern(cfg); !pattern.empty()) text += fmt::format(", {}", pattern);
  return text;
}

std::string feed_forward_text(const ModelConfig& cfg) {
  std::size_t num_moe = 0;
  for (const LayerConfig& layer : cfg.layers) num_moe += layer.feed_forward == FeedForwardKind::kMoe ? 1 : 0;
  std::string text;
  if (num_moe > 0) {
    text = fmt::format("{} of {} experts of width {}", cfg.A, cfg.E, cfg.F);
    if (cfg.shared_expert_width > 0) text += fmt::format(", and a shared one of {}", cfg.shared_expert_width);
  }
  if (num_moe < cfg.num_layers()) {
    text += fmt::format("{}{} dense layers of width {}", text.empty() ? "" : "; ", cfg.num_layers() - num_moe,
                        cfg.dense_width);
  }
  return text;
}

std::string config_text(const ModelConfig& cfg) {
  std::string out = row("architecture", std::string(architecture_name(cfg.architecture)));
  out += row("layers", layers_text(cfg));
  out += row("width", fmt::format("{}; vocabulary {}{}", cfg.D, cfg.V, cfg.tied_head ? ", head tied" : ""));
  if (cfg.num_layers_of(MixerKind::kAttention) > 0) {
    out += row("attention", fmt::format("{} query heads, {} K/V heads of {}; rotary {} dims, theta {:g}{}", cfg.Hq,
                                        cfg.Hkv, cfg.Dh, cfg.rope.R, cfg.rope.theta,
                                        cfg.rope.yarn ? fmt::format(", YaRN x{:g}", cfg.rope.yarn->factor) : ""));
  }
  if (cfg.num_layers_of(MixerKind::kGatedDeltaNet) > 0) {
    out += row("Gated DeltaNet", fmt::format("{} key heads of {}, {} value heads of {}, conv of {} taps", cfg.Hk,
                                             cfg.Dk, cfg.Hv, cfg.Dv, cfg.conv_taps));
  }
  out += row("feed-forward", feed_forward_text(cfg));
  out += row("context", fmt::format("{} tokens", cfg.max_context_tokens));
  return out;
}

std::string parameters_text(const ModelReport& report) {
  const ParameterCount count = count_parameters(report.config);
  std::string out =
      row("parameters", fmt::format("{} in all, {} active a token", count_text(static_cast<double>(count.total())),
                                    count_text(static_cast<double>(count.active(report.config)))));
  if (report.weights) return out;
  const auto as = [&](DType type) {
    const DTypeInfo& info = dtype_info(type);
    const double bytes_each = static_cast<double>(info.block_bytes) / static_cast<double>(info.block_elements);
    return bytes_text(static_cast<std::uint64_t>(static_cast<double>(count.total()) * bytes_each));
  };
  return out + row("weights", fmt::format("none here; as bf16 {}, as q8_0 {}, as q4_k {}", as(DType::kBF16),
                                          as(DType::kQ8_0), as(DType::kQ4_K)));
}

std::string tensors_text(const ModelReport& report) {
  if (report.tensor_types.empty()) return "";
  std::string out = "\n  tensors    count   elements        bytes\n";
  for (const auto& [type, count] : report.tensor_types) {
    out += fmt::format("  {:<8} {:>7} {:>10} {:>12}\n", dtype_info(type).name, count.num_tensors,
                       count_text(static_cast<double>(count.num_elements)), bytes_text(count.num_bytes));
  }
  return out;
}

std::string context_name(std::size_t num_tokens) {
  return num_tokens % 1024 == 0 ? fmt::format("{}K", num_tokens / 1024) : fmt::format("{}", num_tokens);
}

std::string memory_text(const ModelReport& report, const std::vector<std::size_t>& contexts) {
  std::string out = fmt::format("\n  memory of one sequence{}\n", report.weights ? "" : ", with weights in bf16");
  out +=
      "  context       K/V f32     K/V bf16     K/V q8_0        state      weights    total f32   total bf16   total "
      "q8_0\n";
  for (const Json& line : memory_json(report, contexts)) {
    const auto bytes = [&](const char* key) {
      return line[key].is_null() ? "-" : bytes_text(line[key].get<std::uint64_t>());
    };
    out += fmt::format("  {:<8} {:>12} {:>12} {:>12} {:>12} {:>12} {:>12} {:>12} {:>12}\n",
                       context_name(line["context_tokens"].get<std::size_t>()), bytes("kv_f32_bytes"),
                       bytes("kv_bf16_bytes"), bytes("kv_q8_0_bytes"), bytes("state_bytes"), bytes("weight_bytes"),
                       bytes("total_f32_bytes"), bytes("total_bf16_bytes"), bytes("total_q8_0_bytes"));
  }
  return out;
}

}  // namespace

std::span<const TensorEntry> tensor_entries(const ModelWeights& weights) {
  if (const auto* gguf = std::get_if<Gguf>(&weights.file)) return gguf->tensors();
  return std::get<Safetensors>(weights.file).tensors();
}

std::string_view mixer_name(MixerKind mixer) {
  return mixer == MixerKind::kAttention ? "attention" : "gated_delta_net";
}

std::string_view feed_forward_name(FeedForwardKind kind) {
  return kind == FeedForwardKind::kMoe ? "moe" : "dense";
}

std::string layer_pattern(const ModelConfig& config) {
  std::size_t interval = 0;
  while (interval < config.num_layers() && config.layers[interval].mixer != MixerKind::kAttention) ++interval;
  ++interval;
  if (interval == 1 || interval > config.num_layers()) return "";
  for (std::size_t i = 0; i < config.num_layers(); ++i) {
    if ((config.layers[i].mixer == MixerKind::kAttention) != ((i + 1) % interval == 0)) return "";
  }
  return fmt::format("{}:1", interval - 1);
}

std::uint64_t ModelReport::weight_bytes() const {
  if (!weights) return count_parameters(config).total() * kBytesOfBf16;
  std::uint64_t total = 0;
  for (const auto& [type, count] : tensor_types) total += count.num_bytes;
  return total;
}

std::optional<bool> ModelReport::has_mtp() const {
  return weights ? std::optional(config.has_mtp) : std::nullopt;
}

Result<ModelReport> make_model_report(const std::string& path) {
  ModelReport report;
  report.path = path;
  if (const auto config_path = bare_config(path)) {
    QN_TRY(const std::string text, read_file(*config_path, kMaxConfigBytes));
    QN_TRY(report.config, parse_config_json(text, config_path->string()));
    report.format = "config";
  } else {
    QN_TRY(report.weights, load_weights(path));
    report.config = report.weights->config;
    report.tensor_types = count_types(*report.weights);
    report.format = std::holds_alternative<Gguf>(report.weights->file) ? "gguf" : "safetensors";
  }
  const Result<TextFiles> text = load_text_files(path);
  if (text.ok()) {
    report.has_tokenizer = text->tokenizer.has_value();
    report.has_chat_template = text->chat_template.has_value();
  } else {
    report.text_error = text.message();
  }
  report.note = model_note(path);
  return report;
}

Json memory_json(const ModelReport& report, const std::vector<std::size_t>& contexts) {
  Json out = Json::array();
  for (std::size_t num_tokens : contexts) {
    const std::uint64_t fixed_bytes = report.weight_bytes() + report.config.state_bytes();
    Json line = {{"context_tokens", num_tokens},
                 {"state_bytes", report.config.state_bytes()},
                 {"weight_bytes", report.weight_bytes()}};
    for (const DType type : kKvTypes) {
      std::optional<std::uint64_t> kv_bytes;  // none: the model's heads are no whole blocks of this type
      if (check_kv_type(report.config, type).ok()) {
        kv_bytes = count_sequence_bytes(report.config, num_tokens, type).kv_bytes;
      }
      line[fmt::format("kv_{}_bytes", dtype_info(type).name)] = kv_bytes ? Json(*kv_bytes) : Json();
      line[fmt::format("total_{}_bytes", dtype_info(type).name)] = kv_bytes ? Json(fixed_bytes + *kv_bytes) : Json();
    }
    out.push_back(std::move(line));
  }
  return out;
}

Json report_json(const ModelReport& report, const std::vector<std::size_t>& contexts) {
  Json types = Json::array();
  for (const auto& [type, count] : report.tensor_types) {
    types.push_back({{"type", dtype_info(type).name},
                     {"count", count.num_tensors},
                     {"elements", count.num_elements},
                     {"bytes", count.num_bytes}});
  }
  Json layers = Json::array();
  for (const LayerConfig& layer : report.config.layers) {
    layers.push_back({{"mixer", mixer_name(layer.mixer)}, {"feed_forward", feed_forward_name(layer.feed_forward)}});
  }
  const auto or_null = [](const auto& value) { return value ? Json(*value) : Json(nullptr); };
  return {{"path", report.path},
          {"format", report.format},
          {"architecture", architecture_name(report.config.architecture)},
          {"config", config_json(report.config)},
          {"layer_pattern", layer_pattern(report.config)},
          {"layers", layers},
          {"parameters", parameters_json(report.config)},
          {"tensors", types},
          {"weight_bytes", report.weight_bytes()},
          {"weights_present", report.weights.has_value()},
          {"mtp", or_null(report.has_mtp())},
          {"tokenizer", report.has_tokenizer},
          {"chat_template", report.has_chat_template},
          {"text_error", or_null(report.text_error)},
          {"note", or_null(report.note)},
          {"memory", memory_json(report, contexts)}};
}

std::string report_text(const ModelReport& report, const std::vector<std::size_t>& contexts) {
  std::string out = fmt::format("{} ({})\n", report.path, report.format);
  if (report.note) out += row("note", *report.note);
  out += config_text(report.config);
  const std::optional<bool> mtp = report.has_mtp();
  out += row("MTP block", !mtp ? "unknown: only the weights tell" : *mtp ? "yes" : "no");
  out += row("tokenizer", report.text_error ? "unusable: " + *report.text_error : report.has_tokenizer ? "yes" : "no");
  if (!report.text_error) out += row("chat template", report.has_chat_template ? "yes" : "no");
  return out + parameters_text(report) + tensors_text(report) + memory_text(report, contexts);
}

}  // namespace qnext
