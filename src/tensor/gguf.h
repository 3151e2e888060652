#pragma once
// Gguf: the metadata and tensors of a GGUF model, one file or several parts, mapped and checked.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "tensor/gguf_format.h"
#include "tensor/mapped_file.h"
#include "tensor/tensor_entry.h"

namespace qnext {

class Gguf {
 public:
  // `path`: a .gguf file, or any part NAME-0000i-of-0000N.gguf of a split model, which opens all parts beside it.
  // Everything that the format says is verified, no tensor data is read.
  // Errors: text has file, key or tensor, expected, found. Cost: one pass over the headers.
  static Result<Gguf> open(const std::filesystem::path& path);

  // One file in memory; `bytes` must outlive the result. `name` stands for the path in errors.
  static Result<Gguf> parse(std::span<const std::byte> bytes, std::string name);

  // Metadata of the first part, in file order.
  const std::vector<GgufKv>& metadata() const { return metadata_; }
  const GgufValue* find(std::string_view key) const;  // null when there is none

  // Values by key. Errors: no such key; another type; a number that does not fit. Any integer type of the file serves
  // for any of ours that can hold the value; f64 serves for f32, rounded.
  Result<bool> get_bool(std::string_view key) const;
  Result<std::uint32_t> get_u32(std::string_view key) const;
  Result<std::uint64_t> get_u64(std::string_view key) const;
  Result<float> get_f32(std::string_view key) const;
  Result<std::string_view> get_string(std::string_view key) const;  // into the mapping, as are get_strings'

  // Arrays by key; likewise. Cost: one pass over the array.
  Result<std::vector<std::string_view>> get_strings(std::string_view key) const;
  Result<std::vector<std::uint32_t>> get_u32s(std::string_view key) const;
  Result<std::vector<std::int32_t>> get_i32s(std::string_view key) const;
  Result<std::vector<float>> get_f32s(std::string_view key) const;
  Result<std::vector<bool>> get_bools(std::string_view key) const;

  const std::vector<TensorEntry>& tensors() const { return table_.entries(); }  // part by part, in header order
  const TensorEntry* find_tensor(std::string_view name) const { return table_.find(name); }

  const TensorTable& table() const { return table_; }
  const std::vector<std::string>& file_names() const { return file_names_; }  // by TensorEntry::file_idx
  const std::vector<MappedFile>& files() const { return files_; }             // likewise; empty after parse()

 private:
  Gguf() = default;
  Status add_part(std::span<const std::byte> bytes, std::string name, std::vector<TensorEntry>& entries);
  Status expect_split_keys(const GgufPart& part, const std::string& name) const;
  Status make_table(std::vector<TensorEntry> entries);
  template <class T>
  Result<T> get_scalar(std::string_view key) const;
  template <class T>
  Result<std::vector<T>> get_array(std::string_view key) const;

  std::vector<MappedFile> files_;
  std::vector<std::string> file_names_;
  std::size_t num_parts_ = 1;
  std::vector<GgufKv> metadata_;
  TensorTable table_;
};

}  // namespace qnext
