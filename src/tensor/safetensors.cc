#include "tensor/safetensors.h"

#include <set>
#include <system_error>
#include <utility>

#include "tensor/safetensors_header.h"

namespace qnext {
namespace fs = std::filesystem;

Status Safetensors::add_file(std::span<const std::byte> bytes, std::string name, std::vector<TensorEntry>& entries) {
  QN_TRY(SafetensorsHeader header, parse_safetensors_header(bytes, file_names_.size(), name));
  entries.insert(entries.end(), std::make_move_iterator(header.entries.begin()),
                 std::make_move_iterator(header.entries.end()));
  metadata_.merge(header.metadata);
  file_names_.push_back(std::move(name));
  return success();
}

Status Safetensors::add_mapped(const fs::path& path, std::vector<TensorEntry>& entries) {
  QN_TRY(MappedFile file, MappedFile::open(path));
  QN_RETURN_IF_ERROR(add_file(file.bytes(), path.string(), entries));
  files_.push_back(std::move(file));
  return success();
}

Result<Safetensors> Safetensors::parse(std::span<const std::byte> bytes, std::string name) {
  Safetensors out;
  std::vector<TensorEntry> entries;
  QN_RETURN_IF_ERROR(out.add_file(bytes, std::move(name), entries));
  QN_TRY(out.table_, TensorTable::make(std::move(entries), out.file_names_));
  return out;
}

Result<Safetensors> Safetensors::open_shards(const fs::path& index_path) {
  const std::string index_name = index_path.string();
  QN_TRY(const MappedFile index, MappedFile::open(index_path));
  if (index.bytes().size() > kMaxSafetensorsHeaderBytes) {
    return error("{}: expected at most {} bytes, found {}", index_name, kMaxSafetensorsHeaderBytes,
                 index.bytes().size());
  }
  const std::string_view json(reinterpret_cast<const char*>(index.bytes().data()), index.bytes().size());
  QN_TRY(const auto weight_map, parse_safetensors_index(json, index_name));

  std::set<std::string> shards;
  for (const auto& [tensor, shard] : weight_map) shards.insert(shard);
  Safetensors out;
  std::vector<TensorEntry> entries;
  for (const std::string& shard : shards) QN_RETURN_IF_ERROR(out.add_mapped(index_path.parent_path() / shard, entries));
  QN_TRY(out.table_, TensorTable::make(std::move(entries), out.file_names_));

  for (const auto& [tensor, shard] : weight_map) {
    const TensorEntry* entry = out.find(tensor);
    if (entry == nullptr || out.files_[entry->file_idx].path().filename() != shard) {
      return error(
          "{}: tensor '{}': expected in {}, found in {}; the index and the shards belong to different downloads",
          index_name, printable(tensor), printable(shard),
          entry == nullptr ? "no shard" : out.file_names_[entry->file_idx]);
    }
  }
  return out;
}

Result<Safetensors> Safetensors::open(const fs::path& path) {
  std::error_code ignored;  // what cannot be looked at is reported by the open below
  fs::path file = path;
  if (fs::is_directory(path, ignored)) {
    const fs::path index = path / "model.safetensors.index.json";
    if (fs::exists(index, ignored)) return open_shards(index);
    file = path / "model.safetensors";
    if (!fs::exists(file, ignored)) {
      return error("{}: expected model.safetensors.index.json or model.safetensors in this folder, found neither",
                   path.string());
    }
  }
  Safetensors out;
  std::vector<TensorEntry> entries;
  QN_RETURN_IF_ERROR(out.add_mapped(file, entries));
  QN_TRY(out.table_, TensorTable::make(std::move(entries), out.file_names_));
  return out;
}

}  // namespace qnext
