#pragma once
// How weights are packed for AVX-512 (docs/decisions/0006): sixteen rows, one a 32-bit lane, side by side, and column
// pairs one after the other, so that a product is loads, shifts, masks and multiply-adds, and scales are vectors, too.
//
// A matrix is its groups of 16 rows (the last one filled up with zeros), a group its blocks of 256 columns in turn.
// "Pair i" of 32 columns is columns 2i (low 16 bits of a lane) and 2i + 1 (high 16 bits), 0 <= i < 16.

#include <cstddef>
#include <cstdint>

#include "tensor/block_formats.h"

namespace qnext {

inline constexpr std::size_t kGroupRows = 16;
inline constexpr std::size_t kRuns = 8;  // of 32 columns, in a block of 256

// Four bits of 32 columns: lane r of 64 bytes v has, in nibble j of either half, pair 4v + j of row r.
using PackedNibbles = std::uint8_t[256];

// value = (d * scale) * code - (dmin * min), as in the file; 4.625 bits a weight.
struct PackedQ4K {
  static constexpr DType kType = DType::kQ4_K;
  static constexpr std::size_t kSubBlock = 32;  // columns that share a scale
  std::uint16_t d[kGroupRows];                  // f16
  std::uint16_t dmin[kGroupRows];
  std::uint8_t scales[kRuns][kGroupRows];
  std::uint8_t mins[kRuns][kGroupRows];
  PackedNibbles codes[kRuns];
};
static_assert(sizeof(PackedQ4K) == 2368);

// value = (d * scale) * (code - 32); 6.625 bits a weight: the padding keeps every vector within a cache line.
struct PackedQ6K {
  static constexpr DType kType = DType::kQ6_K;
  static constexpr std::size_t kSubBlock = 16;
  PackedNibbles low_bits[kRuns];
  std::uint8_t high_bits[kRuns][128];  // lane r of 64 bytes h has, in two bits j of either half, pair 8h + j of row r
  std::int8_t scales[2 * kRuns][kGroupRows];
  std::uint16_t d[kGroupRows];  // f16
  std::uint8_t padding[32];
};
static_assert(sizeof(PackedQ6K) == 3392);

// Packs rows [16 * group_idx, 16 * group_idx + 16) of w: w.cols / 256 blocks to `out`.
void pack_group(PackedQ4K* out, const Weight& w, std::size_t group_idx);
void pack_group(PackedQ6K* out, const Weight& w, std::size_t group_idx);

}  // namespace qnext
