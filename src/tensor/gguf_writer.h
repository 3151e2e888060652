#pragma once
// Writing GGUF: first everything that the header says, then the tensors' data in the same order, straight to disk.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "tensor/atomic_file.h"
#include "tensor/gguf_format.h"
#include "tensor/tensor_entry.h"

namespace qnext {

// Metadata and tensor list, in the order of the calls: that is the order in the file. A key given twice aborts.
class GgufHeader {
 public:
  void add_bool(std::string_view key, bool value);
  void add_u32(std::string_view key, std::uint32_t value);
  void add_u64(std::string_view key, std::uint64_t value);
  void add_f32(std::string_view key, float value);
  void add_string(std::string_view key, std::string_view value);
  void add_bools(std::string_view key, const std::vector<bool>& values);
  void add_u32s(std::string_view key, std::span<const std::uint32_t> values);
  void add_i32s(std::string_view key, std::span<const std::int32_t> values);
  void add_f32s(std::string_view key, std::span<const float> values);
  void add_strings(std::string_view key, std::span<const std::string_view> values);
  void add_copy(const GgufKv& kv);  // of a file that was read, byte for byte

  void add_tensor(TensorSpec spec) { tensors_.push_back(std::move(spec)); }
  const std::vector<TensorSpec>& tensors() const { return tensors_; }

  // What stands before the data section, padded to its begin; and the bytes that the data section will have.
  // Errors: a tensor that GGUF cannot hold (name length, rank, empty axis, type, part of a block), or named twice.
  struct Encoded {
    std::vector<std::byte> bytes;
    std::uint64_t data_bytes = 0;
    std::size_t alignment = kGgufDefaultAlignment;
  };
  Result<Encoded> encode() const;

 private:
  void begin_kv(std::string_view key, GgufType type);
  void begin_array(std::string_view key, GgufType element_type, std::size_t num_elements);

  std::vector<std::byte> metadata_;  // encoded
  std::set<std::string, std::less<>> keys_;
  std::vector<TensorSpec> tensors_;
  std::size_t alignment_ = kGgufDefaultAlignment;
};

class GgufWriter {
 public:
  // Errors: encode()'s and AtomicFile's.
  static Result<GgufWriter> create(const std::filesystem::path& path, const GgufHeader& header);

  // The next bytes of the current tensor, or of the one after it when that is complete; a piece must not cross from one
  // tensor into the next. Errors: AtomicFile's; nothing more may be called then.
  Status append(std::span<const std::byte> bytes);

  // Aborts when a tensor is incomplete. Errors: AtomicFile's.
  Status commit() { return file_.commit(); }

 private:
  GgufWriter(AtomicFile file, std::vector<std::uint64_t> tensor_bytes, std::size_t alignment)
      : file_(std::move(file)), tensor_bytes_(std::move(tensor_bytes)), alignment_(alignment) {}

  AtomicFile file_;
  std::vector<std::uint64_t> tensor_bytes_;
  std::size_t alignment_;
  std::size_t tensor_idx_ = 0;              // the one that the next bytes belong to
  std::uint64_t tensor_written_bytes_ = 0;  // of it
};

}  // namespace qnext
