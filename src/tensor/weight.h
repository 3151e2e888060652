#pragma once
// Weight: a matrix of trained parameters, in any element type, read row by row. It owns nothing:
// the bytes lie in a mapped checkpoint or in the model's own store.

#include <cstddef>

#include "base/check.h"
#include "tensor/dtype.h"

namespace qnext {

inline constexpr std::size_t kFp8ScaleBlock = 128;  // FP8 checkpoints scale blocks of 128 x 128 elements

struct Weight {
  DType type = DType::kF32;
  std::size_t rows = 0;  // outputs
  std::size_t cols = 0;  // inputs; a whole number of the type's blocks
  const std::byte* data = nullptr;
  std::size_t row_bytes = 0;  // from one row to the next

  // kF8E4M3 only: element (r, c) is scaled by block_scales[(r / 128) * scales_per_row + c / 128].
  const float* block_scales = nullptr;
  std::size_t scales_per_row = 0;

  // The same matrix in the layout of the kernel table that multiplies by it (kernels.h, PackedProducts), or null.
  const std::byte* packed = nullptr;

  const std::byte* row(std::size_t row_idx) const { return data + row_idx * row_bytes; }
  std::size_t bytes() const { return rows * row_bytes; }

  // Rows [begin, end). For kF8E4M3, begin must be a multiple of 128.
  Weight slice_rows(std::size_t begin, std::size_t end) const {
    QN_CHECK(begin <= end && end <= rows, "rows [{}, {}) of {}", begin, end, rows);
    QN_CHECK(block_scales == nullptr || begin % kFp8ScaleBlock == 0, "row {} is inside a scale block", begin);
    Weight out = *this;
    out.rows = end - begin;
    out.data = row(begin);
    out.packed = nullptr;
    if (block_scales != nullptr) out.block_scales += begin / kFp8ScaleBlock * scales_per_row;
    return out;
  }
};

// A dense weight whose rows follow each other without gaps.
Weight make_weight(DType type, std::size_t rows, std::size_t cols, const std::byte* data);

}  // namespace qnext
