#pragma once
// Products of float32 matrices (kernels/float_product.h) whose factors are rounded to bf16, to nearest even, and whose
// sums are float32.
//
//   Format    a factor becomes panels of `width` columns: [depth / 2][width][2] bf16, zero beyond its ends, by blocks
//             of kBf16Depth of the depth. The right factor has panels of kBf16Columns; the left one is packed by
//             multiply(), kBf16Rows rows at a time.
//   Accuracy  each sum within depth 2^-24 of its terms' sizes, terms of rounded factors; numbers below 2^-126 are 0.

#include <cstddef>
#include <cstdint>

#include "kernels/float_product.h"

namespace qnext {

inline constexpr std::size_t kBf16Rows = 12, kBf16Columns = 32, kBf16Depth = 512;

// Of the packed right factor.
std::size_t bf16_packed_size(std::size_t depth, std::size_t side);

struct Bf16Products {
  // Panels [begin_panel, end_panel) of the right factor, packed, each in its place in `out` (bf16_packed_size()
  // values).
  void (*pack)(std::uint16_t* out, const ProductFactor& b, std::size_t begin_panel, std::size_t end_panel);

  // out[i, j] = scale * sum over k of a(k, i) b(k, j), plus what was there when `add`. out: [a.side, b_side], rows
  // `out_stride` apart; it overlaps neither factor. `packed` is b's, whole.
  void (*multiply)(float* out, std::size_t out_stride, const ProductFactor& a, const std::uint16_t* packed,
                   std::size_t b_side, float scale, bool add);
};

// Plain C++: what the other one is tested against.
const Bf16Products& plain_bf16_products();

// Null where the CPU has no AVX512_BF16.
const Bf16Products* fast_bf16_products();

// Whether they outrun products of float32: AMD's CPUs multiply bf16 at twice the rate, Intel's, which leave it to AMX,
// at half of it (measured on Emerald Rapids: 86 Gop/s, float32 176).
bool fast_bf16_products_pay();

}  // namespace qnext
