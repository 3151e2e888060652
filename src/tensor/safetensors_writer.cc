#include "tensor/safetensors_writer.h"

#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>
#include <system_error>
#include <utility>

#include "base/units.h"
#include "tensor/safetensors_header.h"

namespace qnext {
namespace fs = std::filesystem;

namespace {

constexpr std::size_t kHeaderAlignment = 8;  // so that the data section begins aligned
constexpr std::string_view kIndexName = "model.safetensors.index.json";

Result<std::string> json_text(const nlohmann::json& value) {
  try {
    return value.dump();
  } catch (const nlohmann::json::type_error&) {
    return error("{}: safetensors demands names and metadata in UTF-8",
                 value.is_string() ? "'" + printable(value.get_ref<const std::string&>()) + "'" : "metadata");
  }
}

// The bytes of each tensor, all of which safetensors can hold.
Result<std::vector<std::uint64_t>> writable_bytes(std::span<const TensorSpec> tensors) {
  std::vector<std::uint64_t> out;
  std::set<std::string_view> names = {"__metadata__"};
  for (const TensorSpec& tensor : tensors) {
    const DTypeInfo& info = dtype_info(tensor.type);
    const std::string what =
        fmt::format("tensor '{}' {} {}", printable(tensor.name), info.name, shape_text(tensor.shape));
    if (info.safetensors_name.empty()) return error("{}: safetensors has no such type; write GGUF instead", what);
    if (tensor.shape.size() > kMaxSafetensorsRank)
      return error("{}: expected at most {} axes", what, kMaxSafetensorsRank);
    if (!names.insert(tensor.name).second) return error("{}: this name is taken", what);
    const std::optional<std::size_t> bytes = try_tensor_bytes(tensor.type, tensor.shape);
    if (!bytes) return error("{}: has more bytes than can be counted", what);
    out.push_back(*bytes);
  }
  return out;
}

// Consecutive tensors, cut where the next one would pass max_shard_bytes.
std::vector<Range> cut_shards(std::span<const std::uint64_t> tensor_bytes, std::uint64_t max_shard_bytes) {
  std::vector<Range> shards = {{0, 0}};
  std::uint64_t room_bytes = max_shard_bytes;
  for (std::size_t tensor_idx = 0; tensor_idx < tensor_bytes.size(); ++tensor_idx) {
    const std::uint64_t bytes = tensor_bytes[tensor_idx];
    if (bytes > room_bytes && !shards.back().empty()) {
      shards.push_back({tensor_idx, tensor_idx});
      room_bytes = max_shard_bytes;
    }
    shards.back().end = tensor_idx + 1;
    room_bytes -= std::min(bytes, room_bytes);
  }
  return shards;
}

struct Header {
  std::string bytes;             // length prefix and padded JSON
  std::uint64_t file_bytes = 0;  // these, and the data
};

Result<Header> encode_header(const SafetensorsSpec& spec, Range shard, std::span<const std::uint64_t> tensor_bytes) {
  std::string text = "{";
  if (!spec.metadata.empty()) {
    QN_TRY(const std::string metadata, json_text(spec.metadata));
    text += fmt::format("\"__metadata__\":{},", metadata);
  }
  std::uint64_t begin = 0;
  for (std::size_t tensor_idx = shard.begin; tensor_idx < shard.end; ++tensor_idx) {
    const TensorSpec& tensor = spec.tensors[tensor_idx];
    QN_TRY(const std::string name, json_text(tensor.name));
    const std::uint64_t end = begin + tensor_bytes[tensor_idx];
    text += fmt::format(R"({}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}},)", name,
                        dtype_info(tensor.type).safetensors_name, fmt::join(tensor.shape, ","), begin, end);
    begin = end;
  }
  if (text.back() == ',') text.pop_back();
  text += '}';
  text.resize(round_up(text.size(), kHeaderAlignment), ' ');
  if (text.size() > kMaxSafetensorsHeaderBytes) {
    return error("the header needs {} bytes, safetensors allows {}: write shards", text.size(),
                 kMaxSafetensorsHeaderBytes);
  }
  const std::uint64_t header_bytes = text.size();
  std::string bytes(reinterpret_cast<const char*>(&header_bytes), sizeof(header_bytes));
  bytes += text;
  const std::uint64_t file_bytes = bytes.size() + begin;
  return Header{.bytes = std::move(bytes), .file_bytes = file_bytes};
}

std::string shard_name(std::size_t shard_idx, std::size_t num_shards) {
  if (num_shards == 1) return "model.safetensors";
  return fmt::format("model-{:05}-of-{:05}.safetensors", shard_idx + 1, num_shards);
}

std::string encode_index(const SafetensorsSpec& spec, std::span<const Range> shards, std::uint64_t total_bytes) {
  nlohmann::json index;
  index["metadata"]["total_size"] = total_bytes;
  nlohmann::json& weight_map = index["weight_map"];
  for (std::size_t shard_idx = 0; shard_idx < shards.size(); ++shard_idx) {
    for (std::size_t tensor_idx = shards[shard_idx].begin; tensor_idx < shards[shard_idx].end; ++tensor_idx) {
      weight_map[spec.tensors[tensor_idx].name] = shard_name(shard_idx, shards.size());
    }
  }
  return index.dump(2) + "\n";  // the names are UTF-8: the shards' headers have them
}

}  // namespace

Result<SafetensorsWriter> SafetensorsWriter::create(const fs::path& path, const SafetensorsSpec& spec) {
  const bool is_folder = path.extension() != ".safetensors";
  if (!is_folder && spec.max_shard_bytes) {
    return error("{}: shards have names of their own: expected a folder", path.string());
  }
  QN_TRY(const std::vector<std::uint64_t> tensor_bytes, writable_bytes(spec.tensors));
  std::uint64_t total_bytes = 0;
  for (const std::uint64_t bytes : tensor_bytes) {
    total_bytes += bytes;  // each below 2^63, so that the sum cannot wrap unseen
    if (total_bytes > static_cast<std::uint64_t>(PTRDIFF_MAX)) {
      return error("{}: the tensors have more bytes than can be counted", path.string());
    }
  }
  QN_RETURN_IF_ERROR(expect_free_space(is_folder ? path / kIndexName : path, total_bytes));  // of all shards together

  const auto shards = cut_shards(tensor_bytes, spec.max_shard_bytes.value_or(total_bytes));
  std::error_code ignored;  // AtomicFile reports a folder that cannot be looked at
  if (is_folder && shards.size() == 1 && fs::exists(path / kIndexName, ignored)) {
    return error("{}: this older index would hide the new model.safetensors: remove it first",
                 (path / kIndexName).string());
  }
  SafetensorsWriter writer;
  for (std::size_t shard_idx = 0; shard_idx < shards.size(); ++shard_idx) {
    QN_TRY(const Header header, encode_header(spec, shards[shard_idx], tensor_bytes));
    const fs::path file_path = is_folder ? path / shard_name(shard_idx, shards.size()) : path;
    QN_TRY(AtomicFile file, AtomicFile::create(file_path, header.file_bytes));
    QN_RETURN_IF_ERROR(file.append(std::as_bytes(std::span(header.bytes))));
    writer.files_.push_back(std::move(file));
    for (std::size_t tensor_idx = shards[shard_idx].begin; tensor_idx < shards[shard_idx].end; ++tensor_idx) {
      writer.slots_.push_back({.file_idx = shard_idx, .bytes = tensor_bytes[tensor_idx]});
    }
  }
  if (shards.size() > 1) {
    const std::string index = encode_index(spec, shards, total_bytes);
    QN_TRY(AtomicFile file, AtomicFile::create(path / kIndexName, index.size()));
    QN_RETURN_IF_ERROR(file.append(std::as_bytes(std::span(index))));
    writer.files_.push_back(std::move(file));
  }
  return writer;
}

Status SafetensorsWriter::append(std::span<const std::byte> bytes) {
  if (bytes.empty()) return success();
  while (tensor_idx_ < slots_.size() && tensor_written_bytes_ == slots_[tensor_idx_].bytes) {
    ++tensor_idx_;
    tensor_written_bytes_ = 0;
  }
  QN_CHECK(tensor_idx_ < slots_.size() && bytes.size() <= slots_[tensor_idx_].bytes - tensor_written_bytes_,
           "{} bytes for tensor {} of {}, of which {} are written", bytes.size(), tensor_idx_, slots_.size(),
           tensor_written_bytes_);
  tensor_written_bytes_ += bytes.size();
  return files_[slots_[tensor_idx_].file_idx].append(bytes);
}

Status SafetensorsWriter::commit() {
  for (AtomicFile& file : files_) QN_RETURN_IF_ERROR(file.commit());
  return success();
}

}  // namespace qnext
