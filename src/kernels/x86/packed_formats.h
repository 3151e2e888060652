#pragma once
// How weights are packed (docs/decisions/0006): sixteen rows, one a 32-bit lane, side by side, and column
// pairs one after the other, so that a product is loads, shifts, masks and multiply-adds, and scales are vectors, too.
//
// A matrix is its groups of 16 rows (the last one filled up with zeros), a group its blocks of 256 columns in turn, a
// block eight runs of 32 columns. "Pair i" of a run is its columns 2i (low 16 bits of a lane) and 2i + 1 (high 16
// bits), 0 <= i < 16. Every vector of codes lies within a cache line.

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "tensor/block_formats.h"

namespace qnext {

inline constexpr std::size_t kGroupRows = 16;
inline constexpr std::size_t kRun = 32;
inline constexpr std::size_t kRuns = kSuperBlock / kRun;

// Codes of a run, by their bits. Lane r of a vector has row r's, "half" is either 16 bits of a lane.
using PackedBits1 = std::uint8_t[64];     // bit i of a half: pair i
using PackedBits2 = std::uint8_t[2][64];  // two bits j of a half of vector v: pair 8v + j
using PackedBits4 = std::uint8_t[4][64];  // nibble j: pair 4v + j
using PackedBits8 = std::uint8_t[8][64];  // byte j: pair 2v + j

// Each format says
//   kSubBlock  columns that share a scale
//   kOffset    what its codes, as products take them, have too much: value = scale * (code - kOffset) - min
//   kMins      whether it has mins
//   kSigned    whether its codes are signed bytes; else they are less than 256, and not

// 4.625 bits a weight: the file's, and scales and mins in whole bytes.
struct PackedQ4K {
  static constexpr std::size_t kSubBlock = 32;
  static constexpr int kOffset = 0;
  static constexpr bool kMins = true;
  static constexpr bool kSigned = false;
  std::uint16_t d[kGroupRows];  // f16
  std::uint16_t dmin[kGroupRows];
  std::uint8_t scales[kRuns][kGroupRows];
  std::uint8_t mins[kRuns][kGroupRows];
  PackedBits4 codes[kRuns];
};
static_assert(sizeof(PackedQ4K) == 2368);

// 5.625 bits a weight.
struct PackedQ5K : PackedQ4K {
  PackedBits1 high_bits[kRuns];
};
static_assert(sizeof(PackedQ5K) == 2880);

// 6.625 bits a weight.
struct PackedQ6K {
  static constexpr std::size_t kSubBlock = 16;
  static constexpr int kOffset = 32;
  static constexpr bool kMins = false;
  static constexpr bool kSigned = false;
  PackedBits4 low_bits[kRuns];
  PackedBits2 high_bits[kRuns];
  std::int8_t scales[2 * kRuns][kGroupRows];
  std::uint16_t d[kGroupRows];  // f16
  std::uint8_t padding[32];
};
static_assert(sizeof(PackedQ6K) == 3392);

// 8.5 bits a weight, as in the file.
struct PackedQ8_0 {
  static constexpr std::size_t kSubBlock = 32;
  static constexpr int kOffset = 0;
  static constexpr bool kMins = false;
  static constexpr bool kSigned = true;
  std::uint16_t d[kRuns][kGroupRows];  // f16
  PackedBits8 codes[kRuns];            // signed
};
static_assert(sizeof(PackedQ8_0) == 4352);

// 4.5 bits a weight, as in the file.
struct PackedQ4_0 {
  static constexpr std::size_t kSubBlock = 32;
  static constexpr int kOffset = 8;
  static constexpr bool kMins = false;
  static constexpr bool kSigned = false;
  std::uint16_t d[kRuns][kGroupRows];  // f16
  PackedBits4 codes[kRuns];
};
static_assert(sizeof(PackedQ4_0) == 2304);

// Codes that stand for levels of a table: those come with 128 added, to be unsigned bytes.
inline constexpr int kLevelOffset = 128;

struct PackedIQ4NL : PackedQ4_0 {
  static constexpr int kOffset = kLevelOffset;
  static constexpr const std::array<std::int8_t, 16>& kLevels = kIq4Levels;
};

// 4.375 bits a weight: scales in whole bytes, padding.
struct PackedIQ4XS {
  static constexpr std::size_t kSubBlock = 32;
  static constexpr int kOffset = kLevelOffset;
  static constexpr bool kMins = false;
  static constexpr bool kSigned = false;
  static constexpr const std::array<std::int8_t, 16>& kLevels = kIq4Levels;
  PackedBits4 codes[kRuns];
  std::int8_t scales[kRuns][kGroupRows];
  std::uint16_t d[kGroupRows];  // f16
  std::uint8_t padding[32];
};
static_assert(sizeof(PackedIQ4XS) == 2240);

// 4.25 bits a weight, as in the file.
struct PackedMXFP4 {
  static constexpr std::size_t kSubBlock = 32;
  static constexpr int kOffset = kLevelOffset;
  static constexpr bool kMins = false;
  static constexpr bool kSigned = false;
  static constexpr const std::array<std::int8_t, 16>& kLevels = kMxfp4Levels;
  std::uint8_t exponents[kRuns][kGroupRows];
  PackedBits4 codes[kRuns];
};
static_assert(sizeof(PackedMXFP4) == 2176);

// Calls f(std::type_identity<Packed>()) with the layout for a type. Requires has_packed_layout(type).
bool has_packed_layout(DType type);
template <class F>
auto with_packed_layout(DType type, const F& f) {
  switch (type) {
    case DType::kQ5_K:
      return f(std::type_identity<PackedQ5K>());
    case DType::kQ6_K:
      return f(std::type_identity<PackedQ6K>());
    case DType::kQ8_0:
      return f(std::type_identity<PackedQ8_0>());
    case DType::kQ4_0:
      return f(std::type_identity<PackedQ4_0>());
    case DType::kIQ4_NL:
      return f(std::type_identity<PackedIQ4NL>());
    case DType::kIQ4_XS:
      return f(std::type_identity<PackedIQ4XS>());
    case DType::kMXFP4:
      return f(std::type_identity<PackedMXFP4>());
    default:
      return f(std::type_identity<PackedQ4K>());
  }
}

// Bytes of a group: its w.cols / 256 blocks.
std::size_t packed_group_bytes(const Weight& w);

// Packs rows [16 * group_idx, 16 * group_idx + 16) of w to `out`.
void pack_group(std::byte* out, const Weight& w, std::size_t group_idx);

}  // namespace qnext
