// Any text as model.safetensors.index.json: an error, or shards that are plain file names.

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "tensor/safetensors_header.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t num_bytes) {
  const std::string_view json(reinterpret_cast<const char*>(data), num_bytes);
  const auto weight_map = qnext::parse_safetensors_index(json, "index.json");
  if (!weight_map.ok()) return 0;
  for (const auto& [tensor, shard] : *weight_map) {
    QN_CHECK(!shard.empty() && shard.find('/') == std::string::npos && shard != "..", "'{}' is in '{}'", tensor, shard);
  }
  return 0;
}
