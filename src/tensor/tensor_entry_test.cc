#include "tensor/tensor_entry.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <limits>

#include "tensor/file_test_util.h"

namespace qnext {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(ShapeText, ListsTheAxes) {
  EXPECT_EQ(shape_text({}), "[]");
  EXPECT_EQ(shape_text(std::vector<std::size_t>{2048, 512}), "[2048, 512]");
  EXPECT_THAT(shape_text(std::vector<std::size_t>(1000, 1)), AllOf(HasSubstr("1, ...]")));
  EXPECT_LT(shape_text(std::vector<std::size_t>(1000, 1)).size(), 64U);
}

TEST(Printable, EscapesAndCuts) {
  EXPECT_EQ(printable("model.norm.weight"), "model.norm.weight");
  EXPECT_EQ(printable(std::string_view("a\n\x1b[31m\0'\\", 10)), "a\\x0a\\x1b[31m\\x00\\'\\\\");
  EXPECT_EQ(printable("größe"), "größe");
  EXPECT_THAT(printable(std::string(1'000'000, 'x')), HasSubstr("... (1000000 bytes)"));
  EXPECT_LT(printable(std::string(1'000'000, '\n')).size(), 600U);
}

TEST(TryTensorBytes, CountsBlocks) {
  using Shape = std::vector<std::size_t>;
  EXPECT_EQ(try_tensor_bytes(DType::kF32, Shape{}), 4U);
  EXPECT_EQ(try_tensor_bytes(DType::kBF16, Shape{3, 5}), 30U);
  EXPECT_EQ(try_tensor_bytes(DType::kQ4_K, Shape{3, 512}), 3U * 2 * 144);
  EXPECT_EQ(try_tensor_bytes(DType::kQ4_K, Shape{512, 3}), std::nullopt);  // rows, not elements, are whole blocks
  EXPECT_EQ(try_tensor_bytes(DType::kF32, Shape{0, 7}), 0U);
}

TEST(TryTensorBytes, RefusesToWrap) {
  using Shape = std::vector<std::size_t>;
  constexpr std::size_t kHuge = std::numeric_limits<std::size_t>::max();
  EXPECT_EQ(try_tensor_bytes(DType::kU8, Shape{kHuge}), std::nullopt);
  EXPECT_EQ(try_tensor_bytes(DType::kU8, Shape{kHuge / 2}), kHuge / 2);
  EXPECT_EQ(try_tensor_bytes(DType::kF32, Shape{kHuge / 4}), std::nullopt);
  EXPECT_EQ(try_tensor_bytes(DType::kF32, Shape{std::size_t{1} << 32, std::size_t{1} << 32}), std::nullopt);
  EXPECT_EQ(try_tensor_bytes(DType::kQ8_0, Shape{std::size_t{1} << 59, 32}), std::nullopt);
}

TEST(TensorTable, FindsByNameAndKeepsTheOrder) {
  std::vector<TensorEntry> entries(3);
  entries[0].name = "b";
  entries[1].name = "c";
  entries[2].name = "a";
  const std::vector<std::string> files = {"f"};
  const auto table = TensorTable::make(entries, files);
  ASSERT_TRUE(table.ok());
  EXPECT_EQ(table->find("a"), &table->entries()[2]);
  EXPECT_EQ(table->find("b"), &table->entries()[0]);
  EXPECT_EQ(table->find("c"), &table->entries()[1]);
  EXPECT_EQ(table->find(""), nullptr);
  EXPECT_EQ(table->find("bb"), nullptr);
  EXPECT_EQ(table->find("d"), nullptr);
}

TEST(TensorTable, NamesBothFilesOfADuplicate) {
  std::vector<TensorEntry> entries(3);
  entries[0].name = "x";
  entries[1].name = "y";
  entries[2] = {.name = "x", .shape = {}, .file_idx = 1};
  const std::vector<std::string> files = {"first.gguf", "second.gguf"};
  EXPECT_THAT(TensorTable::make(entries, files).message(),
              AllOf(HasSubstr("'x'"), HasSubstr("first.gguf"), HasSubstr("second.gguf")));
}

// Where ggml's structs keep their scales, given here a second time, as (offset, bytes to put there, whether finite).
struct Scale {
  DType type;
  std::size_t offset;
  std::string bytes;
  bool finite;
};

std::vector<Scale> scales() {
  const std::string half_max = test::le<std::uint16_t>(0x7BFF);
  const std::string half_inf = test::le<std::uint16_t>(0x7C00);
  const std::string half_nan = test::le<std::uint16_t>(0xFE01);
  std::vector<Scale> out;
  const auto half = [&](DType type, std::size_t offset) {
    out.push_back({type, offset, half_max, true});
    out.push_back({type, offset, half_inf, false});
    out.push_back({type, offset, half_nan, false});
  };
  for (const DType type : {DType::kF16, DType::kQ4_0, DType::kQ4_1, DType::kQ5_0, DType::kQ5_1, DType::kQ8_0,
                           DType::kQ4_K, DType::kQ5_K, DType::kIQ4_NL, DType::kIQ4_XS}) {
    half(type, 0);
  }
  for (const DType type : {DType::kQ4_1, DType::kQ5_1, DType::kQ4_K, DType::kQ5_K}) half(type, 2);
  half(DType::kQ2_K, 80);
  half(DType::kQ2_K, 82);
  half(DType::kQ3_K, 108);
  half(DType::kQ6_K, 208);
  out.push_back({DType::kMXFP4, 0, "\xFE", true});
  out.push_back({DType::kMXFP4, 0, "\xFF", false});
  out.push_back({DType::kF8E4M3, 0, "\xFE", true});
  out.push_back({DType::kF8E4M3, 0, "\xFF", false});
  out.push_back({DType::kF8E4M3, 0, "\x7F", false});
  out.push_back({DType::kBF16, 0, test::le<std::uint16_t>(0x7F7F), true});
  out.push_back({DType::kBF16, 0, test::le<std::uint16_t>(0xFF80), false});
  out.push_back({DType::kF32, 0, test::le(std::numeric_limits<float>::max()), true});
  out.push_back({DType::kF32, 0, test::le(-std::numeric_limits<float>::infinity()), false});
  out.push_back({DType::kF32, 0, test::le(std::numeric_limits<float>::quiet_NaN()), false});
  out.push_back({DType::kI32, 0, "\xFF\xFF\xFF\xFF", true});
  out.push_back({DType::kU8, 0, "\xFF", true});
  return out;
}

TEST(ExpectFiniteScales, LooksAtEachScaleOfEachBlock) {
  constexpr std::size_t kNumBlocks = 5;
  for (const Scale& scale : scales()) {
    const DTypeInfo& info = dtype_info(scale.type);
    for (std::size_t block_idx = 0; block_idx < kNumBlocks; ++block_idx) {
      std::string bytes(kNumBlocks * info.block_bytes, '\0');
      bytes.replace(block_idx * info.block_bytes + scale.offset, scale.bytes.size(), scale.bytes);
      const TensorEntry entry{.name = "t",
                              .type = scale.type,
                              .shape = {kNumBlocks * info.block_elements},
                              .data = test::as_bytes(bytes).data(),
                              .bytes = bytes.size()};
      const Status status = expect_finite_scales(entry);
      ASSERT_EQ(status.ok(), scale.finite) << info.name << " at " << scale.offset << " of block " << block_idx;
      if (!scale.finite) {
        EXPECT_THAT(status.message(), AllOf(HasSubstr("'t'"), HasSubstr(fmt::format("block {} of 5", block_idx))));
      }
    }
  }
}

TEST(ExpectFiniteScales, FindsOneAmongMany) {
  constexpr std::size_t kNumElements = 5000;
  const TensorEntry entry{.name = "t", .type = DType::kBF16, .shape = {kNumElements}, .bytes = 2 * kNumElements};
  for (const std::size_t bad_idx : {0, 1023, 1024, 2047, 4095, 4096, 4999}) {
    std::string bytes(entry.bytes + 1, '\0');
    bytes.replace(1 + 2 * bad_idx, 2, test::le<std::uint16_t>(0x7FC0));
    TensorEntry unaligned = entry;
    unaligned.data = test::as_bytes(bytes).data() + 1;
    const Status status = expect_finite_scales(unaligned);
    ASSERT_FALSE(status.ok()) << bad_idx;
    EXPECT_THAT(status.message(),
                HasSubstr(fmt::format("block {} of 5000: expected a finite scale, found bits 0x7fc0", bad_idx)));
  }
}

TEST(ExpectFiniteScales, CodesMayBeAnything) {
  std::string bytes(2 * 144, '\xFF');  // Q4_K: all but d and dmin
  for (const std::size_t at : {0, 144}) bytes.replace(at, 4, 4, '\0');
  const TensorEntry entry{
      .name = "t", .type = DType::kQ4_K, .shape = {512}, .data = test::as_bytes(bytes).data(), .bytes = bytes.size()};
  EXPECT_TRUE(expect_finite_scales(entry).ok());
}

}  // namespace
}  // namespace qnext
