// Register tiles: the inner loop of every small matrix product here, and the loops that cut a matrix into tiles.
// Included once a target: see Highway's guide on -inl.h files.

#if defined(QNEXT_KERNELS_SIMD_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef QNEXT_KERNELS_SIMD_TILE_INL_H_
#undef QNEXT_KERNELS_SIMD_TILE_INL_H_
#else
#define QNEXT_KERNELS_SIMD_TILE_INL_H_
#endif

#include <hwy/highway.h>

#include <cstddef>
#include <type_traits>

#include "base/units.h"

HWY_BEFORE_NAMESPACE();
namespace qnext {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// A tile is kTileRows x kTileVecs vectors: enough chains to hide an FMA's latency, few enough to stay in registers.
inline constexpr std::size_t kTileRows = 4;
#if HWY_CAP_GE512 || HWY_TARGET == HWY_NEON
inline constexpr std::size_t kTileVecs = 4;  // 32 registers
#else
inline constexpr std::size_t kTileVecs = 2;  // 16 registers
#endif

template <std::size_t kCount>
using Constant = std::integral_constant<std::size_t, kCount>;

// work(Constant<rows of this tile>, first row) over [first_row, num_rows): tiles of kRows, then of half as many, ..
template <std::size_t kRows = kTileRows, class Work>
HWY_INLINE void for_each_row_tile(std::size_t num_rows, const Work& work, std::size_t first_row = 0) {
  std::size_t row = first_row;
  for (; row + kRows <= num_rows; row += kRows) work(Constant<kRows>(), row);
  if constexpr (kRows > 1) for_each_row_tile<kRows / 2>(num_rows, work, row);
}

// work(d, Constant<vectors of this tile>, first column) over [0, num_columns): tiles of kVecs vectors, then of one.
// Columns that fill no vector are done one lane at a time by the same code: nothing is overread, and a column's sums do
// not depend on its place.
template <std::size_t kVecs = kTileVecs, class Work>
HWY_INLINE void for_each_column_tile(std::size_t num_columns, const Work& work) {
  const hn::ScalableTag<float> d;
  const hn::CappedTag<float, 1> one_lane;
  const std::size_t lanes = hn::Lanes(d);
  std::size_t column = 0;
  for (; column + kVecs * lanes <= num_columns; column += kVecs * lanes) work(d, Constant<kVecs>(), column);
  for (; column + lanes <= num_columns; column += lanes) work(d, Constant<1>(), column);
  for (; column < num_columns; ++column) work(one_lane, Constant<1>(), column);
}

template <std::size_t kRows, std::size_t kVecs, class V>
struct Tile {
  V at[kRows][kVecs];
};

// fill(r, v) -> vector, for every place of the tile; and use(r, v, vector).
template <std::size_t kRows, std::size_t kVecs, class V, class Fill>
HWY_INLINE void fill_tile(Tile<kRows, kVecs, V>& tile, const Fill& fill) {
  HWY_UNROLL(8)
  for (std::size_t r = 0; r < kRows; ++r) {
    HWY_UNROLL(8)
    for (std::size_t v = 0; v < kVecs; ++v) tile.at[r][v] = fill(r, v);
  }
}
template <std::size_t kRows, std::size_t kVecs, class V, class Use>
HWY_INLINE void use_tile(const Tile<kRows, kVecs, V>& tile, const Use& use) {
  HWY_UNROLL(8)
  for (std::size_t r = 0; r < kRows; ++r) {
    HWY_UNROLL(8)
    for (std::size_t v = 0; v < kVecs; ++v) use(r, v, tile.at[r][v]);
  }
}

// tile[r][v] += sum over j in [0, count) of left(r, j) * right(j, v), in order of j.
// left gives a float, right a vector.
template <std::size_t kRows, std::size_t kVecs, class V, class Left, class Right>
HWY_INLINE void add_products(Tile<kRows, kVecs, V>& tile, std::size_t count, const Left& left, const Right& right) {
  const hn::DFromV<V> d;
  for (std::size_t j = 0; j < count; ++j) {
    V row[kVecs];
    HWY_UNROLL(8)
    for (std::size_t v = 0; v < kVecs; ++v) row[v] = right(j, v);
    HWY_UNROLL(8)
    for (std::size_t r = 0; r < kRows; ++r) {
      const V factor = hn::Set(d, left(r, j));
      HWY_UNROLL(8)
      for (std::size_t v = 0; v < kVecs; ++v) tile.at[r][v] = hn::MulAdd(factor, row[v], tile.at[r][v]);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace qnext
HWY_AFTER_NAMESPACE();

#endif  // the include guard's toggle
