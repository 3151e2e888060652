#pragma once
// GGUF, one file of it: the header read as views into the bytes, everything checked, nothing copied but names and
// shapes. Source: docs/gguf.md of the ggml project; the limits are those of its reader. Little-endian, versions 2 and 3
// (which differ only in that 3 may be big-endian, and such files are refused).

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "tensor/tensor_entry.h"

namespace qnext {

enum class GgufType : std::uint32_t {
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kF64
};
inline constexpr std::uint32_t kNumGgufTypes = 13;

std::string_view gguf_type_name(GgufType type);  // "u32", as in errors and in `inspect`
std::size_t gguf_scalar_bytes(GgufType type);    // 0 for strings and arrays, whose length varies

inline constexpr std::uint32_t kGgufVersion = 3;
inline constexpr std::string_view kGgufMagic = "GGUF";
inline constexpr std::string_view kGgufAlignmentKey = "general.alignment";
inline constexpr std::size_t kGgufDefaultAlignment = 32;  // bytes, of the data section and of each tensor in it
inline constexpr std::size_t kGgufMaxAlignment = std::size_t{2} << 20;  // a huge page; known files have 32 or 4096
inline constexpr std::size_t kGgufMaxRank = 4;
inline constexpr std::size_t kGgufMaxNameBytes = 63;  // of a tensor: ggml keeps 64 with the final zero
inline constexpr std::size_t kGgufMaxNesting = 4;     // arrays in arrays; known files have none

// A metadata value as it lies in the file: strings are a u64 length and their bytes, arrays in arrays a u32 type, a u64
// count and their elements. Checked: walking the payload by num_elements stays inside it.
struct GgufValue {
  GgufType type = GgufType::kU32;
  GgufType element_type = GgufType::kU32;  // of an array; else the same as `type`
  std::uint64_t num_elements = 1;
  std::span<const std::byte> payload;

  bool is_array() const { return type == GgufType::kArray; }
};
std::string gguf_type_text(const GgufValue& value);   // "u32", "array of 48 f32"
std::string gguf_value_text(const GgufValue& value);  // "u32 7", "string 'qwen3next'", "array of 48 f32"

struct GgufKv {
  std::string_view key;
  GgufValue value;
};

struct GgufPart {
  std::vector<GgufKv> metadata;
  std::vector<TensorEntry> tensors;  // in the order of the header
  std::size_t alignment = kGgufDefaultAlignment;
};

// One whole file. `bytes` must outlive the result. Errors: any rule of the format broken; tensor names are not yet
// compared with each other. Cost: one pass over the header; memory is bounded by a small multiple of the header's
// bytes.
Result<GgufPart> parse_gguf_part(std::span<const std::byte> bytes, std::size_t file_idx, const std::string& file_name);

// The string at the start of `payload`, which is moved past it. Requires a payload that parse_gguf_part checked.
std::string_view take_gguf_string(std::span<const std::byte>& payload);

}  // namespace qnext
