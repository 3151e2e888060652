#include "tensor/block_formats.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "tensor/format_test_data.h"

namespace qnext {
namespace {

constexpr DType kWithGolden[] = {DType::kF16,  DType::kBF16, DType::kQ4_0,   DType::kQ4_1,   DType::kQ5_0,
                                 DType::kQ5_1, DType::kQ8_0, DType::kQ2_K,   DType::kQ3_K,   DType::kQ4_K,
                                 DType::kQ5_K, DType::kQ6_K, DType::kIQ4_NL, DType::kIQ4_XS, DType::kMXFP4};

class DecodeGolden : public testing::TestWithParam<DType> {};

TEST_P(DecodeGolden, EqualsGgmlToTheBitAtAnyAddress) {
  const std::string name(dtype_info(GetParam()).name);
  const auto blocks = load_format_data<std::byte>(name + ".blocks");
  const auto expected = load_format_data<float>(name + ".f32");
  ASSERT_EQ(blocks.size(), dtype_bytes(GetParam(), expected.size()));
  for (std::size_t shift = 0; shift < 4; ++shift) {
    std::vector<std::byte> moved(shift);
    moved.insert(moved.end(), blocks.begin(), blocks.end());
    std::vector<float> decoded(expected.size());
    decode_blocks(decoded.data(), moved.data() + shift, GetParam(), decoded.size());
    for (std::size_t i = 0; i < expected.size(); ++i) {
      ASSERT_EQ(std::bit_cast<std::uint32_t>(decoded[i]), std::bit_cast<std::uint32_t>(expected[i]))
          << "element " << i << ": " << decoded[i] << " for " << expected[i];
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, DecodeGolden, testing::ValuesIn(kWithGolden), dtype_test_name);

TEST(DecodeBlocks, F32IsACopyAndE4M3IsUnscaled) {
  const float values[3] = {1.5f, -0.0f, 1e-42f};
  float out[3];
  decode_blocks(out, reinterpret_cast<const std::byte*>(values), DType::kF32, 3);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(std::bit_cast<std::uint32_t>(out[i]), std::bit_cast<std::uint32_t>(values[i]));
  }
  const std::byte bytes[2] = {std::byte{0x7e}, std::byte{0x81}};
  decode_blocks(out, bytes, DType::kF8E4M3, 2);
  EXPECT_EQ(out[0], 448.0f);
  EXPECT_EQ(out[1], -0x1p-9f);
}

TEST(DecodeBlocks, RefusesPartsOfBlocksAndIntegers) {
  std::byte block[256] = {};
  float out[256];
  EXPECT_DEATH(decode_blocks(out, block, DType::kQ4_K, 32), "32 elements of q4_k");
  EXPECT_DEATH(decode_blocks(out, block, DType::kI32, 1), "i32 is not a type of weights");
}

TEST(DecodeRow, AppliesTheScalesOfItsBlocks) {
  constexpr std::size_t kRows = 130, kCols = 200;
  std::vector<std::byte> data(kRows * kCols, std::byte{0x38});  // 1.0
  const float scales[4] = {2, 3, 5, 7};
  Weight weight = make_weight(DType::kF8E4M3, kRows, kCols, data.data());
  weight.block_scales = scales;
  weight.scales_per_row = 2;
  std::vector<float> row(kCols);
  for (const std::size_t row_idx : {0, 127, 128, 129}) {
    decode_row(row.data(), weight, row_idx);
    for (std::size_t col = 0; col < kCols; ++col) {
      EXPECT_EQ(row[col], scales[row_idx / 128 * 2 + col / 128]) << row_idx << ", " << col;
    }
  }
  EXPECT_DEATH(decode_row(row.data(), weight, kRows), "row 130 of 130");
}

TEST(DecodeRow, HonoursTheDistanceBetweenRows) {
  const std::uint16_t data[6] = {0x3f80, 0x4000, 0, 0x4040, 0x4080, 0};  // 1 2 - 3 4 -
  Weight weight = make_weight(DType::kBF16, 2, 2, reinterpret_cast<const std::byte*>(data));
  weight.row_bytes = 6;
  float row[2];
  decode_row(row, weight, 1);
  EXPECT_EQ(row[0], 3.0f);
  EXPECT_EQ(row[1], 4.0f);
}

// The words of unpack_scales_mins against its comment, bit by bit.
TEST(UnpackScalesMins, FollowsItsDescription) {
  std::mt19937 random(2);
  for (int round = 0; round < 100; ++round) {
    std::uint8_t packed[kSubScaleBytes];
    for (auto& byte : packed) byte = static_cast<std::uint8_t>(random());
    const ScalesMins sub = unpack_scales_mins(packed);
    for (std::size_t j = 0; j < 4; ++j) {
      EXPECT_EQ(sub.scales[j], packed[j] % 64);
      EXPECT_EQ(sub.mins[j], packed[4 + j] % 64);
      EXPECT_EQ(sub.scales[4 + j], packed[8 + j] % 16 + packed[j] / 64 * 16);
      EXPECT_EQ(sub.mins[4 + j], packed[8 + j] / 16 + packed[4 + j] / 64 * 16);
    }
  }
}

TEST(Mxfp4, EveryExponent) {
  BlockMXFP4 block = {.exponent = 0, .codes = {0xf7}};  // first 6, seventeenth -6
  float out[kSmallBlock];
  for (int exponent = 0; exponent < 255; ++exponent) {
    block.exponent = static_cast<std::uint8_t>(exponent);
    decode_blocks(out, reinterpret_cast<const std::byte*>(&block), DType::kMXFP4, kSmallBlock);
    const auto expected = static_cast<float>(std::ldexp(6.0, exponent - 127));  // to infinity at the top
    EXPECT_EQ(out[0], expected);
    EXPECT_EQ(out[16], -expected);
    EXPECT_EQ(out[1], 0.0f);
  }
  block.exponent = 255;
  decode_blocks(out, reinterpret_cast<const std::byte*>(&block), DType::kMXFP4, kSmallBlock);
  for (const float value : out) EXPECT_TRUE(std::isnan(value));
}

}  // namespace
}  // namespace qnext
