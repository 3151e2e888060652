#pragma once
// Writing safetensors: the list of tensors first, then their data in the same order, straight to disk; one file, or
// shards with an index, named as Hugging Face does.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "tensor/atomic_file.h"
#include "tensor/tensor_entry.h"

namespace qnext {

struct SafetensorsSpec {
  std::vector<TensorSpec> tensors;              // in the order in which their data will come
  std::map<std::string, std::string> metadata;  // "format": "pt" is what transformers looks for
  // Tensor data a shard, at most; one tensor alone may pass it. None: a single file.
  std::optional<std::uint64_t> max_shard_bytes;
};

class SafetensorsWriter {
 public:
  // `path`: a file NAME.safetensors, never sharded; or an existing folder, for model.safetensors or, when the tensors
  // need several shards, model-0000i-of-0000N.safetensors and model.safetensors.index.json. Errors: a tensor that the
  // format cannot hold (type, name not UTF-8), a name given twice, a header of over 100 MB, an old index in the folder
  // that would hide model.safetensors; AtomicFile's.
  static Result<SafetensorsWriter> create(const std::filesystem::path& path, const SafetensorsSpec& spec);

  // The next bytes of the current tensor, or of the one after it when that is complete; a piece must not cross from one
  // tensor into the next. Errors: AtomicFile's; nothing more may be called then.
  Status append(std::span<const std::byte> bytes);

  // Aborts when a tensor is incomplete. Every file appears whole, the index last. Errors: AtomicFile's.
  Status commit();

 private:
  struct Slot {
    std::size_t file_idx = 0;
    std::uint64_t bytes = 0;
  };

  std::vector<AtomicFile> files_;           // the shards, then the index
  std::vector<Slot> slots_;                 // where each tensor goes
  std::size_t tensor_idx_ = 0;              // the one that was appended to last
  std::uint64_t tensor_written_bytes_ = 0;  // of it
};

}  // namespace qnext
