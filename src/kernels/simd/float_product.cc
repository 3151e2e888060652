#include "kernels/float_product.h"

#include "kernels/simd/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/simd/float_product.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <array>

#include "kernels/simd/math-inl.h"
#include "kernels/simd/tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace qnext {
namespace HWY_NAMESPACE {
namespace {

using FloatTag = hn::ScalableTag<float>;
using FloatVec = hn::Vec<FloatTag>;

inline constexpr std::size_t kLanes = hn::MaxLanes(FloatTag());
inline constexpr std::size_t kPanelVecs = 2;
inline constexpr std::size_t kPanelWidth = kPanelVecs * kLanes;

// ---- Packing ----

// Four values along the depth of every fourth side, each side a block of the vector.
template <class D>
HWY_INLINE hn::Vec<D> load_blocks(D d, const float* data, std::size_t side_stride) {
  if constexpr (hn::MaxLanes(D()) == 4) {
    return hn::LoadU(d, data);
  } else {
    const hn::Half<D> half;
    const std::size_t sides = hn::MaxLanes(half);
    return hn::Combine(d, load_blocks(half, data + sides * side_stride, side_stride),
                       load_blocks(half, data, side_stride));
  }
}

// out[k * kPanelWidth + lane] = side `lane` at depth k, for k < 4.
HWY_INLINE void pack_four(float* out, const float* data, std::size_t side_stride) {
  const FloatTag d;
  const hn::RepartitionToWide<FloatTag> wide;
  const auto pairs = [&](FloatVec v) HWY_ATTR { return hn::BitCast(wide, v); };
  const FloatVec a = load_blocks(d, data, side_stride), b = load_blocks(d, data + side_stride, side_stride);
  const FloatVec c = load_blocks(d, data + 2 * side_stride, side_stride),
                 e = load_blocks(d, data + 3 * side_stride, side_stride);
  const auto ab_low = pairs(hn::InterleaveLower(d, a, b)), ab_high = pairs(hn::InterleaveUpper(d, a, b));
  const auto ce_low = pairs(hn::InterleaveLower(d, c, e)), ce_high = pairs(hn::InterleaveUpper(d, c, e));
  hn::StoreU(hn::BitCast(d, hn::InterleaveLower(wide, ab_low, ce_low)), d, out);
  hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(wide, ab_low, ce_low)), d, out + kPanelWidth);
  hn::StoreU(hn::BitCast(d, hn::InterleaveLower(wide, ab_high, ce_high)), d, out + 2 * kPanelWidth);
  hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(wide, ab_high, ce_high)), d, out + 3 * kPanelWidth);
}

// The first `num_sides` lanes of one vector of a panel, and zeros in the others, over the whole depth.
void pack_vector(float* out, const ProductFactor& b, std::size_t begin_side, std::size_t num_sides) {
  const FloatTag d;
  const float* data = b.data + begin_side * b.side_stride;
  std::size_t k = 0;
  if (num_sides == kLanes && b.side_stride == 1) {
    for (; k < b.depth; ++k) hn::StoreU(hn::LoadU(d, data + k * b.depth_stride), d, out + k * kPanelWidth);
  } else if (num_sides == kLanes && b.depth_stride == 1) {
    for (; k + 4 <= b.depth; k += 4) pack_four(out + k * kPanelWidth, data + k, b.side_stride);
  }
  for (; k < b.depth; ++k) {
    for (std::size_t side = 0; side < kLanes; ++side) {
      out[k * kPanelWidth + side] = side < num_sides ? data[k * b.depth_stride + side * b.side_stride] : 0.0f;
    }
  }
}

void pack(float* out, const ProductFactor& b, std::size_t begin_panel, std::size_t end_panel) {
  for (std::size_t panel = begin_panel; panel < end_panel; ++panel) {
    for (std::size_t vec = 0; vec < kPanelVecs; ++vec) {
      const std::size_t side = panel * kPanelWidth + vec * kLanes;
      pack_vector(out + panel * kPanelWidth * b.depth + vec * kLanes, b, side,
                  side < b.side ? std::min(kLanes, b.side - side) : 0);
    }
  }
}

// ---- Products ----

// A tile keeps two FMA units busy (eight chains) and reads less than two vectors for each two multiply-adds.
#if HWY_CAP_GE512 || HWY_TARGET == HWY_NEON
inline constexpr std::size_t kRows = 8;  // 32 registers
#else
inline constexpr std::size_t kRows = 6;  // 16 registers
#endif

struct TileOutput {
  float* data;
  std::size_t stride, columns;  // of the tile that are there
  float scale;
  bool add;
};

HWY_INLINE void store_vector(const TileOutput& out, std::size_t row, std::size_t vec, FloatVec sum) {
  const FloatTag d;
  float* to = out.data + row * out.stride + vec * kLanes;
  const FloatVec scaled = hn::Mul(sum, hn::Set(d, out.scale));
  if ((vec + 1) * kLanes <= out.columns) {
    hn::StoreU(out.add ? hn::Add(scaled, hn::LoadU(d, to)) : scaled, d, to);
    return;
  }
  std::array<float, kLanes> values;
  hn::StoreU(scaled, d, values.data());
  for (std::size_t i = 0; vec * kLanes + i < out.columns; ++i) to[i] = values[i] + (out.add ? to[i] : 0.0f);
}

template <std::size_t kTileRowCount, std::size_t kVecs>
HWY_NOINLINE void multiply_tile(const TileOutput& out, const ProductFactor& a, const float* b,
                                std::size_t b_depth_stride) {
  const FloatTag d;
  Tile<kTileRowCount, kVecs, FloatVec> tile;
  fill_tile(tile, [&](std::size_t, std::size_t) HWY_ATTR { return hn::Zero(d); });
  add_products(
      tile, a.depth, [&](std::size_t r, std::size_t k) { return a.data[k * a.depth_stride + r * a.side_stride]; },
      [&](std::size_t k, std::size_t v) HWY_ATTR { return hn::LoadU(d, b + k * b_depth_stride + v * kLanes); });
  use_tile(tile, [&](std::size_t r, std::size_t v, FloatVec sum) HWY_ATTR { store_vector(out, r, v, sum); });
}

// One panel's columns of every row, over one block of the depth.
template <std::size_t kVecs>
void multiply_panel(TileOutput out, const ProductFactor& a, const float* b, std::size_t b_depth_stride) {
  float* const data = out.data;
  for_each_row_tile<kRows>(a.side, [&](auto rows, std::size_t row) HWY_ATTR {
    ProductFactor tile_rows = a;
    tile_rows.data = a.data + row * a.side_stride;
    out.data = data + row * out.stride;
    multiply_tile<rows(), kVecs>(out, tile_rows, b, b_depth_stride);
  });
}

// A left factor whose depth strides over pages is copied a block at a time: [depth][kBlockRows].
inline constexpr std::size_t kBlockRows = 16 * kRows;
inline constexpr std::size_t kFarApart = 256;  // floats

ProductFactor copied_rows(float* copy, const ProductFactor& a) {
  for (std::size_t k = 0; k < a.depth; ++k) {
    for_each_vector({0, a.side}, [&](auto d, std::size_t i) HWY_ATTR {
      hn::StoreU(hn::LoadU(d, a.data + k * a.depth_stride + i), d, copy + k * kBlockRows + i);
    });
  }
  return {copy, a.depth, a.side, kBlockRows, 1};
}

void multiply(float* out, std::size_t out_stride, const ProductFactor& a, const ProductPanels& b, float scale,
              bool add) {
  alignas(64) thread_local std::array<float, kBlockRows * kProductDepth> copy;
  const bool copies = a.side_stride == 1 && a.depth_stride >= kFarApart && b.side > kPanelWidth;
  std::size_t first = 0;
  do {  // once, too, where there is no depth: the sums are 0
    const std::size_t depth = std::min(kProductDepth, a.depth - first);
    for (std::size_t row = 0; row < a.side; row += copies ? kBlockRows : a.side) {
      const std::size_t num_rows = copies ? std::min(kBlockRows, a.side - row) : a.side;
      ProductFactor block{a.data + first * a.depth_stride + row * a.side_stride, depth, num_rows, a.depth_stride,
                          a.side_stride};
      if (copies) block = copied_rows(copy.data(), block);
      for (std::size_t column = 0; column < b.side; column += kPanelWidth) {
        const float* panel = b.data + column / kPanelWidth * b.panel_stride + first * b.depth_stride;
        const TileOutput to{out + row * out_stride + column, out_stride, std::min(kPanelWidth, b.side - column), scale,
                            add || first > 0};
        if (to.columns > kLanes) {
          multiply_panel<2>(to, block, panel, b.depth_stride);
        } else {
          multiply_panel<1>(to, block, panel, b.depth_stride);
        }
      }
    }
    first += kProductDepth;
  } while (first < a.depth);
}

}  // namespace

FloatProducts MakeFloatProducts() {
  return {hwy::TargetName(HWY_TARGET), kPanelWidth, kLanes, pack, multiply};
}

}  // namespace HWY_NAMESPACE
}  // namespace qnext
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <vector>

namespace qnext {

HWY_EXPORT(MakeFloatProducts);

namespace {

std::vector<FloatProducts> make_products() {
  std::vector<FloatProducts> out = {plain_float_products()};
  const std::int64_t supported = hwy::SupportedTargets() & HWY_TARGETS;
  for (std::int64_t target : {HWY_SSE4, HWY_AVX2, HWY_AVX3, HWY_NEON}) {
    if ((supported & target) == 0) continue;
    hwy::GetChosenTarget().Update(target);
    out.push_back(HWY_DYNAMIC_DISPATCH(MakeFloatProducts)());
  }
  hwy::GetChosenTarget().Update(supported);
  return out;
}

}  // namespace

std::span<const FloatProducts> available_float_products() {
  static const std::vector<FloatProducts> products = make_products();
  return products;
}

}  // namespace qnext
#endif
