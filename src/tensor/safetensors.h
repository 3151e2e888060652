#pragma once
// Safetensors: the tensors of a Hugging Face checkpoint, one file or many shards, mapped and checked.

#include <cstddef>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "tensor/mapped_file.h"
#include "tensor/tensor_entry.h"

namespace qnext {

class Safetensors {
 public:
  // `path`: a .safetensors file, or a folder with model.safetensors.index.json and its shards, or with
  // model.safetensors. Readable types: F32, F16, BF16, F8_E4M3, I32, I64, U8. Everything that the format says is
  // verified, no tensor data is read. Errors: text has file, tensor or field, expected, found. Cost: O(header bytes).
  static Result<Safetensors> open(const std::filesystem::path& path);

  // One file in memory; `bytes` must outlive the result. `name` stands for the path in errors.
  static Result<Safetensors> parse(std::span<const std::byte> bytes, std::string name);

  const std::vector<TensorEntry>& tensors() const {
    return table_.entries();
  }  // shard by shard, in the order of their data
  const TensorEntry* find(std::string_view name) const { return table_.find(name); }
  const TensorTable& table() const { return table_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }  // of all shards; the first one wins

  const std::vector<std::string>& file_names() const { return file_names_; }  // by TensorEntry::file_idx
  const std::vector<MappedFile>& files() const { return files_; }             // likewise; empty after parse()

 private:
  Safetensors() = default;
  Status add_file(std::span<const std::byte> bytes, std::string name, std::vector<TensorEntry>& entries);
  Status add_mapped(const std::filesystem::path& path, std::vector<TensorEntry>& entries);
  static Result<Safetensors> open_shards(const std::filesystem::path& index_path);

  std::vector<MappedFile> files_;
  std::vector<std::string> file_names_;
  std::map<std::string, std::string> metadata_;
  TensorTable table_;
};

}  // namespace qnext
