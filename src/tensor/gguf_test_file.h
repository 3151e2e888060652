#pragma once
// GGUF bytes put together by hand, piece by piece, so that each piece can be wrong.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tensor/file_test_util.h"
#include "tensor/gguf_format.h"

namespace qnext::test {

// A value's type and bytes, as they follow a key.
inline std::string gguf_scalar(GgufType type, const std::string& bytes) {
  return u32(static_cast<std::uint32_t>(type)) + bytes;
}
inline std::string gguf_array(GgufType element_type, std::uint64_t count, const std::string& elements) {
  return u32(static_cast<std::uint32_t>(GgufType::kArray)) + u32(static_cast<std::uint32_t>(element_type)) +
         u64(count) + elements;
}

struct GgufTestFile {
  std::string magic = "GGUF";
  std::uint32_t version = 3;
  std::vector<std::string> kvs;
  std::vector<std::string> tensors;
  std::string data;
  std::uint64_t alignment = 32;
  std::uint64_t extra_kvs = 0;  // promised, not there
  std::uint64_t extra_tensors = 0;

  GgufTestFile& kv(std::string_view key, const std::string& value) {
    kvs.push_back(gguf_string(key) + value);
    return *this;
  }
  GgufTestFile& kv_u32(std::string_view key, std::uint32_t value) {
    return kv(key, gguf_scalar(GgufType::kU32, u32(value)));
  }

  // `axes`: fastest first, as in the file.
  GgufTestFile& tensor(std::string_view name, const std::vector<std::uint64_t>& axes, std::uint32_t type,
                       std::uint64_t offset) {
    std::string info = gguf_string(name) + u32(static_cast<std::uint32_t>(axes.size()));
    for (const std::uint64_t extent : axes) info += u64(extent);
    tensors.push_back(info + u32(type) + u64(offset));
    return *this;
  }

  std::string bytes() const {
    std::string out = magic + u32(version) + u64(tensors.size() + extra_tensors) + u64(kvs.size() + extra_kvs);
    for (const std::string& kv : kvs) out += kv;
    for (const std::string& tensor : tensors) out += tensor;
    if (!tensors.empty()) out.resize((out.size() + alignment - 1) / alignment * alignment);
    return out + data;
  }
};

}  // namespace qnext::test
