#pragma once
// The search for blocks of values scale * code + offset: Q4_1, Q5_1 (one pair a block) and Q2_K, Q4_K, Q5_K
// (sub-blocks, whose scales and offsets are small integers times d and -dmin). Internal; quantize.h has the method.

#include <array>

#include "tensor/quantize_search.h"

namespace qnext {

struct AffineShape {
  std::size_t num_subs;      // sub-blocks of a block
  std::size_t sub_elements;  // elements of a sub-block
  int max_code;              // codes are [0, max_code]
  int max_scale;             // the integers that scale d and dmin are [0, max_scale]
};

// value = d * scales[s] * code + offset_unit * mins[s], in the block's normalised magnitude; the last is -dmin.
struct AffineBlock {
  float d = 0;
  float offset_unit = 0;
  std::array<std::uint8_t, 16> scales{};
  std::array<std::uint8_t, 16> mins{};
  std::array<std::uint8_t, kSuperBlock> codes{};
};

// d and offset_unit are such as an f16 can hold, at the block's original magnitude. The block is not all zero.
AffineBlock search_affine_super_block(const BlockValues& values, const AffineShape& shape);

// One scale and one offset for a block of kSmallBlock: d and offset_unit; scales and mins are not used.
AffineBlock search_affine_block(const BlockValues& values, int max_code);

}  // namespace qnext
