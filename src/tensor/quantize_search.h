#pragma once
// What the searches of quantize_affine.cc and quantize_levels.cc share: four candidates at a time, and blocks brought
// to a magnitude near 1. Internal to the quantisers (quantize.h describes the method).

#include <array>
#include <cstddef>
#include <cstdint>

#include "tensor/block_formats.h"

namespace qnext {

// ---- Lanes: four candidates side by side, in the compilers' portable vectors (SSE2 on x86-64, NEON on arm64) ----

using Lanes = float __attribute__((vector_size(16)));
inline constexpr std::size_t kNumLanes = 4;

inline Lanes splat(float value) {
  return Lanes{value, value, value, value};
}
inline Lanes max_lanes(Lanes a, Lanes b) {
  return a > b ? a : b;
}
inline Lanes min_lanes(Lanes a, Lanes b) {
  return a < b ? a : b;
}
inline Lanes clamp_lanes(Lanes lanes, Lanes low, Lanes high) {
  return min_lanes(max_lanes(lanes, low), high);
}
// To the nearest integer, ties to even, for magnitudes below 2^22: at 1.5 x 2^23 the last place of a float is 1.
inline Lanes round_lanes(Lanes lanes) {
  return (lanes + splat(0x1.8p23f)) - splat(0x1.8p23f);
}
// Quotients, and 0 where the divisor is none: a scale of 0 then leads to codes of 0.
inline Lanes divide_or_zero(Lanes dividend, Lanes divisor) {
  const auto usable = (divisor > splat(1e-30f)) | (divisor < splat(-1e-30f));
  return usable ? dividend / divisor : Lanes{};
}
inline float divide_or_zero(float dividend, float divisor) {
  return divisor > 1e-30f || divisor < -1e-30f ? dividend / divisor : 0.0f;
}
inline std::size_t lane_of_least(Lanes lanes) {
  std::size_t least = 0;
  for (std::size_t lane = 1; lane < kNumLanes; ++lane) least = lanes[lane] < lanes[least] ? lane : least;
  return least;
}

// ---- Values ----

// A block multiplied by a power of two, exactly, so that its largest magnitude lies in [0.5, 1): sums of squares then
// neither overflow nor vanish. Weights of the squared error are scaled to at most 1. Elements are spread over lanes.
struct BlockValues {
  std::array<Lanes, kSuperBlock> x;
  std::array<Lanes, kSuperBlock> weights;
  double unit = 1;  // original = x * unit, a power of two
  bool all_zero = false;

  // The f16 nearest to a scale of x, as it is stored: at the original magnitude, saturated at the largest finite f16.
  std::uint16_t to_f16(float scale) const;
  float from_f16(std::uint16_t half) const;
  float round_to_f16(float scale) const { return from_f16(to_f16(scale)); }
};

// Fills `out`, all of whose num_elements values are finite. importance: a weight an element, finite and >= 0; where it
// is nullptr, or holds nothing but zeros, all weights are 1. An all-zero block leaves x and weights unset.
void normalise_block(BlockValues& out, const float* values, const float* importance, std::size_t num_elements);

// A run of a block that shares a scale.
struct SubBlock {
  const Lanes* x;
  const Lanes* weights;
  std::size_t num_elements;
};

}  // namespace qnext
