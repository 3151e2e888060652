#include "tensor/quantize.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <random>

#include "tensor/format_test_data.h"

namespace qnext {
namespace {

constexpr std::size_t kRow = 4 * kSuperBlock;

// The number of steps between the least and the greatest value of a code, of the widest sub-block.
float steps_of(DType type) {
  switch (type) {
    case DType::kQ2_K:
      return 3;
    case DType::kQ3_K:
      return 7;
    case DType::kMXFP4:
      return 6;  // its widest step is a third of its largest magnitude
    case DType::kIQ4_NL:
    case DType::kIQ4_XS:
      return 10;  // its widest step is 24 of 240
    case DType::kQ5_0:
    case DType::kQ5_1:
    case DType::kQ5_K:
      return 31;
    case DType::kQ6_K:
      return 63;
    case DType::kQ8_0:
      return 254;
    default:
      return 15;
  }
}

bool has_no_zero(DType type) {
  return type == DType::kIQ4_NL || type == DType::kIQ4_XS;
}

// The largest relative error of a lone or constant value, which a scale can suit: f16's 2^-12 of d and of dmin, and as
// much for what the sums of squares, in f32, do not tell apart. MXFP4's scales are powers of two: half of the gap of
// 4 and 6, of 5. IQ4 has no zero: least squares of one value at level 113 and 31 zeros at level 1 shrink the scale.
float exact_tolerance(DType type) {
  if (type == DType::kMXFP4) return 1.0f / 5;
  return 0x1p-10f + (has_no_zero(type) ? 31.0f / (113 * 113) : 0.0f);
}

// What a zero beside it may become: level 1 of at least 0.7 x 113 (the search's innermost trial), where there is none.
float zero_tolerance(DType type) {
  return has_no_zero(type) ? 1 / (0.7f * 113) : 0x1p-10f;
}

class RoundTrip : public testing::TestWithParam<DType> {};

// Rounding to the nearest of evenly spaced levels that span [-max, max] errs by half a step at most. The least squares
// may err more at a clipped value, but not in the mean of squares.
void expect_within_half_a_step(const std::vector<float>& values, DType type) {
  const std::vector<float> decoded = round_trip(values, type);
  const std::size_t block_elements = dtype_info(type).block_elements;
  for (std::size_t begin = 0; begin < values.size(); begin += block_elements) {
    float max_magnitude = 0;
    double squares = 0;
    for (std::size_t i = begin; i < begin + block_elements; ++i) {
      max_magnitude = std::max(max_magnitude, std::fabs(values[i]));
      squares += std::pow(static_cast<double>(decoded[i] - values[i]), 2);
    }
    EXPECT_LE(std::sqrt(squares / static_cast<double>(block_elements)), max_magnitude / steps_of(type)) << begin;
  }
}

TEST_P(RoundTrip, ErrsByLessThanHalfAStep) {
  expect_within_half_a_step(normal_values(kRow, 0.02f, 1), GetParam());
  std::mt19937 random(2);
  std::uniform_real_distribution<float> uniform(-3, 3);
  std::vector<float> values(kRow);
  for (float& value : values) value = uniform(random);
  expect_within_half_a_step(values, GetParam());
  for (std::size_t i = 7; i < values.size(); i += 100) values[i] *= 50;  // outliers
  expect_within_half_a_step(values, GetParam());
}

TEST_P(RoundTrip, ZerosStayZeros) {
  std::vector<float> values(kRow, 0.0f);
  values[3] = -0.0f;
  for (const float value : round_trip(values, GetParam())) EXPECT_EQ(value, 0.0f);
}

TEST_P(RoundTrip, ConstantsAreKept) {
  for (const float constant : {0.75f, -0.75f, 1.0f / 3, -1.0f / 3, 6000.0f}) {
    for (const float value : round_trip(std::vector<float>(kRow, constant), GetParam())) {
      EXPECT_NEAR(value, constant, std::fabs(constant) * exact_tolerance(GetParam()));
    }
  }
}

TEST_P(RoundTrip, OneValueAmongZeros) {
  for (const std::size_t place : {0, 31, 255}) {
    for (const float lone : {-0.3f, 0.3f}) {
      std::vector<float> values(kSuperBlock, 0.0f);
      values[place] = lone;
      const std::vector<float> decoded = round_trip(values, GetParam());
      for (std::size_t i = 0; i < values.size(); ++i) {
        EXPECT_NEAR(decoded[i], values[i],
                    0.3f * (i == place ? exact_tolerance(GetParam()) : zero_tolerance(GetParam())))
            << i;
      }
    }
  }
}

TEST_P(RoundTrip, AnythingFiniteGivesSomethingFinite) {
  for (const float magnitude : {FLT_MAX, 1e30f, 65504.0f * 200, 1e-7f, 1e-20f, FLT_MIN, 1e-42f, FLT_TRUE_MIN}) {
    std::vector<float> values = normal_values(kRow, 1, 8);
    for (float& value : values) value = std::clamp(value / 4, -1.0f, 1.0f) * magnitude;
    values[5] = magnitude;
    for (const float value : round_trip(values, GetParam())) {
      // At most one level beyond, and the least step of an f16 scale for what is less than that.
      EXPECT_LE(std::fabs(value), 2 * static_cast<double>(magnitude) + 0x1p-24) << magnitude;
    }
  }
}

TEST_P(RoundTrip, WildMixturesGiveSomethingFinite) {
  std::mt19937 random(9);
  const auto any_finite = [&random] {
    float value = NAN;
    while (!std::isfinite(value)) value = std::bit_cast<float>(static_cast<std::uint32_t>(random()));
    return value;
  };
  for (int round = 0; round < 100; ++round) {
    std::vector<float> values(kSuperBlock), importance(kSuperBlock);
    std::generate(values.begin(), values.end(), any_finite);
    std::generate(importance.begin(), importance.end(), [&] { return std::fabs(any_finite()); });
    if (round % 2 == 1) std::fill(values.begin(), values.begin() + 150, 0.0f);
    if (round % 4 >= 2) importance.clear();
    for (const float value : round_trip(values, GetParam(), importance)) ASSERT_TRUE(std::isfinite(value)) << round;
  }
}

// The search is blind to the magnitude: a power of two more, and everything scales, while d stays a normal f16.
TEST_P(RoundTrip, PowersOfTwoPassThrough) {
  const std::vector<float> values = normal_values(kRow, 0.5f, 10);
  const std::vector<float> decoded = round_trip(values, GetParam());
  std::vector<float> scaled = values;
  for (float& value : scaled) value *= 64;
  const std::vector<float> scaled_decoded = round_trip(scaled, GetParam());
  for (std::size_t i = 0; i < values.size(); ++i) ASSERT_EQ(scaled_decoded[i], 64 * decoded[i]) << i;
}

TEST_P(RoundTrip, AnyAddressGivesTheSameBytes) {
  const std::vector<float> values = normal_values(kRow, 1, 11);
  const std::size_t num_bytes = dtype_bytes(GetParam(), kRow);
  std::vector<std::byte> expected(num_bytes);
  encode_blocks(expected.data(), values.data(), GetParam(), kRow);
  for (std::size_t shift = 1; shift < 4; ++shift) {
    std::vector<std::byte> moved(num_bytes + 4, std::byte{0xab});
    encode_blocks(moved.data() + shift, values.data(), GetParam(), kRow);
    EXPECT_TRUE(std::equal(expected.begin(), expected.end(), moved.begin() + static_cast<std::ptrdiff_t>(shift)));
    EXPECT_EQ(moved[shift - 1], std::byte{0xab});
    EXPECT_EQ(moved[shift + num_bytes], std::byte{0xab});
  }
}

// Blocks know nothing of their neighbours: a row may be encoded in parts.
TEST_P(RoundTrip, BlocksAreIndependent) {
  const std::vector<float> values = normal_values(kRow, 1, 12);
  const std::vector<float> whole = round_trip(values, GetParam());
  const std::vector<float> last(values.end() - kSuperBlock, values.end());
  EXPECT_TRUE(std::equal(whole.end() - kSuperBlock, whole.end(), round_trip(last, GetParam()).begin()));
}

INSTANTIATE_TEST_SUITE_P(Types, RoundTrip, testing::ValuesIn(kBlockTypes), dtype_test_name);

class Idempotent : public testing::TestWithParam<DType> {};

TEST_P(Idempotent, WhatWasDecodedEncodesToItself) {
  const std::vector<float> decoded = round_trip(normal_values(16 * kSuperBlock, 0.02f, 13), GetParam());
  EXPECT_EQ(round_trip(decoded, GetParam()), decoded);
}

INSTANTIATE_TEST_SUITE_P(Types, Idempotent,
                         testing::Values(DType::kF32, DType::kF16, DType::kBF16, DType::kQ8_0, DType::kQ4_0,
                                         DType::kQ5_0, DType::kQ3_K, DType::kIQ4_NL, DType::kIQ4_XS, DType::kMXFP4),
                         dtype_test_name);

class NearlyIdempotent : public testing::TestWithParam<DType> {};

// Where no value of a block has the lowest code, the same values have other offsets, which f16 or six bits hold less
// well; and the factors of 6-bit scales by d, or 8-bit ones, are not unique. A second encoding may lose, but little.
TEST_P(NearlyIdempotent, ASecondEncodingLosesATenthOfTheFirst) {
  const std::vector<float> values = normal_values(64 * kSuperBlock, 0.02f, 13);
  const std::vector<float> decoded = round_trip(values, GetParam());
  EXPECT_LE(squared_error(round_trip(decoded, GetParam()), decoded), 0.1 * squared_error(decoded, values));
}

INSTANTIATE_TEST_SUITE_P(Types, NearlyIdempotent,
                         testing::Values(DType::kQ4_1, DType::kQ5_1, DType::kQ2_K, DType::kQ4_K, DType::kQ5_K,
                                         DType::kQ6_K),
                         dtype_test_name);

// All of a block above zero asks for a negative dmin.
TEST(AffineSuperBlocks, RangesAboveZeroAreKept) {
  std::vector<float> values = normal_values(kRow, 0.1f, 14);
  for (float& value : values) value += 5;
  for (const DType type : {DType::kQ2_K, DType::kQ4_K, DType::kQ5_K}) {
    // Plain rounding over some [4.7, 5.3], and of the offset: 6 bits (4 for Q2_K), half a unit at most.
    const double step = 0.6 / static_cast<double>(steps_of(type));
    EXPECT_LE(squared_error(round_trip(values, type), values), kRow * step * step) << dtype_info(type).name;
  }
}

TEST(EncodePlain, SixteenBitsRoundAndSaturate) {
  const std::vector<float> values = {1.0f, -65504.0f, 65519.0f, 65520.0f, -1e38f, FLT_MAX, -FLT_MAX, 1e-8f};
  EXPECT_EQ(round_trip(values, DType::kF32), values);
  const std::vector<float> f16 = round_trip(values, DType::kF16);
  EXPECT_EQ(f16, (std::vector<float>{1, -65504, 65504, 65504, -65504, 65504, -65504, 0}));
  const std::vector<float> bf16 = round_trip(values, DType::kBF16);
  EXPECT_EQ(bf16[5], 0x1.fep127f);
  EXPECT_EQ(bf16[6], -0x1.fep127f);
}

TEST(FindNonFinite, NamesTheFirst) {
  std::vector<float> values(100, FLT_MAX);
  EXPECT_EQ(find_non_finite(values.data(), values.size()), std::nullopt);
  EXPECT_EQ(find_non_finite(values.data(), 0), std::nullopt);
  values[70] = -INFINITY;
  EXPECT_EQ(find_non_finite(values.data(), values.size()), 70u);
  values[69] = NAN;
  EXPECT_EQ(find_non_finite(values.data(), values.size()), 69u);
}

TEST(EncodeBlocks, RefusesWhatItCannotHold) {
  std::vector<float> values(kSuperBlock, 1.0f);
  std::byte blocks[4 * kSuperBlock];
  EXPECT_DEATH(encode_blocks(blocks, values.data(), DType::kQ4_K, 128), "128 elements of q4_k");
  EXPECT_DEATH(encode_blocks(blocks, values.data(), DType::kF8E4M3, 128), "f8_e4m3 is not a type");
  values[9] = NAN;
  EXPECT_DEATH(encode_blocks(blocks, values.data(), DType::kQ4_K, kSuperBlock), "value 9 is nan");
}

}  // namespace
}  // namespace qnext
