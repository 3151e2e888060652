#pragma once
// The two JSON texts of the safetensors format, checked: the header of a file and the index of a sharded checkpoint.
// Source: the format's description in the README of huggingface/safetensors; limits as in its reference reader.

#include <cstddef>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "tensor/tensor_entry.h"

namespace qnext {

inline constexpr std::size_t kMaxSafetensorsHeaderBytes = 100'000'000;
inline constexpr std::size_t kSafetensorsPrefixBytes = 8;  // the header's length, u64 little-endian
inline constexpr std::size_t kMaxSafetensorsRank = 8;

struct SafetensorsHeader {
  std::vector<TensorEntry> entries;  // in the order of their data; file_idx as given
  std::map<std::string, std::string> metadata;
};

// The whole of one file: u64 length, JSON header, data. Entries point into `file`.
// Errors: any rule of the format broken (types, shapes, offsets, overlaps, holes, bytes behind the last tensor, depth,
// repeated fields); tensor names are not yet compared with each other. Cost: one pass over the header, O(N log N) in
// tensors.
Result<SafetensorsHeader> parse_safetensors_header(std::span<const std::byte> file, std::size_t file_idx,
                                                   const std::string& file_name);

// model.safetensors.index.json: tensor name -> name of the shard, a plain file name beside the index.
// Errors: not JSON, no weight_map, a tensor listed twice, a shard outside the folder.
Result<std::map<std::string, std::string>> parse_safetensors_index(std::string_view json, const std::string& file_name);

}  // namespace qnext
