#include "tensor/dtype.h"

#include <algorithm>
#include <array>

#include "base/check.h"

namespace qnext {
namespace {

// In the order of DType. The ggml numbers and block sizes are GGUF's (ggml.h, enum ggml_type).
constexpr std::array<DTypeInfo, kNumDTypes> kDTypes = {{
    {.name = "f32", .block_elements = 1, .block_bytes = 4, .ggml_type = 0, .safetensors_name = "F32"},
    {.name = "f16", .block_elements = 1, .block_bytes = 2, .ggml_type = 1, .safetensors_name = "F16"},
    {.name = "bf16", .block_elements = 1, .block_bytes = 2, .ggml_type = 30, .safetensors_name = "BF16"},
    {.name = "f8_e4m3", .block_elements = 1, .block_bytes = 1, .ggml_type = {}, .safetensors_name = "F8_E4M3"},
    {.name = "q4_0", .block_elements = 32, .block_bytes = 18, .ggml_type = 2, .safetensors_name = ""},
    {.name = "q4_1", .block_elements = 32, .block_bytes = 20, .ggml_type = 3, .safetensors_name = ""},
    {.name = "q5_0", .block_elements = 32, .block_bytes = 22, .ggml_type = 6, .safetensors_name = ""},
    {.name = "q5_1", .block_elements = 32, .block_bytes = 24, .ggml_type = 7, .safetensors_name = ""},
    {.name = "q8_0", .block_elements = 32, .block_bytes = 34, .ggml_type = 8, .safetensors_name = ""},
    {.name = "q2_k", .block_elements = 256, .block_bytes = 84, .ggml_type = 10, .safetensors_name = ""},
    {.name = "q3_k", .block_elements = 256, .block_bytes = 110, .ggml_type = 11, .safetensors_name = ""},
    {.name = "q4_k", .block_elements = 256, .block_bytes = 144, .ggml_type = 12, .safetensors_name = ""},
    {.name = "q5_k", .block_elements = 256, .block_bytes = 176, .ggml_type = 13, .safetensors_name = ""},
    {.name = "q6_k", .block_elements = 256, .block_bytes = 210, .ggml_type = 14, .safetensors_name = ""},
    {.name = "iq4_nl", .block_elements = 32, .block_bytes = 18, .ggml_type = 20, .safetensors_name = ""},
    {.name = "iq4_xs", .block_elements = 256, .block_bytes = 136, .ggml_type = 23, .safetensors_name = ""},
    {.name = "mxfp4", .block_elements = 32, .block_bytes = 17, .ggml_type = 39, .safetensors_name = ""},
    {.name = "i32", .block_elements = 1, .block_bytes = 4, .ggml_type = 26, .safetensors_name = "I32"},
    {.name = "i64", .block_elements = 1, .block_bytes = 8, .ggml_type = 27, .safetensors_name = "I64"},
    {.name = "u8", .block_elements = 1, .block_bytes = 1, .ggml_type = {}, .safetensors_name = "U8"},
    {.name = "i16", .block_elements = 32, .block_bytes = 64, .ggml_type = {}, .safetensors_name = ""},
}};

// The type whose row of the table satisfies `matches`.
template <class Predicate>
std::optional<DType> find_dtype(Predicate matches) {
  const auto* found = std::find_if(kDTypes.begin(), kDTypes.end(), matches);
  if (found == kDTypes.end()) return std::nullopt;
  return static_cast<DType>(found - kDTypes.begin());
}

// ASCII only: the locale has no say in what a type is called.
constexpr char to_lower(char c) {
  return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
}

}  // namespace

const DTypeInfo& dtype_info(DType type) {
  const auto type_idx = static_cast<std::size_t>(type);
  QN_CHECK(type_idx < kNumDTypes, "dtype {}", type_idx);
  return kDTypes[type_idx];
}

std::optional<DType> dtype_from_name(std::string_view name) {
  return find_dtype([name](const DTypeInfo& info) {
    return std::equal(name.begin(), name.end(), info.name.begin(), info.name.end(),
                      [](char given, char ours) { return to_lower(given) == ours; });
  });
}

std::optional<DType> dtype_from_ggml(std::uint32_t ggml_type) {
  return find_dtype([ggml_type](const DTypeInfo& info) { return info.ggml_type == ggml_type; });
}

std::optional<DType> dtype_from_safetensors(std::string_view name) {
  if (name.empty()) return std::nullopt;
  return find_dtype([name](const DTypeInfo& info) { return info.safetensors_name == name; });
}

std::size_t dtype_bytes(DType type, std::size_t num_elements) {
  const DTypeInfo& info = dtype_info(type);
  QN_CHECK(num_elements % info.block_elements == 0, "{} elements of {}, whose blocks hold {}", num_elements, info.name,
           info.block_elements);
  return num_elements / info.block_elements * info.block_bytes;
}

}  // namespace qnext
