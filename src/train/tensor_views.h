#pragma once
// Tensors as the ops read them. Only src/train/*.cc includes it.

#include "train/torch_core.h"

#include "base/check.h"
#include "train/compute.h"

namespace qnext::train {

// [rows, cols] of a contiguous tensor whose leading axes are taken together.
inline Matrix matrix(const torch::Tensor& tensor) {
  QN_CHECK(tensor.is_contiguous() && tensor.scalar_type() == torch::kFloat32 && tensor.dim() >= 1, "{} dims",
           tensor.dim());
  const std::int64_t cols = tensor.size(-1);
  return {tensor.data_ptr<float>(), cols == 0 ? 0 : tensor.numel() / cols, cols, cols};
}

// [T, Dh] of head `head_idx` in a contiguous [T, H, Dh].
inline Matrix head_matrix(const torch::Tensor& tensor, std::int64_t head_idx) {
  const std::int64_t width = tensor.size(2);
  return {tensor.data_ptr<float>() + head_idx * width, tensor.size(0), width, tensor.size(1) * width};
}

// What custom functions return for an argument that is no tensor or needs no gradient.
inline torch::Tensor no_gradient() {
  return {};
}

}  // namespace qnext::train
