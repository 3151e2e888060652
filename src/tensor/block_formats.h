#pragma once
// The block formats of GGUF, byte by byte, and their decoding: the specification that quantisers and kernels follow.
//
// A row is a whole number of blocks, one after the other without padding; blocks have no alignment (the structs are
// packed; copy one out by load_block). Integers are little-endian; "d", "m" and "dmin" are f16. In the equations i is
// the element's index in the block, and q(i) its code. A "sub-block" is a run of elements that shares a scale.
// Source: the ggml project's ggml-common.h (layouts) and ggml-quants.c (order of elements and of multiplications);
// tests/data/formats holds blocks decoded by ggml, which decode_blocks() reproduces to the bit.

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "tensor/dtype.h"
#include "tensor/float_formats.h"
#include "tensor/weight.h"

namespace qnext {

static_assert(std::endian::native == std::endian::little, "blocks are read as they lie in the file");

inline constexpr std::size_t kSmallBlock = 32;   // elements of a Q4_0 .. Q8_0, IQ4_NL or MXFP4 block
inline constexpr std::size_t kSuperBlock = 256;  // elements of a K or IQ4_XS block
inline constexpr std::size_t kSubScaleBytes = 12;

// ---- Layouts ----
// "Halves" of 32 elements: byte j has the code of element j in its low nibble and of element j + 16 in its high one.

#pragma pack(push, 1)

struct BlockQ4_0 {  // value(i) = d * (q(i) - 8)
  std::uint16_t d;
  std::uint8_t codes[16];  // halves
};

struct BlockQ4_1 {  // value(i) = d * q(i) + m
  std::uint16_t d;
  std::uint16_t m;
  std::uint8_t codes[16];  // halves
};

struct BlockQ5_0 {  // value(i) = d * (q(i) - 16)
  std::uint16_t d;
  std::uint32_t high_bits;  // bit i: bit 4 of q(i)
  std::uint8_t codes[16];   // halves: bits 0-3
};

struct BlockQ5_1 {  // value(i) = d * q(i) + m
  std::uint16_t d;
  std::uint16_t m;
  std::uint32_t high_bits;  // bit i: bit 4 of q(i)
  std::uint8_t codes[16];   // halves: bits 0-3
};

struct BlockQ8_0 {  // value(i) = d * q(i)
  std::uint16_t d;
  std::int8_t codes[32];
};

// 16 sub-blocks of 16. value(i) = (d * scale) * q(i) - (dmin * min)
struct BlockQ2_K {
  std::uint8_t scales_mins[16];  // of sub-block s: scale in the low nibble, min in the high one
  std::uint8_t codes[64];        // i = 128h + 32p + j: bits 2p, 2p+1 of codes[32h + j]
  std::uint16_t d;
  std::uint16_t dmin;
};

// 16 sub-blocks of 16. value(i) = (d * scale) * (q(i) - 4), q of 3 bits, scale in [-32, 31] (unpack_q3_k_scales)
struct BlockQ3_K {
  std::uint8_t high_bits[32];  // i = 32c + j: bit c of high_bits[j] is bit 2 of q(i)
  std::uint8_t codes[64];      // bits 0-1, as in Q2_K
  std::uint8_t scales[kSubScaleBytes];
  std::uint16_t d;
};

// 8 sub-blocks of 32. value(i) = (d * scale) * q(i) - (dmin * min), scale and min in [0, 63] (unpack_scales_mins)
struct BlockQ4_K {
  std::uint16_t d;
  std::uint16_t dmin;
  std::uint8_t scales_mins[kSubScaleBytes];
  std::uint8_t codes[128];  // i = 64c + j: codes[32c + j % 32], low nibble for j < 32, else high
};

// As Q4_K, with q of 5 bits.
struct BlockQ5_K {
  std::uint16_t d;
  std::uint16_t dmin;
  std::uint8_t scales_mins[kSubScaleBytes];
  std::uint8_t high_bits[32];  // i = 32s + j: bit s of high_bits[j] is bit 4 of q(i)
  std::uint8_t codes[128];     // bits 0-3, as in Q4_K
};

// 16 sub-blocks of 16. value(i) = (d * scales[i / 16]) * (q(i) - 32), q of 6 bits
struct BlockQ6_K {
  std::uint8_t low_bits[128];  // i = 128h + 32p + j: bits 0-3 in low_bits[64h + 32(p % 2) + j], low nibble for p < 2
  std::uint8_t high_bits[64];  //                     bits 4-5 in bits 2p, 2p+1 of high_bits[32h + j]
  std::int8_t scales[16];
  std::uint16_t d;
};

struct BlockIQ4_NL {  // value(i) = d * kIq4Levels[q(i)]
  std::uint16_t d;
  std::uint8_t codes[16];  // halves
};

// 8 sub-blocks of 32. value(i) = (d * scale) * kIq4Levels[q(i)], scale in [-32, 31] (iq4_xs_scale)
struct BlockIQ4_XS {
  std::uint16_t d;
  std::uint16_t scales_high;   // bits 2s, 2s+1: bits 4-5 of scale s + 32
  std::uint8_t scales_low[4];  // nibble s (low nibble of a byte first): bits 0-3 of scale s + 32
  std::uint8_t codes[128];     // each sub-block 16 bytes of halves
};

struct BlockMXFP4 {        // value(i) = 2^(exponent - 128) * kMxfp4Levels[q(i)]; exponent 255: NaN
  std::uint8_t exponent;   // E8M0
  std::uint8_t codes[16];  // halves of E2M1
};

#pragma pack(pop)

static_assert(sizeof(BlockQ4_0) == 18 && sizeof(BlockQ4_1) == 20 && sizeof(BlockQ5_0) == 22);
static_assert(sizeof(BlockQ5_1) == 24 && sizeof(BlockQ8_0) == 34 && sizeof(BlockQ2_K) == 84);
static_assert(sizeof(BlockQ3_K) == 110 && sizeof(BlockQ4_K) == 144 && sizeof(BlockQ5_K) == 176);
static_assert(sizeof(BlockQ6_K) == 210 && sizeof(BlockIQ4_NL) == 18 && sizeof(BlockIQ4_XS) == 136);
static_assert(sizeof(BlockMXFP4) == 17 && alignof(BlockQ4_K) == 1 && alignof(BlockQ6_K) == 1);

// ---- Levels of the non-linear codes ----

// IQ4_NL and IQ4_XS. Source: ggml-common.h, kvalues_iq4nl.
inline constexpr std::array<std::int8_t, 16> kIq4Levels = {-127, -104, -83, -65, -49, -35, -22, -10,
                                                           1,    13,   25,  38,  53,  69,  89,  113};
// E2M1 doubled, to be integers; the scale is halved to match. Source: OCP MX specification 1.0, section 5.3.3.
inline constexpr std::array<std::int8_t, 16> kMxfp4Levels = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

// ---- Reading blocks ----

template <class Block>
inline Block load_block(const std::byte* bytes) {
  Block block;
  std::memcpy(&block, bytes, sizeof(Block));
  return block;
}

struct ScalesMins {
  std::array<std::uint8_t, 8> scales;
  std::array<std::uint8_t, 8> mins;
};

// The eight 6-bit scales and mins of a Q4_K or Q5_K block. Their bits lie so: byte j < 4 has scale j and, on top, bits
// 4-5 of scale j + 4; byte 4 + j the same of mins; byte 8 + j bits 0-3 of scale j + 4 (low nibble) and of min j + 4.
inline ScalesMins unpack_scales_mins(const std::uint8_t (&packed)[kSubScaleBytes]) {
  std::uint32_t words[3];
  std::memcpy(words, packed, kSubScaleBytes);
  const std::uint32_t unpacked[4] = {
      words[0] & 0x3f3f3f3fu, (words[2] & 0x0f0f0f0fu) | (words[0] >> 2 & 0x30303030u),  // scales
      words[1] & 0x3f3f3f3fu, (words[2] >> 4 & 0x0f0f0f0fu) | (words[1] >> 2 & 0x30303030u)};
  ScalesMins out;
  std::memcpy(out.scales.data(), unpacked, 8);
  std::memcpy(out.mins.data(), unpacked + 2, 8);
  return out;
}

// The sixteen scales of a Q3_K block. Byte j < 8 has bits 0-3 of scale j (low nibble) and of scale j + 8; bits 4-5 of
// scale s are bits 2(s/4), 2(s/4)+1 of byte 8 + s % 4. Stored with 32 added.
inline std::array<std::int8_t, 16> unpack_q3_k_scales(const std::uint8_t (&packed)[kSubScaleBytes]) {
  std::array<std::int8_t, 16> scales;
  for (std::size_t s = 0; s < 16; ++s) {
    const int low = packed[s % 8] >> (s / 8 * 4) & 0xf;
    const int high = packed[8 + s % 4] >> (s / 4 * 2) & 0x3;
    scales[s] = static_cast<std::int8_t>((low | high << 4) - 32);
  }
  return scales;
}

inline int iq4_xs_scale(const BlockIQ4_XS& block, std::size_t sub_idx) {
  const int low = block.scales_low[sub_idx / 2] >> (sub_idx % 2 * 4) & 0xf;
  const int high = block.scales_high >> (sub_idx * 2) & 0x3;
  return (low | high << 4) - 32;
}

// 2^(exponent - 128): what kMxfp4Levels are multiplied by. NaN for exponent 255.
inline float mxfp4_scale(std::uint8_t exponent) {
  return e8m0_to_f32(exponent) * 0.5f;
}

// ---- Decoding ----

// out: num_elements values of `blocks`, in order. Scalar, exact in the equations' order of operations (one rounding a
// multiplication or subtraction). Requires a float-like type (not i32, i64, u8) and a whole number of blocks.
// kF8E4M3 comes without its block scales. Any bytes are valid; no alignment is needed.
void decode_blocks(float* out, const std::byte* blocks, DType type, std::size_t num_elements);

// out: the weight.cols values of one row, with FP8 block scales applied (value * scale, rounded once).
void decode_row(float* out, const Weight& weight, std::size_t row_idx);

}  // namespace qnext
