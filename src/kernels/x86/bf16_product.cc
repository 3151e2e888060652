#include "kernels/x86/bf16_product.h"

#include <hwy/base.h>

#include <algorithm>
#include <bit>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace qnext {
namespace {

std::size_t padded(std::size_t count, std::size_t step) {
  return (count + step - 1) / step * step;
}

// Where panel `panel` of the depth block that begins at `depth_begin` begins.
std::size_t panel_offset(std::size_t depth_begin, std::size_t block_depth, std::size_t side, std::size_t panel) {
  return depth_begin * padded(side, kBf16Columns) + panel * padded(block_depth, 2) * kBf16Columns;
}

std::uint16_t rounded(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>(bits >> 16 | 0x40u);  // NaN stays one
  return static_cast<std::uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

float widened(std::uint16_t value) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(value) << 16);
}

void plain_pack(std::uint16_t* out, const ProductFactor& b, std::size_t begin_panel, std::size_t end_panel) {
  for (std::size_t first = 0; first < b.depth; first += kBf16Depth) {
    const std::size_t depth = std::min(kBf16Depth, b.depth - first);
    for (std::size_t panel = begin_panel; panel < end_panel; ++panel) {
      std::uint16_t* to = out + panel_offset(first, depth, b.side, panel);
      for (std::size_t i = 0; i < padded(depth, 2) * kBf16Columns; ++i) {
        const std::size_t k = i / (2 * kBf16Columns) * 2 + i % 2, column = panel * kBf16Columns + i / 2 % kBf16Columns;
        const bool inside = k < depth && column < b.side;
        to[i] = inside ? rounded(b.data[(first + k) * b.depth_stride + column * b.side_stride]) : std::uint16_t{0};
      }
    }
  }
}

void plain_multiply(float* out, std::size_t out_stride, const ProductFactor& a, const std::uint16_t* packed,
                    std::size_t b_side, float scale, bool add) {
  for (std::size_t row = 0; row < a.side; ++row) {
    for (std::size_t column = 0; column < b_side; ++column) {
      double sum = 0;
      for (std::size_t k = 0; k < a.depth; ++k) {
        const std::size_t first = k / kBf16Depth * kBf16Depth, depth = std::min(kBf16Depth, a.depth - first);
        const std::size_t at = panel_offset(first, depth, b_side, column / kBf16Columns) +
                               (k - first) / 2 * 2 * kBf16Columns + column % kBf16Columns * 2 + k % 2;
        sum += static_cast<double>(widened(rounded(a.data[k * a.depth_stride + row * a.side_stride]))) *
               widened(packed[at]);
      }
      float& to = out[row * out_stride + column];
      to = static_cast<float>(scale * sum) + (add ? to : 0.0f);
    }
  }
}

}  // namespace

std::size_t bf16_packed_size(std::size_t depth, std::size_t side) {
  return padded(depth, 2) * padded(side, kBf16Columns);
}

const Bf16Products& plain_bf16_products() {
  static constexpr Bf16Products products = {plain_pack, plain_multiply};
  return products;
}

}  // namespace qnext

#if defined(__x86_64__)
// gcc 12 takes the undefined operands inside its own intrinsics for ours.
#ifndef __clang__
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
HWY_PUSH_ATTRIBUTES("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")
namespace qnext {
namespace {

constexpr std::size_t kLanes = 16;
constexpr std::size_t kBlockRows = 96;  // of the left factor, packed at a time: 102 KiB, within the second cache
// Of a packed row: a cache line more than its depth, so that the rows of a strip lie in different sets.
constexpr std::size_t kRowPairs = kBf16Depth / 2 + kLanes;

__mmask16 lanes_below(std::size_t count) {
  return static_cast<__mmask16>(count >= kLanes ? 0xffffu : (1u << count) - 1u);
}

__m512i bf16_of(__m512 low, __m512 high) {  // 32 bf16, those of `low` first
  return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
}

// 16 sides side by side in memory: two rows of the depth become pairs.
void pack_pairs_across(std::uint32_t* out, std::size_t width, const float* data, std::size_t depth_stride,
                       std::size_t depth, __mmask16 from, __mmask16 to) {
  alignas(64) static constexpr std::uint16_t kPairs[2 * kLanes] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                                   21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                                   11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512i pairs = _mm512_load_si512(kPairs);
  for (std::size_t k = 0; k < depth; k += 2, out += width) {
    const float* row = data + k * depth_stride;
    const __m512 first = _mm512_maskz_loadu_ps(from, row);
    const __m512 next = k + 1 < depth ? _mm512_maskz_loadu_ps(from, row + depth_stride) : _mm512_setzero_ps();
    _mm512_mask_storeu_epi32(out, to, _mm512_permutexvar_epi16(pairs, bf16_of(first, next)));
  }
}

// rows[i] lane j <-> rows[j] lane i
void transpose_inplace(__m512i (&rows)[kLanes]) {
  __m512i pairs[kLanes];
  for (std::size_t i = 0; i < kLanes; i += 2) {
    pairs[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
    pairs[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
  }
  for (std::size_t i = 0; i < kLanes; i += 4) {
    rows[i] = _mm512_unpacklo_epi64(pairs[i], pairs[i + 2]);
    rows[i + 1] = _mm512_unpackhi_epi64(pairs[i], pairs[i + 2]);
    rows[i + 2] = _mm512_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
    rows[i + 3] = _mm512_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
  }
  for (std::size_t i = 0; i < 4; ++i) {
    pairs[i] = _mm512_shuffle_i32x4(rows[i], rows[i + 4], 0x88);
    pairs[i + 4] = _mm512_shuffle_i32x4(rows[i], rows[i + 4], 0xdd);
    pairs[i + 8] = _mm512_shuffle_i32x4(rows[i + 8], rows[i + 12], 0x88);
    pairs[i + 12] = _mm512_shuffle_i32x4(rows[i + 8], rows[i + 12], 0xdd);
  }
  for (std::size_t i = 0; i < 4; ++i) {
    rows[i] = _mm512_shuffle_i32x4(pairs[i], pairs[i + 8], 0x88);
    rows[i + 8] = _mm512_shuffle_i32x4(pairs[i], pairs[i + 8], 0xdd);
    rows[i + 4] = _mm512_shuffle_i32x4(pairs[i + 4], pairs[i + 12], 0x88);
    rows[i + 12] = _mm512_shuffle_i32x4(pairs[i + 4], pairs[i + 12], 0xdd);
  }
}

// The depth lies in memory: 32 values of each side become 16 pairs, which change places with the sides.
void pack_pairs_along(std::uint32_t* out, const float* data, std::size_t side_stride, std::size_t depth,
                      std::size_t num_sides) {
  for (std::size_t k = 0; k < depth; k += 2 * kLanes) {
    __m512i rows[kLanes];
    const std::size_t left = depth - k;
    const __mmask16 low = lanes_below(left), high = lanes_below(left > kLanes ? left - kLanes : 0);
    for (std::size_t side = 0; side < kLanes; ++side) {
      const float* from = data + side * side_stride + k;
      rows[side] = side >= num_sides
                       ? _mm512_setzero_si512()
                       : bf16_of(_mm512_maskz_loadu_ps(low, from), _mm512_maskz_loadu_ps(high, from + kLanes));
    }
    transpose_inplace(rows);
    const std::size_t num_pairs = std::min(kLanes, (left + 1) / 2);
    for (std::size_t pair = 0; pair < num_pairs; ++pair) {
      _mm512_storeu_si512(out + (k / 2 + pair) * kBf16Columns, rows[pair]);
    }
  }
}

// The depth lies in memory, and stays as it lies: rows of pairs, for a left factor.
void pack_rows(std::uint32_t* out, const float* data, std::size_t row_stride, std::size_t depth, std::size_t num_rows) {
  for (std::size_t row = 0; row < num_rows; ++row, out += kRowPairs, data += row_stride) {
    for (std::size_t k = 0; k < depth; k += 2 * kLanes) {
      const std::size_t left = depth - k;
      const __mmask16 low = lanes_below(left), high = lanes_below(left > kLanes ? left - kLanes : 0);
      _mm512_storeu_si512(
          out + k / 2, bf16_of(_mm512_maskz_loadu_ps(low, data + k), _mm512_maskz_loadu_ps(high, data + k + kLanes)));
    }
  }
}

// One panel of one depth block of the right factor; `num_sides` of its columns are there.
void pack_panel(std::uint16_t* out, const ProductFactor& b, std::size_t first, std::size_t depth,
                std::size_t begin_side, std::size_t num_sides) {
  const float* data = b.data + first * b.depth_stride + begin_side * b.side_stride;
  auto* pairs = reinterpret_cast<std::uint32_t*>(out);
  for (std::size_t lane = 0; lane < kBf16Columns; lane += kLanes) {
    const std::size_t there = num_sides > lane ? std::min(kLanes, num_sides - lane) : 0;
    if (b.side_stride == 1) {
      pack_pairs_across(pairs + lane, kBf16Columns, data + lane, b.depth_stride, depth, lanes_below(there),
                        lanes_below(kLanes));
    } else {
      pack_pairs_along(pairs + lane, data + lane * b.side_stride, b.side_stride, depth, there);
    }
  }
}

void fast_pack(std::uint16_t* out, const ProductFactor& b, std::size_t begin_panel, std::size_t end_panel) {
  for (std::size_t first = 0; first < b.depth; first += kBf16Depth) {
    const std::size_t depth = std::min(kBf16Depth, b.depth - first);
    for (std::size_t panel = begin_panel; panel < end_panel; ++panel) {
      const std::size_t begin = panel * kBf16Columns;
      pack_panel(out + panel_offset(first, depth, b.side, panel), b, first, depth, begin,
                 std::min(kBf16Columns, b.side - begin));
    }
  }
}

struct TileOutput {
  float* data;
  std::size_t stride, rows, columns;  // of the tile that are there
  float scale;
  bool add;
};

void store_lanes(const TileOutput& out, std::size_t row, std::size_t column, __m512 sum) {
  float* to = out.data + row * out.stride + column;
  const __mmask16 there = lanes_below(out.columns > column ? out.columns - column : 0);
  const __m512 before = out.add ? _mm512_maskz_loadu_ps(there, to) : _mm512_setzero_ps();
  _mm512_mask_storeu_ps(to, there, _mm512_fmadd_ps(sum, _mm512_set1_ps(out.scale), before));
}

// 12 rows by 32 columns: 24 sums in registers, 14 loads for 24 products. Pair p of row r is a[r kRowStep + p
// kPairStep].
template <std::size_t kRowStep, std::size_t kPairStep>
void multiply_tile(const TileOutput& out, const std::uint32_t* a, const std::uint16_t* b, std::size_t num_pairs) {
  __m512 left[kBf16Rows], right[kBf16Rows];
#pragma GCC unroll 12
  for (std::size_t row = 0; row < kBf16Rows; ++row) left[row] = right[row] = _mm512_setzero_ps();
  for (std::size_t pair = 0; pair < num_pairs; ++pair, a += kPairStep, b += 2 * kBf16Columns) {
    const auto b_left = reinterpret_cast<__m512bh>(_mm512_loadu_si512(b));
    const auto b_right = reinterpret_cast<__m512bh>(_mm512_loadu_si512(b + kBf16Columns));
#pragma GCC unroll 12
    for (std::size_t row = 0; row < kBf16Rows; ++row) {
      const auto both = reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int>(a[row * kRowStep])));
      left[row] = _mm512_dpbf16_ps(left[row], both, b_left);
      right[row] = _mm512_dpbf16_ps(right[row], both, b_right);
    }
  }
  for (std::size_t row = 0; row < out.rows; ++row) {
    store_lanes(out, row, 0, left[row]);
    store_lanes(out, row, kLanes, right[row]);
  }
}

void fast_multiply(float* out, std::size_t out_stride, const ProductFactor& a, const std::uint16_t* packed,
                   std::size_t b_side, float scale, bool add) {
  thread_local std::vector<std::uint32_t> strips(kBlockRows * kRowPairs);
  constexpr std::size_t kStripSize = kBf16Rows * kRowPairs;
  const bool is_transposed = a.side_stride == 1;
  for (std::size_t row = 0; a.depth == 0 && !add && row < a.side; ++row)
    std::fill_n(out + row * out_stride, b_side, 0.0f);
  for (std::size_t begin = 0; begin < a.side; begin += kBlockRows) {
    const std::size_t end = std::min(begin + kBlockRows, a.side);
    for (std::size_t first = 0; first < a.depth; first += kBf16Depth) {
      const std::size_t depth = std::min(kBf16Depth, a.depth - first), num_pairs = (depth + 1) / 2;
      std::uint32_t* strip = strips.data();
      for (std::size_t row = begin; row < end; row += kBf16Rows, strip += kStripSize) {
        const float* data = a.data + first * a.depth_stride + row * a.side_stride;
        const std::size_t num_rows = std::min(kBf16Rows, end - row);
        if (is_transposed) {
          pack_pairs_across(strip, kBf16Rows, data, a.depth_stride, depth, lanes_below(num_rows),
                            lanes_below(kBf16Rows));
        } else {
          pack_rows(strip, data, a.side_stride, depth, num_rows);
        }
      }
      for (std::size_t column = 0; column < b_side; column += kBf16Columns) {
        const std::uint16_t* b = packed + panel_offset(first, depth, b_side, column / kBf16Columns);
        strip = strips.data();
        for (std::size_t row = begin; row < end; row += kBf16Rows, strip += kStripSize) {
          const TileOutput tile{out + row * out_stride + column,         out_stride, std::min(kBf16Rows, end - row),
                                std::min(kBf16Columns, b_side - column), scale,      add || first > 0};
          is_transposed ? multiply_tile<1, kBf16Rows>(tile, strip, b, num_pairs)
                        : multiply_tile<kRowPairs, 1>(tile, strip, b, num_pairs);
        }
      }
    }
  }
}

}  // namespace
}  // namespace qnext
HWY_POP_ATTRIBUTES
#ifndef __clang__
#pragma GCC diagnostic pop
#endif

namespace qnext {

const Bf16Products* fast_bf16_products() {
  static constexpr Bf16Products products = {fast_pack, fast_multiply};
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512bf16") ? &products : nullptr;
}

bool fast_bf16_products_pay() {
  return fast_bf16_products() != nullptr && __builtin_cpu_is("amd");
}

}  // namespace qnext
#else
namespace qnext {

const Bf16Products* fast_bf16_products() {
  return nullptr;
}

bool fast_bf16_products_pay() {
  return false;
}

}  // namespace qnext
#endif
