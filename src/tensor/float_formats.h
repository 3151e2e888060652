#pragma once
// Narrow floating-point formats <-> f32, one value at a time: the specification that vector code is tested against.
// Exact, independent of the thread's rounding and flush-to-zero modes but for f32 subnormals. No lookups, no state.

#include <bit>
#include <cstdint>
#include <limits>

namespace qnext {

inline constexpr std::uint16_t kF16Nan = 0x7e00;
inline constexpr float kMaxF16 = 65504.0f;

// IEEE 754 binary16: 1 sign, 5 exponent (bias 15), 10 mantissa bits. A NaN keeps its payload.
inline float f16_to_f32(std::uint16_t half) {
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000u) << 16;
  const std::uint32_t exponent = (half >> 10) & 0x1fu;
  const std::uint32_t mantissa = half & 0x3ffu;
  if (exponent == 0) {  // zero or subnormal: mantissa x 2^-24, exact in f32
    return std::bit_cast<float>(std::bit_cast<std::uint32_t>(static_cast<float>(mantissa) * 0x1p-24f) | sign);
  }
  const std::uint32_t wide_exponent = exponent == 0x1f ? 0xffu : exponent + (127 - 15);
  return std::bit_cast<float>(sign | wide_exponent << 23 | mantissa << 13);
}

// Rounds to nearest even; beyond 65519.99.. to infinity. A NaN becomes quiet and keeps the top of its payload.
inline std::uint16_t f32_to_f16(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000u);
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  std::uint32_t half = 0;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u | ((magnitude >> 13) & 0x3ffu);
  } else if (magnitude >= 0x477ff000u) {  // 65520 and above
    half = 0x7c00u;
  } else if (magnitude < 0x38800000u) {  // below 2^-14: the last place of 0.5f is f16's subnormal step, 2^-24
    half = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
  } else {  // rebias, then round off 13 bits; a carry runs into the exponent, as it should
    half = (magnitude - ((127u - 15u) << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  }
  return static_cast<std::uint16_t>(sign | half);
}

// bfloat16: the upper half of an f32.
inline float bf16_to_f32(std::uint16_t brain) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(brain) << 16);
}

// Rounds to nearest even. A NaN becomes quiet and keeps the top of its payload.
inline std::uint16_t f32_to_bf16(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>((bits >> 16) | 0x40u);
  return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// FP8 E4M3 as deep learning uses it ("FN"): bias 7, largest 448, no infinities, S.1111.111 is NaN.
// Source: OCP 8-bit floating point specification 1.0, table 1.
inline float e4m3_to_f32(std::uint8_t byte) {
  const std::uint32_t sign = static_cast<std::uint32_t>(byte & 0x80u) << 24;
  const std::uint32_t exponent = (byte >> 3) & 0xfu;
  const std::uint32_t mantissa = byte & 0x7u;
  if ((byte & 0x7fu) == 0x7fu) return std::bit_cast<float>(sign | 0x7fc00000u);
  if (exponent == 0) {
    return std::bit_cast<float>(std::bit_cast<std::uint32_t>(static_cast<float>(mantissa) * 0x1p-9f) | sign);
  }
  return std::bit_cast<float>(sign | (exponent + (127 - 7)) << 23 | mantissa << 20);
}

// E8M0: 2^(byte - 127); 255 is NaN. 0 gives 2^-127, an f32 subnormal.
// Source: OCP microscaling formats (MX) specification 1.0, section 5.4.1.
inline float e8m0_to_f32(std::uint8_t byte) {
  if (byte == 0xff) return std::numeric_limits<float>::quiet_NaN();
  return std::bit_cast<float>(byte == 0 ? 0x00400000u : static_cast<std::uint32_t>(byte) << 23);
}

}  // namespace qnext
