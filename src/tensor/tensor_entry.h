#pragma once
// TensorEntry: a named tensor inside a checkpoint file, whatever the format. And what both formats share:
// size arithmetic that cannot overflow, lookup by name, and texts for errors.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "tensor/dtype.h"

namespace qnext {

struct TensorEntry {
  std::string name;
  DType type = DType::kF32;
  std::vector<std::size_t> shape;   // slowest axis first, in both formats; empty: a scalar (safetensors only)
  const std::byte* data = nullptr;  // in the mapping; not aligned to the element type: read with unaligned loads
  std::size_t bytes = 0;            // exactly the shape's
  std::size_t file_idx = 0;         // which shard
};

// What a writer is told of a tensor before its data comes.
struct TensorSpec {
  std::string name;
  DType type = DType::kF32;
  std::vector<std::size_t> shape;  // slowest axis first
};

// The entries of a checkpoint in file order, found by name in O(log N).
class TensorTable {
 public:
  TensorTable() = default;
  // Error: two entries have one name.
  static Result<TensorTable> make(std::vector<TensorEntry> entries, std::span<const std::string> file_names);

  const std::vector<TensorEntry>& entries() const { return entries_; }
  const TensorEntry* find(std::string_view name) const;  // null when there is none

 private:
  std::vector<TensorEntry> entries_;
  std::vector<std::size_t> by_name_;  // indices into entries_
};

// "[2048, 512]"; at most 16 axes are written out.
std::string shape_text(std::span<const std::size_t> shape);

// `text` from a file, fit for an error message: control characters, quotes and backslashes escaped, cut at 120 bytes.
std::string printable(std::string_view text);

// Bytes of a tensor; none when there are more than PTRDIFF_MAX, or the fastest axis is no whole number of the type's
// blocks.
std::optional<std::size_t> try_tensor_bytes(DType type, std::span<const std::size_t> shape);

// The scales of every block are finite; for plain float types, every value is. A file that was cut or damaged in
// transport mostly fails here, and one non-finite scale would poison every logit. Error: names the tensor, the block
// and the bits. Cost: one pass over the tensor, reading 1 to 4 bytes a block. FP8 checkpoints keep their block scales
// in a tensor of their own: call this on both.
Status expect_finite_scales(const TensorEntry& entry);

}  // namespace qnext
