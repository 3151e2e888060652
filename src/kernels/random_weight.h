#pragma once
// Test only: weights of any type from a seed. Codes are random bytes, so that every bit pattern of a format occurs;
// scales are small f16 numbers, so that values are of the order of 1.

#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "tensor/block_formats.h"

namespace qnext {

// Every type that a weight can have.
inline constexpr DType kWeightTypes[] = {DType::kF32,    DType::kF16,  DType::kBF16, DType::kF8E4M3, DType::kQ4_0,
                                         DType::kQ4_1,   DType::kQ5_0, DType::kQ5_1, DType::kQ8_0,   DType::kQ2_K,
                                         DType::kQ3_K,   DType::kQ4_K, DType::kQ5_K, DType::kQ6_K,   DType::kIQ4_NL,
                                         DType::kIQ4_XS, DType::kMXFP4};

inline std::vector<float> random_floats(std::size_t count, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

// A weight and the memory that it reads: exactly its own, so that a sanitizer sees every overread.
struct RandomWeight {
  std::vector<std::byte> bytes;
  std::vector<float> block_scales;
  Weight weight;

  RandomWeight(DType type, std::size_t rows, std::size_t cols, std::uint32_t seed) {
    bytes.resize(rows * dtype_bytes(type, cols));
    std::mt19937 random(seed);
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
    const std::size_t block_bytes = dtype_info(type).block_bytes;
    for (std::size_t at = 0; at < bytes.size(); at += block_bytes) make_sane(bytes.data() + at, type, random);
    weight = make_weight(type, rows, cols, bytes.data());
    if (type == DType::kF8E4M3) {
      weight.scales_per_row = ceil_div(cols, kFp8ScaleBlock);
      block_scales = random_floats(ceil_div(rows, kFp8ScaleBlock) * weight.scales_per_row, seed + 1);
      weight.block_scales = block_scales.data();
    }
  }

 private:
  // Replaces what must not be random in this block (plain types: this element).
  static void make_sane(std::byte* block, DType type, std::mt19937& random) {
    std::normal_distribution<float> normal;
    const auto put_half = [&](std::size_t offset, float magnitude) {
      const std::uint16_t half = f32_to_f16(normal(random) * magnitude);
      std::memcpy(block + offset, &half, sizeof(half));
    };
    const auto put = [&](auto value) { std::memcpy(block, &value, sizeof(value)); };
    switch (type) {
      case DType::kF32:
        return put(normal(random));
      case DType::kF16:
        return put(f32_to_f16(normal(random)));
      case DType::kBF16:
        return put(f32_to_bf16(normal(random)));
      case DType::kF8E4M3:  // neither NaN nor more than 1.875
        return put(static_cast<std::uint8_t>((random() & 0x80u) | random() % 0x40u));
      case DType::kMXFP4:
        return put(static_cast<std::uint8_t>(124 + random() % 4));
      case DType::kQ4_1:
      case DType::kQ5_1:
        put_half(2, 1.0f);
        return put_half(0, 0.1f);
      case DType::kQ4_0:
      case DType::kQ5_0:
        return put_half(0, 0.1f);
      case DType::kQ8_0:
      case DType::kIQ4_NL:
        return put_half(0, 0.01f);
      case DType::kQ4_K:
      case DType::kQ5_K:
        put_half(2, 0.01f);
        return put_half(0, 0.002f);
      case DType::kIQ4_XS:
        return put_half(0, 0.001f);
      case DType::kQ2_K:
        put_half(offsetof(BlockQ2_K, dmin), 0.1f);
        return put_half(offsetof(BlockQ2_K, d), 0.1f);
      case DType::kQ3_K:
        return put_half(offsetof(BlockQ3_K, d), 0.01f);
      case DType::kQ6_K:
        return put_half(offsetof(BlockQ6_K, d), 0.0005f);
      case DType::kI32:
      case DType::kI64:
      case DType::kU8:
      case DType::kI16:
        break;
    }
  }
};

}  // namespace qnext
