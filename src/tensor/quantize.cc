#include "tensor/quantize.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "base/check.h"
#include "tensor/block_formats.h"
#include "tensor/quantize_affine.h"
#include "tensor/quantize_levels.h"

namespace qnext {
namespace {

// ---- Codes into bits: the inverses of decode() in block_formats.cc. Codes are those of the block's elements. ----

void pack_halves(std::uint8_t* packed, const std::uint8_t* codes) {
  for (std::size_t j = 0; j < 16; ++j)
    packed[j] = static_cast<std::uint8_t>((codes[j] & 0xf) | (codes[j + 16] & 0xf) << 4);
}

std::uint32_t pack_fifth_bits(const std::uint8_t* codes) {
  std::uint32_t bits = 0;
  for (std::size_t i = 0; i < kSmallBlock; ++i) bits |= static_cast<std::uint32_t>(codes[i] >> 4 & 1) << i;
  return bits;
}

// Bits 0-1, of Q2_K and Q3_K.
void pack_two_bits(std::uint8_t (&packed)[64], const std::uint8_t* codes) {
  for (std::size_t i = 0; i < kSuperBlock; ++i) {
    packed[i / 128 * 32 + i % 32] |= static_cast<std::uint8_t>((codes[i] & 0x3) << (i / 32 % 4 * 2));
  }
}

// Bits 0-3, of Q4_K and Q5_K.
void pack_four_bits(std::uint8_t (&packed)[128], const std::uint8_t* codes) {
  for (std::size_t i = 0; i < kSuperBlock; ++i) {
    packed[i / 64 * 32 + i % 32] |= static_cast<std::uint8_t>((codes[i] & 0xf) << (i / 32 % 2 * 4));
  }
}

// One bit of each code: bit c of packed[j] is that of element 32c + j. Of Q3_K and Q5_K.
void pack_one_bit(std::uint8_t (&packed)[32], const std::uint8_t* codes, int bit) {
  for (std::size_t i = 0; i < kSuperBlock; ++i) {
    packed[i % 32] |= static_cast<std::uint8_t>((codes[i] >> bit & 1) << (i / 32));
  }
}

// The inverse of unpack_scales_mins.
void pack_scales_mins(std::uint8_t (&packed)[kSubScaleBytes], const std::uint8_t* scales, const std::uint8_t* mins) {
  for (std::size_t j = 0; j < 4; ++j) {
    packed[j] = static_cast<std::uint8_t>(scales[j] | scales[j + 4] >> 4 << 6);
    packed[j + 4] = static_cast<std::uint8_t>(mins[j] | mins[j + 4] >> 4 << 6);
    packed[j + 8] = static_cast<std::uint8_t>((scales[j + 4] & 0xf) | (mins[j + 4] & 0xf) << 4);
  }
}

// The inverse of unpack_q3_k_scales.
void pack_q3_k_scales(std::uint8_t (&packed)[kSubScaleBytes], const std::int8_t* scales) {
  for (std::size_t s = 0; s < 16; ++s) {
    const int stored = scales[s] + 32;
    packed[s % 8] |= static_cast<std::uint8_t>((stored & 0xf) << (s / 8 * 4));
    packed[8 + s % 4] |= static_cast<std::uint8_t>(stored >> 4 << (s / 4 * 2));
  }
}

// ---- Blocks. Each encode(block, values) finds an empty block, and values that are not all zero. ----

using Codes = std::array<std::uint8_t, kSuperBlock>;

// Levels counted from `first`, as the linear formats store them.
Codes linear_codes(const LevelBlock& found, int first) {
  Codes codes;
  for (std::size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<std::uint8_t>(found.levels[i] - first);
  return codes;
}

// The place of each level in the format's table.
template <std::size_t num_levels>
Codes table_codes(const std::array<std::int8_t, kSuperBlock>& levels, const std::array<std::int8_t, num_levels>& table,
                  std::size_t num_elements) {
  std::array<std::uint8_t, 256> code_of{};
  for (std::size_t code = num_levels; code-- > 0;) {
    code_of[static_cast<std::uint8_t>(table[code])] = static_cast<std::uint8_t>(code);
  }
  Codes codes{};
  for (std::size_t i = 0; i < num_elements; ++i) codes[i] = code_of[static_cast<std::uint8_t>(levels[i])];
  return codes;
}

void encode(BlockQ4_0& block, const BlockValues& values) {
  const LevelBlock found = search_level_block(values, LinearLevels{-8, 7});
  block.d = values.to_f16(found.d);
  pack_halves(block.codes, linear_codes(found, -8).data());
}

void encode(BlockQ5_0& block, const BlockValues& values) {
  const LevelBlock found = search_level_block(values, LinearLevels{-16, 15});
  const Codes codes = linear_codes(found, -16);
  block.d = values.to_f16(found.d);
  block.high_bits = pack_fifth_bits(codes.data());
  pack_halves(block.codes, codes.data());
}

void encode(BlockQ4_1& block, const BlockValues& values) {
  const AffineBlock found = search_affine_block(values, 15);
  block.d = values.to_f16(found.d);
  block.m = values.to_f16(found.offset_unit);
  pack_halves(block.codes, found.codes.data());
}

void encode(BlockQ5_1& block, const BlockValues& values) {
  const AffineBlock found = search_affine_block(values, 31);
  block.d = values.to_f16(found.d);
  block.m = values.to_f16(found.offset_unit);
  block.high_bits = pack_fifth_bits(found.codes.data());
  pack_halves(block.codes, found.codes.data());
}

void encode(BlockIQ4_NL& block, const BlockValues& values) {
  const LevelBlock found = search_level_block(values, kIq4Levels);
  block.d = values.to_f16(found.d);
  pack_halves(block.codes, table_codes(found.levels, kIq4Levels, kSmallBlock).data());
}

void encode(BlockMXFP4& block, const BlockValues& values) {
  const PowerBlock found = search_power_block(values);
  block.exponent = found.exponent;
  pack_halves(block.codes, table_codes(found.levels, kMxfp4Levels, kSmallBlock).data());
}

void encode(BlockQ2_K& block, const BlockValues& values) {
  const AffineBlock found = search_affine_super_block(values, {16, 16, 3, 15});
  block.d = values.to_f16(found.d);
  block.dmin = values.to_f16(-found.offset_unit);
  for (std::size_t s = 0; s < 16; ++s) {
    block.scales_mins[s] = static_cast<std::uint8_t>(found.scales[s] | found.mins[s] << 4);
  }
  pack_two_bits(block.codes, found.codes.data());
}

void encode(BlockQ3_K& block, const BlockValues& values) {
  const LevelBlock found = search_level_super_block(values, LinearLevels{-4, 3}, {16, 16, 64});
  const Codes codes = linear_codes(found, -4);
  block.d = values.to_f16(found.d);
  pack_q3_k_scales(block.scales, found.scales.data());
  pack_one_bit(block.high_bits, codes.data(), 2);
  pack_two_bits(block.codes, codes.data());
}

void encode(BlockQ4_K& block, const BlockValues& values) {
  const AffineBlock found = search_affine_super_block(values, {8, 32, 15, 63});
  block.d = values.to_f16(found.d);
  block.dmin = values.to_f16(-found.offset_unit);
  pack_scales_mins(block.scales_mins, found.scales.data(), found.mins.data());
  pack_four_bits(block.codes, found.codes.data());
}

void encode(BlockQ5_K& block, const BlockValues& values) {
  const AffineBlock found = search_affine_super_block(values, {8, 32, 31, 63});
  block.d = values.to_f16(found.d);
  block.dmin = values.to_f16(-found.offset_unit);
  pack_scales_mins(block.scales_mins, found.scales.data(), found.mins.data());
  pack_one_bit(block.high_bits, found.codes.data(), 4);
  pack_four_bits(block.codes, found.codes.data());
}

void encode(BlockQ6_K& block, const BlockValues& values) {
  const LevelBlock found = search_level_super_block(values, LinearLevels{-32, 31}, {16, 16, 256});
  const Codes codes = linear_codes(found, -32);
  block.d = values.to_f16(found.d);
  std::copy(found.scales.begin(), found.scales.end(), block.scales);
  for (std::size_t i = 0; i < kSuperBlock; ++i) {
    const std::size_t half = i / 128;
    const std::size_t pair = i / 32 % 4;
    block.low_bits[half * 64 + pair % 2 * 32 + i % 32] |= static_cast<std::uint8_t>((codes[i] & 0xf) << (pair / 2 * 4));
    block.high_bits[half * 32 + i % 32] |= static_cast<std::uint8_t>(codes[i] >> 4 << (pair * 2));
  }
}

void encode(BlockIQ4_XS& block, const BlockValues& values) {
  const LevelBlock found = search_level_super_block(values, kIq4Levels, {8, 32, 64});
  const Codes codes = table_codes(found.levels, kIq4Levels, kSuperBlock);
  block.d = values.to_f16(found.d);
  for (std::size_t s = 0; s < 8; ++s) {
    const int stored = found.scales[s] + 32;
    block.scales_low[s / 2] |= static_cast<std::uint8_t>((stored & 0xf) << (s % 2 * 4));
    block.scales_high |= static_cast<std::uint16_t>(stored >> 4 << (s * 2));
    pack_halves(block.codes + s * 16, codes.data() + s * 32);
  }
}

struct Input {
  const float* values;
  const float* importance;  // or nullptr
  std::size_t num_elements;
  std::size_t block_elements;
};

template <class Block>
void encode_searched(std::byte* blocks, const Input& in) {
  BlockValues block_values;
  for (std::size_t i = 0; i < in.num_elements; i += in.block_elements, blocks += sizeof(Block)) {
    const float* importance = in.importance == nullptr ? nullptr : in.importance + i;
    normalise_block(block_values, in.values + i, importance, in.block_elements);
    Block block = {};  // zero scales: decodes to zeros
    if (!block_values.all_zero) encode(block, block_values);
    std::memcpy(blocks, &block, sizeof(block));
  }
}

// To the byte what llama.cpp's reference quantiser writes: its d is rounded to f16 only after the codes are made.
void encode_q8_0(std::byte* blocks, const float* values, std::size_t num_elements) {
  for (std::size_t i = 0; i < num_elements; i += kSmallBlock, blocks += sizeof(BlockQ8_0)) {
    float max_magnitude = 0;
    for (std::size_t j = 0; j < kSmallBlock; ++j) max_magnitude = std::max(max_magnitude, std::fabs(values[i + j]));
    const float d = max_magnitude / 127;
    const float inverse = d > 0x1p-120f ? 1 / d : 0;  // below, d is zero in f16
    BlockQ8_0 block;
    block.d = f32_to_f16(std::min(d, kMaxF16));
    for (std::size_t j = 0; j < kSmallBlock; ++j) {
      block.codes[j] = static_cast<std::int8_t>(std::round(values[i + j] * inverse));
    }
    std::memcpy(blocks, &block, sizeof(block));
  }
}

// 16-bit floats: rounded, where that would be infinite the largest finite one.
template <class Convert>
void encode_16_bit(std::byte* elements, const float* values, std::size_t num_elements, Convert convert,
                   std::uint16_t infinity) {
  for (std::size_t i = 0; i < num_elements; ++i) {
    std::uint16_t element = convert(values[i]);
    if ((element & 0x7fff) == infinity) --element;
    std::memcpy(elements + i * sizeof(element), &element, sizeof(element));
  }
}

}  // namespace

std::optional<std::size_t> find_non_finite(const float* values, std::size_t num_elements) {
  for (std::size_t i = 0; i < num_elements; ++i) {
    if (!std::isfinite(values[i])) return i;
  }
  return std::nullopt;
}

void encode_blocks(std::byte* blocks, const float* values, DType type, std::size_t num_elements,
                   const float* importance) {
  const DTypeInfo& info = dtype_info(type);
  QN_CHECK(num_elements % info.block_elements == 0, "{} elements of {}", num_elements, info.name);
  const std::optional<std::size_t> bad = find_non_finite(values, num_elements);
  QN_CHECK(!bad, "value {} is {}", *bad, values[*bad]);
  const Input in = {values, importance, num_elements, info.block_elements};
  switch (type) {
    case DType::kF32:
      std::memcpy(blocks, values, num_elements * sizeof(float));
      return;
    case DType::kF16:
      return encode_16_bit(blocks, values, num_elements, f32_to_f16, 0x7c00);
    case DType::kBF16:
      return encode_16_bit(blocks, values, num_elements, f32_to_bf16, 0x7f80);
    case DType::kQ4_0:
      return encode_searched<BlockQ4_0>(blocks, in);
    case DType::kQ4_1:
      return encode_searched<BlockQ4_1>(blocks, in);
    case DType::kQ5_0:
      return encode_searched<BlockQ5_0>(blocks, in);
    case DType::kQ5_1:
      return encode_searched<BlockQ5_1>(blocks, in);
    case DType::kQ8_0:
      return encode_q8_0(blocks, values, num_elements);
    case DType::kQ2_K:
      return encode_searched<BlockQ2_K>(blocks, in);
    case DType::kQ3_K:
      return encode_searched<BlockQ3_K>(blocks, in);
    case DType::kQ4_K:
      return encode_searched<BlockQ4_K>(blocks, in);
    case DType::kQ5_K:
      return encode_searched<BlockQ5_K>(blocks, in);
    case DType::kQ6_K:
      return encode_searched<BlockQ6_K>(blocks, in);
    case DType::kIQ4_NL:
      return encode_searched<BlockIQ4_NL>(blocks, in);
    case DType::kIQ4_XS:
      return encode_searched<BlockIQ4_XS>(blocks, in);
    case DType::kMXFP4:
      return encode_searched<BlockMXFP4>(blocks, in);
    case DType::kF8E4M3:
    case DType::kI32:
    case DType::kI64:
    case DType::kU8:
    case DType::kI16:
      break;
  }
  QN_CHECK(false, "{} is not a type that weights are encoded in", info.name);
}

}  // namespace qnext
