#pragma once
// The search for blocks of values scale * level: Q4_0, Q5_0, IQ4_NL, MXFP4 (one scale a block) and Q3_K, Q6_K, IQ4_XS
// (sub-blocks, whose scales are small integers times d). Internal; quantize.h has the method.

#include <array>

#include "tensor/quantize_search.h"

namespace qnext {

// The levels that a code can mean, ascending. Linear ones are all the integers from first to last.
struct LinearLevels {
  int first;
  int last;
};
using TableLevels = std::array<std::int8_t, 16>;

inline constexpr TableLevels kSortedMxfp4Levels = {-12, -8, -6, -4, -3, -2, -1, 0, 0, 1, 2, 3, 4, 6, 8, 12};

struct LevelShape {
  std::size_t num_subs;      // sub-blocks of a block
  std::size_t sub_elements;  // elements of a sub-block
  int num_scales;            // the integers that scale d are [-num_scales / 2, num_scales / 2)
};

// value = d * scales[s] * levels[i], in the block's normalised magnitude
struct LevelBlock {
  float d = 0;
  std::array<std::int8_t, 16> scales{};
  std::array<std::int8_t, kSuperBlock> levels{};
};

// d is such as an f16 can hold, at the block's original magnitude. The block is not all zero.
LevelBlock search_level_super_block(const BlockValues& values, const LinearLevels& levels, const LevelShape& shape);
LevelBlock search_level_super_block(const BlockValues& values, const TableLevels& levels, const LevelShape& shape);

// One scale for a block of kSmallBlock; scales are not used.
LevelBlock search_level_block(const BlockValues& values, const LinearLevels& levels);
LevelBlock search_level_block(const BlockValues& values, const TableLevels& levels);

// One power of two as the scale, as MXFP4 stores it: d = e8m0 / 2 at the original magnitude.
struct PowerBlock {
  std::uint8_t exponent = 0;
  std::array<std::int8_t, kSuperBlock> levels{};
};
PowerBlock search_power_block(const BlockValues& values);

}  // namespace qnext
