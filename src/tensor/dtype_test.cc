#include "tensor/dtype.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

#include "tensor/weight.h"

namespace qnext {
namespace {

TEST(DType, NamesAreDistinctAndReadBackInAnyCase) {
  std::set<std::string_view> names;
  for (std::size_t i = 0; i < kNumDTypes; ++i) {
    const auto type = static_cast<DType>(i);
    const std::string_view name = dtype_info(type).name;
    EXPECT_TRUE(names.insert(name).second) << name;
    EXPECT_EQ(dtype_from_name(name), type) << name;
  }
  EXPECT_EQ(dtype_from_name("Q4_K"), DType::kQ4_K);
  EXPECT_EQ(dtype_from_name("iQ4_nL"), DType::kIQ4_NL);
}

TEST(DType, UnknownNamesAreNone) {
  for (const char* name : {"", "q4", "q4_k ", "q4_k_m", "q4-k", "\xd1q4_k"}) {
    EXPECT_EQ(dtype_from_name(name), std::nullopt) << name;
  }
  EXPECT_EQ(dtype_from_safetensors(""), std::nullopt);  // what block formats have for a name
  EXPECT_EQ(dtype_from_safetensors("bf16"), std::nullopt);
  EXPECT_EQ(dtype_from_safetensors("F64"), std::nullopt);
  EXPECT_EQ(dtype_from_safetensors("I16"), std::nullopt);
}

TEST(DType, GgmlNumbersFollowTheFileFormat) {
  const std::pair<std::uint32_t, DType> numbers[] = {
      {0, DType::kF32},   {1, DType::kF16},   {2, DType::kQ4_0},    {3, DType::kQ4_1},    {6, DType::kQ5_0},
      {7, DType::kQ5_1},  {8, DType::kQ8_0},  {10, DType::kQ2_K},   {11, DType::kQ3_K},   {12, DType::kQ4_K},
      {13, DType::kQ5_K}, {14, DType::kQ6_K}, {20, DType::kIQ4_NL}, {23, DType::kIQ4_XS}, {26, DType::kI32},
      {27, DType::kI64},  {30, DType::kBF16}, {39, DType::kMXFP4}};
  std::set<std::uint32_t> known;
  for (const auto& [number, type] : numbers) {
    EXPECT_EQ(dtype_from_ggml(number), type) << number;
    known.insert(number);
  }
  for (std::uint32_t number = 0; number < 300; ++number) {
    if (!known.contains(number)) {
      EXPECT_EQ(dtype_from_ggml(number), std::nullopt) << number;
    }
  }
  EXPECT_EQ(dtype_from_ggml(0xffffffffu), std::nullopt);
}

TEST(DType, SafetensorsNames) {
  EXPECT_EQ(dtype_from_safetensors("F32"), DType::kF32);
  EXPECT_EQ(dtype_from_safetensors("F16"), DType::kF16);
  EXPECT_EQ(dtype_from_safetensors("BF16"), DType::kBF16);
  EXPECT_EQ(dtype_from_safetensors("F8_E4M3"), DType::kF8E4M3);
  EXPECT_EQ(dtype_from_safetensors("I32"), DType::kI32);
  EXPECT_EQ(dtype_from_safetensors("I64"), DType::kI64);
  EXPECT_EQ(dtype_from_safetensors("U8"), DType::kU8);
}

TEST(DType, BytesCountWholeBlocks) {
  EXPECT_EQ(dtype_bytes(DType::kBF16, 7), 14u);
  EXPECT_EQ(dtype_bytes(DType::kQ4_0, 64), 36u);
  EXPECT_EQ(dtype_bytes(DType::kQ6_K, 512), 420u);
  EXPECT_EQ(dtype_bytes(DType::kQ6_K, 0), 0u);
  EXPECT_DEATH(dtype_bytes(DType::kQ6_K, 128), "128 elements of q6_k");
  EXPECT_DEATH(dtype_info(static_cast<DType>(kNumDTypes)), "dtype 21");
}

TEST(Weight, RowsFollowEachOther) {
  std::byte data[3 * 36] = {};
  const Weight weight = make_weight(DType::kQ4_0, 3, 64, data);
  EXPECT_EQ(weight.row_bytes, 36u);
  EXPECT_EQ(weight.bytes(), sizeof(data));
  EXPECT_EQ(weight.row(2), data + 72);
  EXPECT_EQ(weight.slice_rows(1, 3).row(1), data + 72);
  EXPECT_DEATH(weight.slice_rows(2, 4), "of 3");
  EXPECT_DEATH(make_weight(DType::kQ4_0, 1, 63, data), "63 elements");
}

TEST(Weight, Fp8SlicesKeepTheirScales) {
  std::byte data[300] = {};
  const float scales[3] = {1, 2, 3};
  Weight weight = make_weight(DType::kF8E4M3, 300, 1, data);
  weight.block_scales = scales;
  weight.scales_per_row = 1;
  EXPECT_EQ(weight.slice_rows(256, 300).block_scales, scales + 2);
  EXPECT_DEATH(weight.slice_rows(100, 300), "row 100 is inside");
}

}  // namespace
}  // namespace qnext
