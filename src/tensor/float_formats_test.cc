#include "tensor/float_formats.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace qnext {
namespace {

// value(exponent field, mantissa) of a small float by its definition, in f64.
double by_definition(unsigned exponent, unsigned mantissa, int bias, int mantissa_bits) {
  const double fraction = std::ldexp(mantissa, -mantissa_bits);
  return exponent == 0 ? std::ldexp(fraction, 1 - bias) : std::ldexp(1 + fraction, static_cast<int>(exponent) - bias);
}

std::uint32_t bits_of(float value) {
  return std::bit_cast<std::uint32_t>(value);
}

TEST(F16, EveryPatternDecodesAndReturns) {
  for (unsigned pattern = 0; pattern < 0x10000; ++pattern) {
    const auto half = static_cast<std::uint16_t>(pattern);
    const float value = f16_to_f32(half);
    const unsigned exponent = pattern >> 10 & 0x1f;
    const unsigned mantissa = pattern & 0x3ff;
    EXPECT_EQ(std::signbit(value), pattern >= 0x8000) << pattern;
    if (exponent == 0x1f && mantissa != 0) {
      EXPECT_TRUE(std::isnan(value)) << pattern;
      EXPECT_EQ(f32_to_f16(value), pattern | 0x200) << pattern;
      continue;
    }
    const double expected = exponent == 0x1f ? HUGE_VAL : by_definition(exponent, mantissa, 15, 10);
    EXPECT_EQ(std::fabs(static_cast<double>(value)), expected) << pattern;
    EXPECT_EQ(f32_to_f16(value), pattern);
  }
}

// Between two neighbouring f16 values: below the middle goes down, above it up, the middle to the even one.
TEST(F16, RoundsToNearestEven) {
  for (unsigned pattern = 0; pattern < 0x7bff; ++pattern) {
    const float low = f16_to_f32(static_cast<std::uint16_t>(pattern));
    const float high = f16_to_f32(static_cast<std::uint16_t>(pattern + 1));
    const float middle = low + (high - low) / 2;  // exact: f32 has 13 more bits
    const unsigned even = pattern % 2 == 0 ? pattern : pattern + 1;
    EXPECT_EQ(f32_to_f16(std::nextafterf(middle, low)), pattern);
    EXPECT_EQ(f32_to_f16(middle), even);
    EXPECT_EQ(f32_to_f16(std::nextafterf(middle, high)), pattern + 1);
    EXPECT_EQ(f32_to_f16(-middle), even | 0x8000);
  }
}

TEST(F16, BeyondItsRange) {
  EXPECT_EQ(f32_to_f16(65519.996f), 0x7bff);
  EXPECT_EQ(f32_to_f16(65520.0f), 0x7c00);
  EXPECT_EQ(f32_to_f16(-3e38f), 0xfc00);
  EXPECT_EQ(f32_to_f16(-INFINITY), 0xfc00);
  EXPECT_EQ(f32_to_f16(1e-30f), 0);
  EXPECT_EQ(f32_to_f16(-1e-42f), 0x8000);
  EXPECT_EQ(f32_to_f16(std::bit_cast<float>(0x7f800001u)), 0x7e00);  // stays a NaN though its top bits are zero
}

TEST(BF16, EveryPatternReturns) {
  for (unsigned pattern = 0; pattern < 0x10000; ++pattern) {
    const float value = bf16_to_f32(static_cast<std::uint16_t>(pattern));
    EXPECT_EQ(bits_of(value), pattern << 16);
    EXPECT_EQ(f32_to_bf16(value), std::isnan(value) ? pattern | 0x40 : pattern);
  }
}

TEST(BF16, RoundsToNearestEvenAsF64Does) {
  std::mt19937 random(1);
  for (int i = 0; i < 200000; ++i) {
    const std::uint32_t pattern = random() & 0x7f7fffffu;  // finite, positive
    const double value = std::bit_cast<float>(pattern);
    const std::uint32_t below = pattern & 0xffff0000u;
    const double low = std::bit_cast<float>(below);
    const double high = below == 0x7f7f0000u ? 0x1p128 : static_cast<double>(std::bit_cast<float>(below + 0x10000u));
    const bool up = value - low > high - value || (value - low == high - value && (below >> 16) % 2 == 1);
    EXPECT_EQ(f32_to_bf16(static_cast<float>(value)), (below >> 16) + (up ? 1 : 0)) << pattern;
  }
  EXPECT_EQ(f32_to_bf16(std::bit_cast<float>(0x3f808000u)), 0x3f80);  // middle, even below
  EXPECT_EQ(f32_to_bf16(std::bit_cast<float>(0x3f818000u)), 0x3f82);  // middle, even above
  EXPECT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(std::bit_cast<float>(0x7f800001u)))));
}

TEST(E4M3, EveryPattern) {
  for (unsigned pattern = 0; pattern < 0x100; ++pattern) {
    const float value = e4m3_to_f32(static_cast<std::uint8_t>(pattern));
    EXPECT_EQ(std::signbit(value), pattern >= 0x80) << pattern;
    if ((pattern & 0x7f) == 0x7f) {
      EXPECT_TRUE(std::isnan(value)) << pattern;
    } else {
      EXPECT_EQ(std::fabs(static_cast<double>(value)), by_definition(pattern >> 3 & 0xf, pattern & 7, 7, 3)) << pattern;
    }
  }
  EXPECT_EQ(e4m3_to_f32(0x7e), 448.0f);  // the specification's largest
  EXPECT_EQ(e4m3_to_f32(0x01), 0x1p-9f);
}

TEST(E8M0, EveryPattern) {
  for (int pattern = 0; pattern < 0xff; ++pattern) {
    EXPECT_EQ(static_cast<double>(e8m0_to_f32(static_cast<std::uint8_t>(pattern))), std::ldexp(1.0, pattern - 127));
  }
  EXPECT_TRUE(std::isnan(e8m0_to_f32(0xff)));
}

}  // namespace
}  // namespace qnext
