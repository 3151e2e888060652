// What attention's kernels for floats and for 16-bit integers share.
// Included once a target: see Highway's guide on -inl.h files.

#if defined(QNEXT_KERNELS_SIMD_ATTENTION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef QNEXT_KERNELS_SIMD_ATTENTION_INL_H_
#undef QNEXT_KERNELS_SIMD_ATTENTION_INL_H_
#else
#define QNEXT_KERNELS_SIMD_ATTENTION_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cstddef>

#include "base/units.h"
#include "kernels/kernels.h"
#include "kernels/simd/tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace qnext {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

inline constexpr std::size_t kGroupHeads = 8;  // query heads that are done at once; larger groups take turns

// Tiles of many heads and few positions: each key and value that is loaded, and widened from bf16, serves every head.
#if HWY_CAP_GE512 || HWY_TARGET == HWY_NEON
inline constexpr std::size_t kHeadTile = 8;
#else
inline constexpr std::size_t kHeadTile = 4;
#endif
inline constexpr std::size_t kValueVecs = 2;
constexpr std::size_t num_key_rows(std::size_t num_heads) {
  return num_heads == kHeadTile ? 2 : 4;
}

inline constexpr std::size_t kTileTokens =
    16;  // tokens that visit a block, while it is in cache, before the next is fetched
inline constexpr std::size_t kKeysAtOnce = 16;  // that all of them visit, while they are in the first-level cache

struct AttendTask {
  View<float> out;
  View<const float> q;
  std::size_t first_position;
  float scale;
  std::size_t kv_head_idx;
};

struct Softmax {
  float largest[kGroupHeads];
  float sum[kGroupHeads];
};

// Into the second-level cache: a first-level cache would not hold a block, and has fewer requests under way.
HWY_INLINE void prefetch(const void* p) {
  __builtin_prefetch(p, 0, 2);
}

// Asks for a block's rows, so many values at a time, in the order in which they lie in memory.
template <class Element, std::size_t kRowValues = 1>
struct Ahead {
  const Element* const* rows;
  std::size_t head_dim;
  std::size_t row = 0, column = 0;

  HWY_INLINE void ask_for(std::size_t num_values) {
    prefetch(rows[row] + column / kRowValues);
    column += num_values;
    if (column >= head_dim) {
      column = 0;
      ++row;
    }
  }
};

// Four sums of lanes, in a vector of four.
template <class D, class V = hn::Vec<D>>
HWY_INLINE auto fold_to_four(D d, V v) {
  if constexpr (hn::MaxLanes(d) == 4) {
    return v;
  } else {
    const hn::Half<D> half;
    return fold_to_four(half, hn::Add(hn::LowerHalf(half, v), hn::UpperHalf(half, v)));
  }
}

// (sum of a's lanes, of b's, of c's, of e's)
template <class D, class V = hn::Vec<D>>
HWY_INLINE auto lane_sums(D d, V a, V b, V c, V e) {
  const hn::RepartitionToWide<D> pairs;
  const auto ab = hn::BitCast(pairs, hn::Add(hn::InterleaveLower(d, a, b), hn::InterleaveUpper(d, a, b)));
  const auto ce = hn::BitCast(pairs, hn::Add(hn::InterleaveLower(d, c, e), hn::InterleaveUpper(d, c, e)));
  return fold_to_four(d, hn::Add(hn::BitCast(d, hn::InterleaveLower(pairs, ab, ce)),
                                 hn::BitCast(d, hn::InterleaveUpper(pairs, ab, ce))));
}

// The sums of lanes of a tile of heads and positions, a row of kAttendBlock for each head.
template <class D, std::size_t kRows, std::size_t kKeys>
HWY_INLINE void store_lane_sums(D d, hn::TFromD<D>* out, const Tile<kRows, kKeys, hn::Vec<D>>& sums) {
  const hn::CappedTag<hn::TFromD<D>, 4> four;
  const hn::Half<decltype(four)> two;
  if constexpr (kKeys == 4) {
    HWY_UNROLL(8)
    for (std::size_t r = 0; r < kRows; ++r) {
      const auto row = lane_sums(d, sums.at[r][0], sums.at[r][1], sums.at[r][2], sums.at[r][3]);
      hn::StoreU(row, four, out + r * kAttendBlock);
    }
  } else {
    HWY_UNROLL(8)
    for (std::size_t r = 0; r < kRows; r += 2) {
      const auto rows = lane_sums(d, sums.at[r][0], sums.at[r][1], sums.at[r + 1][0], sums.at[r + 1][1]);
      hn::StoreU(hn::LowerHalf(two, rows), two, out + r * kAttendBlock);
      hn::StoreU(hn::UpperHalf(two, rows), two, out + (r + 1) * kAttendBlock);
    }
  }
}

// use(tokens, heads): as many as a tile has, of all that a task asks for.
template <class Use>
void for_each_tile(const AttendTask& task, const KvPages& kv, Range tokens, const Use& use) {
  const std::size_t group = task.q.dim(1) / kv.num_kv_heads;
  const std::size_t heads_end = (task.kv_head_idx + 1) * group;
  for (std::size_t t = tokens.begin; t < tokens.end; t += kTileTokens) {
    for (std::size_t h = task.kv_head_idx * group; h < heads_end; h += kGroupHeads) {
      use(Range{t, std::min(t + kTileTokens, tokens.end)}, Range{h, std::min(h + kGroupHeads, heads_end)});
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace qnext
HWY_AFTER_NAMESPACE();

#endif  // the include guard's toggle
