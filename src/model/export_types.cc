#include "model/export_types.h"

#include <algorithm>
#include <cstdint>

namespace qnext {
namespace {

DType at_least(DType type, DType floor) {
  const DTypeInfo& wanted = dtype_info(type);
  const DTypeInfo& least = dtype_info(floor);
  const bool enough = wanted.block_bytes * least.block_elements >= least.block_bytes * wanted.block_elements;
  return enough ? type : floor;
}

DType default_type(TensorRole role, DType type) {
  switch (role) {
    case TensorRole::kVector:
      return DType::kF32;
    case TensorRole::kEmbedding:
      return at_least(type, DType::kQ6_K);
    case TensorRole::kSteering:
    case TensorRole::kMtp:
      return at_least(type, DType::kQ8_0);
    case TensorRole::kOrdinary:
      return type;
  }
  return type;
}

// For rows that hold no whole number of blocks of 256.
DType small_block_type(DType type) {
  switch (type) {
    case DType::kQ2_K:
    case DType::kQ3_K:
    case DType::kIQ4_XS:
      return DType::kIQ4_NL;
    case DType::kQ4_K:
      return DType::kQ5_0;
    case DType::kQ5_K:
      return DType::kQ5_1;
    case DType::kQ6_K:
      return DType::kQ8_0;
    default:
      return type;
  }
}

DType fitting_type(DType type, std::size_t cols) {
  const auto fits = [&] { return cols % dtype_info(type).block_elements == 0; };
  if (!fits()) type = small_block_type(type);
  return fits() ? type : DType::kBF16;
}

}  // namespace

const std::vector<DType>& gguf_export_types() {
  static const std::vector<DType> types = {DType::kF32,    DType::kF16,    DType::kBF16, DType::kQ8_0,
                                           DType::kQ6_K,   DType::kQ5_K,   DType::kQ5_1, DType::kQ5_0,
                                           DType::kQ4_K,   DType::kQ4_1,   DType::kQ4_0, DType::kQ3_K,
                                           DType::kIQ4_XS, DType::kIQ4_NL, DType::kQ2_K, DType::kMXFP4};
  return types;
}

const std::vector<DType>& safetensors_export_types() {
  static const std::vector<DType> types = {DType::kF32, DType::kF16, DType::kBF16};
  return types;
}

Result<std::vector<DType>> choose_gguf_types(const std::vector<NetworkTensor>& tensors, const GgufTypeRules& rules) {
  std::vector<DType> types;
  std::vector<bool> matched(rules.overrides.size());
  for (const NetworkTensor& tensor : tensors) {
    DType type = default_type(tensor.role, rules.type);
    if (tensor.role != TensorRole::kVector) {
      for (std::size_t i = 0; i < rules.overrides.size(); ++i) {
        if (!rules.overrides[i].pattern.matches(tensor.gguf_name)) continue;
        matched[i] = true;
        type = rules.overrides[i].type;
      }
      type = fitting_type(type, tensor.gguf_shape.back());
    }
    types.push_back(type);
  }
  for (std::size_t i = 0; i < rules.overrides.size(); ++i) {
    if (matched[i]) continue;
    return error(
        "type override {}: the pattern matches no matrix of this model; names are GGUF's, such as "
        "blk.0.ffn_down_exps.weight (norms, router, conv and shared gate always are f32)",
        rules.overrides[i].text);
  }
  return types;
}

std::uint32_t gguf_file_type(DType type) {
  switch (type) {
    case DType::kF16:
      return 1;
    case DType::kQ4_0:
      return 2;
    case DType::kQ4_1:
      return 3;
    case DType::kQ8_0:
      return 7;
    case DType::kQ5_0:
      return 8;
    case DType::kQ5_1:
      return 9;
    case DType::kQ2_K:
      return 10;
    case DType::kQ3_K:
      return 11;  // "S": these have most matrices in the one type, as ours do
    case DType::kQ4_K:
      return 14;
    case DType::kQ5_K:
      return 16;
    case DType::kQ6_K:
      return 18;
    case DType::kIQ4_NL:
      return 25;
    case DType::kIQ4_XS:
      return 30;
    case DType::kBF16:
      return 32;
    case DType::kMXFP4:
      return 38;
    default:
      return 0;  // f32
  }
}

}  // namespace qnext
