#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "kernels/compare.h"
#include "kernels/dispatch.h"
#include "kernels/random_weight.h"

namespace qnext {
namespace {

// ---- Decoding ----

std::vector<float> decode_all_rows(const KernelTable& table, const Weight& w) {
  std::vector<TokenId> row_ids(w.rows);
  std::iota(row_ids.begin(), row_ids.end(), 0);
  std::vector<float> out(w.rows * w.cols);
  table.decode_rows(View<float>(out.data(), {w.rows, w.cols}), row_ids, w);
  return out;
}

class OfEveryType : public testing::TestWithParam<DType> {};

INSTANTIATE_TEST_SUITE_P(Matmul, OfEveryType, testing::ValuesIn(kWeightTypes),
                         [](const auto& info) { return std::string(dtype_info(info.param).name); });

TEST_P(OfEveryType, DecodesAsTheSpecificationToTheBit) {
  const std::size_t block = dtype_info(GetParam()).block_elements;
  for (const std::size_t cols : {1 * block, 3 * block, 11 * block, 37 * block}) {
    const RandomWeight random(GetParam(), 5, cols, 1);
    std::vector<float> expected(5 * cols);
    for (std::size_t r = 0; r < 5; ++r) decode_row(expected.data() + r * cols, random.weight, r);
    for (const KernelTable& table : available_tables()) {
      SCOPED_TRACE(testing::Message() << table.name << " cols " << cols);
      expect_same_bits(decode_all_rows(table, random.weight), expected);
    }
  }
}

// Whatever a file may hold: every value of the narrow types, and random bytes for blocks, scales included.
TEST_P(OfEveryType, DecodesAnyBytesAsTheSpecification) {
  const DTypeInfo& info = dtype_info(GetParam());
  const std::size_t cols = 256 * info.block_elements;
  std::vector<std::byte> bytes(256 * cols / info.block_elements * info.block_bytes);
  std::mt19937 random(2);
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = static_cast<std::byte>(info.block_bytes > 2 ? random() : i % 2 == 0 ? i / info.block_bytes : i / 512);
  }
  const Weight w = make_weight(GetParam(), 256, cols, bytes.data());
  std::vector<float> expected(256 * cols);
  for (std::size_t r = 0; r < 256; ++r) decode_row(expected.data() + r * cols, w, r);
  for (const KernelTable& table : available_tables()) {
    SCOPED_TRACE(table.name);
    const std::vector<float> actual = decode_all_rows(table, w);
    std::size_t num_different = 0;  // NaNs may differ in sign and payload
    for (std::size_t i = 0; i < actual.size(); ++i) {
      if (!same_bits({&actual[i], 1}, {&expected[i], 1}) && !(std::isnan(actual[i]) && std::isnan(expected[i]))) {
        if (num_different++ == 0) ADD_FAILURE() << "index " << i << ": " << actual[i] << ", expected " << expected[i];
      }
    }
    EXPECT_EQ(num_different, 0u);
  }
}

TEST(Matmul, DecodesTheRowsAskedFor) {
  const RandomWeight random(DType::kQ4_K, 4, 512, 3);
  const std::vector<TokenId> row_ids = {3, 0, 3};
  for (const KernelTable& table : available_tables()) {
    SCOPED_TRACE(table.name);
    std::vector<float> out(3 * 512);
    table.decode_rows(View<float>(out.data(), {3, 512}), row_ids, random.weight);
    for (std::size_t i = 0; i < 3; ++i) {
      std::vector<float> expected(512);
      decode_row(expected.data(), random.weight, static_cast<std::size_t>(row_ids[i]));
      expect_same_bits(std::span(out).subspan(i * 512, 512), expected);
    }
  }
}

// ---- Products ----

struct Case {
  std::size_t num_tokens, rows, cols;
};

// What the contract allows: K * 2^-24 * sum |x_k w_k|, and one more rounding for the sum that is stored or added.
std::vector<double> tolerances(const std::vector<float>& x, const Weight& w, std::size_t num_tokens) {
  std::vector<double> out(num_tokens * w.rows);
  std::vector<float> row(w.cols);
  for (std::size_t o = 0; o < w.rows; ++o) {
    decode_row(row.data(), w, o);
    for (std::size_t t = 0; t < num_tokens; ++t) {
      double norm = 0;
      for (std::size_t k = 0; k < w.cols; ++k) norm += std::abs(static_cast<double>(x[t * w.cols + k]) * row[k]);
      out[t * w.rows + o] = static_cast<double>(w.cols + 2) * 0x1p-24 * (norm + 1);
    }
  }
  return out;
}

void expect_close_each(const std::vector<float>& actual, const std::vector<float>& expected,
                       const std::vector<double>& tolerance) {
  std::size_t num_wrong = 0;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    const auto result = is_close({&actual[i], 1}, {&expected[i], 1}, tolerance[i]);
    if (!result && num_wrong++ == 0) ADD_FAILURE() << "index " << i << ": " << result.message();
  }
  EXPECT_EQ(num_wrong, 0u) << "of " << actual.size();
}

std::vector<float> run_matmul(const KernelTable& table, const std::vector<float>& x, const Weight& w,
                              std::size_t num_tokens) {
  std::vector<float> out(num_tokens * w.rows, NAN);
  table.matmul(View<float>(out.data(), {num_tokens, w.rows}), View<const float>(x.data(), {num_tokens, w.cols}), w,
               {0, w.rows}, Write::kStore);
  return out;
}

void compare_with_ref(DType type, const Case& c) {
  const RandomWeight random(type, c.rows, c.cols, 4);
  const std::vector<float> x = random_floats(c.num_tokens * c.cols, 5);
  const std::vector<double> tolerance = tolerances(x, random.weight, c.num_tokens);
  const auto tables = available_tables();
  const std::vector<float> expected = run_matmul(tables[0], x, random.weight, c.num_tokens);
  for (const KernelTable& table : tables.subspan(1)) {
    SCOPED_TRACE(testing::Message() << table.name << " T " << c.num_tokens << " N " << c.rows << " K " << c.cols);
    expect_close_each(run_matmul(table, x, random.weight, c.num_tokens), expected, tolerance);
  }
}

TEST_P(OfEveryType, AgreesWithRef) {
  const std::size_t block = dtype_info(GetParam()).block_elements;
  const std::size_t odd = block == 1 ? 333 : 5 * block;
  for (const Case& c : {Case{1, 37, odd}, Case{2, 9, odd}, Case{7, 8, block}, Case{63, 13, odd}, Case{64, 3, odd},
                        Case{65, 1, odd}, Case{5, 4, 2048 + 9 * block}, Case{1, 6, 4096}}) {
    compare_with_ref(GetParam(), c);
  }
}

TEST(Matmul, AgreesWithRefAtOddSizesOfPlainTypes) {
  for (const DType type : {DType::kF32, DType::kF16, DType::kBF16, DType::kF8E4M3}) {
    for (const std::size_t cols : {1, 2, 3, 15, 17, 63, 65, 127, 129, 2047, 2049}) {
      compare_with_ref(type, {1, 5, cols});
      compare_with_ref(type, {4, 5, cols});
    }
  }
}

TEST(Matmul, AgreesWithRefAtTheModelsSizes) {
  compare_with_ref(DType::kQ4_K, {1, 1024, 2048});
  compare_with_ref(DType::kBF16, {65, 512, 2048});
  compare_with_ref(DType::kQ6_K, {3, 2048, 512});
  compare_with_ref(DType::kF32, {1000, 64, 2048});
  compare_with_ref(DType::kQ8_0, {64, 128, 4096});
}

// ---- Order ----

TEST_P(OfEveryType, OneTokenAloneHasTheBitsThatItHasInABatch) {
  const std::size_t block = dtype_info(GetParam()).block_elements;
  const std::size_t cols = block == 1 ? 2048 + 300 + 7 : 2048 + 5 * 256;
  constexpr std::size_t kNumTokens = 200, kRows = 13;
  const RandomWeight random(GetParam(), kRows, cols, 6);
  const std::vector<float> x = random_floats(kNumTokens * cols, 7);
  for (const KernelTable& table : available_tables()) {
    SCOPED_TRACE(table.name);
    const std::vector<float> all = run_matmul(table, x, random.weight, kNumTokens);
    for (const std::size_t batch : {1, 2, 3, 5, 8, 65}) {
      SCOPED_TRACE(testing::Message() << "batches of " << batch);
      std::vector<float> in_parts;
      for (std::size_t t = 0; t < kNumTokens; t += batch) {
        const std::size_t end = std::min(t + batch, kNumTokens);
        const std::vector<float> part_x(x.begin() + static_cast<std::ptrdiff_t>(t * cols),
                                        x.begin() + static_cast<std::ptrdiff_t>(end * cols));
        const std::vector<float> part = run_matmul(table, part_x, random.weight, end - t);
        in_parts.insert(in_parts.end(), part.begin(), part.end());
      }
      expect_same_bits(in_parts, all);
    }
  }
}

// Rows [1, 6) and [6, 12) of 13, into an output with a wider stride: nothing else is written, no bit differs.
TEST(Matmul, WritesItsRangeAndNothingElse) {
  constexpr std::size_t kRows = 13, kCols = 512, kStride = 20;
  const RandomWeight random(DType::kQ6_K, kRows, kCols, 8);
  for (const std::size_t num_tokens : {1, 6, 75}) {
    const std::vector<float> x = random_floats(num_tokens * kCols, 9);
    for (const KernelTable& table : available_tables()) {
      SCOPED_TRACE(testing::Message() << table.name << " T " << num_tokens);
      const std::vector<float> whole = run_matmul(table, x, random.weight, num_tokens);
      std::vector<float> out(num_tokens * kStride, -7.0f);
      const View<float> wide(out.data(), {num_tokens, kStride});
      const View<const float> x_view(x.data(), {num_tokens, kCols});
      table.matmul(wide.slice(1, 0, kRows), x_view, random.weight, {1, 6}, Write::kStore);
      table.matmul(wide.slice(1, 0, kRows), x_view, random.weight, {6, 12}, Write::kStore);
      for (std::size_t t = 0; t < num_tokens; ++t) {
        for (std::size_t o = 0; o < kStride; ++o) {
          ASSERT_EQ(wide(t, o), o >= 1 && o < 12 ? whole[t * kRows + o] : -7.0f) << t << ", " << o;
        }
      }
    }
  }
}

TEST(Matmul, AddsOnceToWhatIsThere) {
  const RandomWeight random(DType::kQ8_0, 7, 4096, 10);
  const std::vector<float> x = random_floats(3 * 4096, 11);
  for (const KernelTable& table : available_tables().subspan(1)) {
    SCOPED_TRACE(table.name);
    const std::vector<float> product = run_matmul(table, x, random.weight, 3);
    const std::vector<float> before = random_floats(21, 12);
    std::vector<float> expected(21), out = before;
    for (std::size_t i = 0; i < 21; ++i) expected[i] = before[i] + product[i];
    table.matmul(View<float>(out.data(), {3, 7}), View<const float>(x.data(), {3, 4096}), random.weight, {0, 7},
                 Write::kAdd);
    expect_same_bits(out, expected);
  }
}

TEST(Matmul, ReadsRowsWithGapsBetweenThem) {
  constexpr std::size_t kCols = 256, kStride = 300;
  const RandomWeight random(DType::kF32, 4, kStride, 13);
  Weight narrow = random.weight;
  narrow.cols = kCols;
  const std::vector<float> wide_x = random_floats(5 * kStride, 14);
  std::vector<float> x;
  std::vector<std::byte> dense;
  for (std::size_t t = 0; t < 5; ++t)
    x.insert(x.end(), wide_x.begin() + t * kStride, wide_x.begin() + t * kStride + kCols);
  for (std::size_t r = 0; r < 4; ++r) dense.insert(dense.end(), narrow.row(r), narrow.row(r) + kCols * sizeof(float));
  const Weight w = make_weight(DType::kF32, 4, kCols, dense.data());
  for (const KernelTable& table : available_tables()) {
    SCOPED_TRACE(table.name);
    std::vector<float> out(20);
    table.matmul(View<float>(out.data(), {5, 4}), View<const float>(wide_x.data(), {5, kStride}).slice(1, 0, kCols),
                 narrow, {0, 4}, Write::kStore);
    expect_same_bits(out, run_matmul(table, x, w, 5));
  }
}

TEST(Matmul, NaNsAndInfinitiesReachTheirOutputsOnly) {
  std::vector<float> weights = random_floats(9 * 100, 15);
  weights[3 * 100 + 99] = INFINITY;
  weights[8 * 100 + 5] = NAN;
  const Weight w = make_weight(DType::kF32, 9, 100, reinterpret_cast<const std::byte*>(weights.data()));
  const std::vector<float> x(8 * 100, 1.0f);
  for (const KernelTable& table : available_tables()) {
    for (const std::size_t num_tokens : {1, 8}) {
      SCOPED_TRACE(testing::Message() << table.name << " T " << num_tokens);
      const std::vector<float> out = run_matmul(table, x, w, num_tokens);
      for (std::size_t i = 0; i < out.size(); ++i) {
        EXPECT_EQ(std::isnan(out[i]), i % 9 == 8) << i;
        EXPECT_EQ(std::isinf(out[i]), i % 9 == 3) << i;
      }
    }
  }
}

}  // namespace
}  // namespace qnext
