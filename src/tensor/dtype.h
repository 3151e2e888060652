#pragma once
// The element types of tensors, in files and in memory.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace qnext {

// Plain types have one element a block. The others are GGUF's block formats (block_formats.h has their layouts).
enum class DType : std::uint8_t {
  kF32,
  kF16,
  kBF16,
  kF8E4M3,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ8_0,
  kQ2_K,
  kQ3_K,
  kQ4_K,
  kQ5_K,
  kQ6_K,
  kIQ4_NL,
  kIQ4_XS,
  kMXFP4,
  kI32,
  kI64,
  kU8,
  kI16,  // codes of a K/V cache, whose scales lie elsewhere (kernels.h); no file has it
};
inline constexpr std::size_t kNumDTypes = 21;

struct DTypeInfo {
  std::string_view name;                   // "q4_k": as on our command line
  std::size_t block_elements;              // elements a block
  std::size_t block_bytes;                 // bytes a block
  std::optional<std::uint32_t> ggml_type;  // its number in a GGUF file
  std::string_view safetensors_name;       // its name in a safetensors header, or ""
};

const DTypeInfo& dtype_info(DType type);

std::optional<DType> dtype_from_name(std::string_view name);  // "q4_k", any case
std::optional<DType> dtype_from_ggml(std::uint32_t ggml_type);
std::optional<DType> dtype_from_safetensors(std::string_view name);  // "BF16", "F8_E4M3"

// Bytes of num_elements elements. Requires a whole number of blocks.
std::size_t dtype_bytes(DType type, std::size_t num_elements);

}  // namespace qnext
