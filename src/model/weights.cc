#include "model/weights.h"

#include <filesystem>

#include "tensor/mapped_file.h"

namespace qnext {
namespace {

void add(std::vector<Weight*>& out, DenseWeights& w) {
  out.insert(out.end(), {&w.gate, &w.up, &w.down});
}

void add(std::vector<Weight*>& out, LayerWeights& layer) {
  if (auto* attention = std::get_if<AttentionWeights>(&layer.mixer)) {
    out.insert(out.end(), {&attention->q, &attention->k, &attention->v, &attention->out});
  } else {
    auto& delta_net = std::get<DeltaNetWeights>(layer.mixer);
    out.insert(out.end(), {&delta_net.qkv, &delta_net.z, &delta_net.ba, &delta_net.out});
  }
  if (auto* moe = std::get_if<MoeWeights>(&layer.ffn)) {
    out.push_back(&moe->router);
    for (auto* experts : {&moe->gate, &moe->up, &moe->down}) {
      for (Weight& w : *experts) out.push_back(&w);
    }
    if (moe->shared) add(out, *moe->shared);
    if (moe->shared) out.push_back(&moe->shared_gate);
  } else {
    add(out, std::get<DenseWeights>(layer.ffn));
  }
}

}  // namespace

std::vector<Weight*> multiplied_matrices(ModelWeights& weights) {
  std::vector<Weight*> out;
  for (LayerWeights& layer : weights.layers) add(out, layer);
  out.push_back(&weights.head);
  if (weights.mtp) {
    out.push_back(&weights.mtp->fc);
    add(out, weights.mtp->layer);
  }
  return out;
}

Status check_model_path(const std::string& path) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return error("{}: no such file or directory", path);
  const std::string extension = fs::path(path).extension().string();
  if (fs::is_directory(path, ignored) || extension == ".gguf" || extension == ".safetensors") return success();
  return error(
      "{}: expected a folder with config.json and safetensors, a .safetensors file beside its config.json, "
      "or a .gguf file",
      path);
}

Result<ModelWeights> load_weights(const std::string& path) {
  namespace fs = std::filesystem;
  QN_RETURN_IF_ERROR(check_model_path(path));
  std::error_code ignored;
  const bool is_folder = fs::is_directory(path, ignored);
  if (!is_folder && fs::path(path).extension() == ".gguf") {
    QN_TRY(Gguf gguf, Gguf::open(path));
    QN_TRY(ModelConfig config, parse_config_gguf(gguf));
    return load_gguf_weights(std::move(config), std::move(gguf));
  }
  const fs::path config_path = (is_folder ? fs::path(path) : fs::path(path).parent_path()) / "config.json";
  QN_TRY(const MappedFile config_file, MappedFile::open(config_path));
  const std::string_view text(reinterpret_cast<const char*>(config_file.bytes().data()), config_file.bytes().size());
  QN_TRY(ModelConfig config, parse_config_json(text, config_path.string()));
  QN_TRY(Safetensors safetensors, Safetensors::open(path));
  return load_safetensors_weights(std::move(config), std::move(safetensors));
}

std::span<const MappedFile> weights_files(const ModelWeights& weights) {
  if (const auto* gguf = std::get_if<Gguf>(&weights.file)) return gguf->files();
  if (const auto* safetensors = std::get_if<Safetensors>(&weights.file)) return safetensors->files();
  return {};
}

std::uint64_t weights_fingerprint(const ModelWeights& weights) {
  constexpr std::size_t kSamples = 512, kSampleBytes = 256;
  const std::string shape = fmt::format("{} {} {}", weights.config.V, weights.config.D, weights.parameter_bytes);
  std::uint64_t hash = hash_bytes(std::as_bytes(std::span(shape)));
  for (const MappedFile& file : weights_files(weights)) {
    const std::span<const std::byte> bytes = file.bytes();
    const std::size_t stride = std::max(bytes.size() / kSamples, kSampleBytes);
    for (std::size_t begin = 0; begin < bytes.size(); begin += stride) {
      hash = hash_bytes(bytes.subspan(begin, std::min(kSampleBytes, bytes.size() - begin)), hash);
    }
  }
  return hash;
}

}  // namespace qnext
