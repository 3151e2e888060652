#include <cmath>
#include <cstring>

#include "eval/trace.h"
#include "tensor/safetensors.h"

namespace qnext {
namespace {

constexpr std::size_t kMaxTokens = std::size_t{1} << 24;

// The values of a tensor whose shape is checked already; the mapping need not be aligned.
template <class T>
std::vector<T> values(const TensorEntry& entry) {
  std::vector<T> out(entry.bytes / sizeof(T));
  std::memcpy(out.data(), entry.data, entry.bytes);
  return out;
}

class GoldenReader {
 public:
  GoldenReader(const Safetensors& file, std::string path) : file_(file), path_(std::move(path)) {}

  bool has(const std::string& name) const { return file_.find(name) != nullptr; }

  // Extents of a tensor of this rank.
  Result<std::vector<std::size_t>> shape(const std::string& name, std::size_t rank) const {
    const TensorEntry* entry = file_.find(name);
    if (entry == nullptr) return error("{}: expected a tensor {}, found none", path_, name);
    if (entry->shape.size() != rank) {
      return error("{}: {}: expected {} axes, found {}", path_, name, rank, shape_text(entry->shape));
    }
    return entry->shape;
  }

  Result<std::vector<float>> floats(const std::string& name, std::initializer_list<std::size_t> shape) const {
    QN_TRY(const TensorEntry* entry, find(name, shape));
    if (entry->type != DType::kF32) return wrong_type(*entry, "f32");
    return values<float>(*entry);
  }

  Result<std::vector<std::int64_t>> integers(const std::string& name, std::initializer_list<std::size_t> shape) const {
    QN_TRY(const TensorEntry* entry, find(name, shape));
    if (entry->type == DType::kI64) return values<std::int64_t>(*entry);
    if (entry->type != DType::kI32) return wrong_type(*entry, "i32 or i64");
    const std::vector<std::int32_t> narrow = values<std::int32_t>(*entry);
    return std::vector<std::int64_t>(narrow.begin(), narrow.end());
  }

  // Token ids below V.
  Result<std::vector<TokenId>> token_ids(const std::string& name, std::size_t V) const {
    QN_TRY(const auto extents, shape(name, 1));
    QN_TRY(const auto ids, integers(name, {extents[0]}));
    for (std::size_t i = 0; i < ids.size(); ++i) {
      if (ids[i] < 0 || static_cast<std::uint64_t>(ids[i]) >= V) {
        return error("{}: {}[{}]: expected a token id below {}, found {}", path_, name, i, V, ids[i]);
      }
    }
    return std::vector<TokenId>(ids.begin(), ids.end());
  }

 private:
  Result<const TensorEntry*> find(const std::string& name, std::initializer_list<std::size_t> shape) const {
    const TensorEntry* entry = file_.find(name);
    if (entry == nullptr) return error("{}: expected a tensor {}, found none", path_, name);
    if (!std::equal(entry->shape.begin(), entry->shape.end(), shape.begin(), shape.end())) {
      return error("{}: {}: expected shape {}, found {}", path_, name, shape_text(std::vector(shape)),
                   shape_text(entry->shape));
    }
    return entry;
  }
  Error wrong_type(const TensorEntry& entry, std::string_view expected) const {
    return error("{}: {}: expected {}, found {}", path_, entry.name, expected, dtype_info(entry.type).name);
  }

  const Safetensors& file_;
  std::string path_;
};

Status read_layers(Trace& trace, const GoldenReader& reader) {
  const std::size_t T = trace.num_tokens;
  for (std::size_t layer_idx = 0; reader.has(fmt::format("hidden.{}", layer_idx)); ++layer_idx) {
    const std::string name = fmt::format("hidden.{}", layer_idx);
    QN_TRY(const auto extents, reader.shape(name, 2));
    if (layer_idx == 0) trace.D = extents[1];
    LayerTrace& layer = trace.layers.emplace_back();
    QN_TRY(layer.hidden, reader.floats(name, {T, trace.D}));
    const std::string experts_name = fmt::format("router.{}.experts", layer_idx);
    if (!reader.has(experts_name)) continue;
    QN_TRY(const auto expert_extents, reader.shape(experts_name, 2));
    if (trace.A == 0) trace.A = expert_extents[1];
    QN_TRY(const auto experts, reader.integers(experts_name, {T, trace.A}));
    layer.experts.assign(experts.begin(), experts.end());
    QN_TRY(layer.router_weights, reader.floats(fmt::format("router.{}.weights", layer_idx), {T, trace.A}));
  }
  return success();
}

}  // namespace

Result<GoldenFile> load_golden_file(const std::string& path) {
  QN_TRY(const Safetensors file, Safetensors::open(path));
  const GoldenReader reader(file, path);
  GoldenFile golden;
  QN_TRY(const auto extents, reader.shape("logits", 2));
  if (extents[0] == 0 || extents[0] > kMaxTokens || extents[1] == 0) {
    return error("{}: logits: expected from 1 to {} positions, found shape {}", path, kMaxTokens, shape_text(extents));
  }
  golden.trace.num_tokens = extents[0];
  golden.trace.V = extents[1];
  QN_TRY(golden.trace.logits, reader.floats("logits", {extents[0], extents[1]}));
  QN_TRY(golden.input_ids, reader.token_ids("input_ids", golden.trace.V));
  if (golden.input_ids.size() != extents[0]) {
    return error("{}: input_ids: expected {} ids, one a row of logits, found {}", path, extents[0],
                 golden.input_ids.size());
  }
  if (reader.has("greedy")) {
    QN_TRY(golden.greedy, reader.token_ids("greedy", golden.trace.V));
  }
  QN_RETURN_IF_ERROR(read_layers(golden.trace, reader));
  return golden;
}

}  // namespace qnext
