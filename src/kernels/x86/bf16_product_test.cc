// Products in bf16 against plain C++, over sizes around every edge of a tile and both layouts of both factors.
#include "kernels/x86/bf16_product.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

namespace qnext {
namespace {

struct Sizes {
  std::size_t rows, depth, columns;
};

std::vector<float> random_values(std::size_t count, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> out(count);
  for (float& value : out) value = normal(random);
  return out;
}

ProductFactor factor(const std::vector<float>& values, std::size_t depth, std::size_t side, bool depth_is_inner) {
  return {values.data(), depth, side, depth_is_inner ? 1 : side, depth_is_inner ? depth : 1};
}

class Bf16ProductTest : public ::testing::TestWithParam<Sizes> {
 protected:
  void SetUp() override {
    if (fast_bf16_products() == nullptr) GTEST_SKIP() << "this CPU has no AVX512_BF16";
  }
};

TEST_P(Bf16ProductTest, PacksAndMultipliesAsThePlainOne) {
  const auto [rows, depth, columns] = GetParam();
  const std::vector<float> a_values = random_values(rows * depth, 1), b_values = random_values(depth * columns, 2);
  const std::size_t num_panels = (columns + kBf16Columns - 1) / kBf16Columns, stride = columns + 3;
  for (int layout = 0; layout < 4; ++layout) {
    const ProductFactor a = factor(a_values, depth, rows, layout % 2 == 0),
                        b = factor(b_values, depth, columns, layout < 2);
    std::vector<std::uint16_t> expected_packed(bf16_packed_size(depth, columns), 7), packed(expected_packed);
    plain_bf16_products().pack(expected_packed.data(), b, 0, num_panels);
    fast_bf16_products()->pack(packed.data(), b, num_panels / 2, num_panels);
    fast_bf16_products()->pack(packed.data(), b, 0, num_panels / 2);
    ASSERT_EQ(packed, expected_packed) << "layout " << layout;
    for (bool add : {false, true}) {
      std::vector<float> expected = random_values(rows * stride, 3), found = expected;
      plain_bf16_products().multiply(expected.data(), stride, a, packed.data(), columns, 0.5f, add);
      fast_bf16_products()->multiply(found.data(), stride, a, packed.data(), columns, 0.5f, add);
      const float bound = 4e-6f * std::sqrt(static_cast<float>(depth) + 1) * 2;
      for (std::size_t i = 0; i < found.size(); ++i) {
        const float allowed = i % stride < columns ? bound : 0;  // nothing beyond the row
        ASSERT_NEAR(found[i], expected[i], allowed) << "layout " << layout << " add " << add << " at " << i;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, Bf16ProductTest,
                         ::testing::Values(Sizes{1, 1, 1}, Sizes{12, 2, 32}, Sizes{13, 3, 33}, Sizes{11, 31, 31},
                                           Sizes{96, 32, 64}, Sizes{97, 33, 65}, Sizes{5, 511, 17}, Sizes{25, 512, 40},
                                           Sizes{30, 513, 100}, Sizes{110, 1500, 15}, Sizes{0, 8, 8}, Sizes{5, 0, 7}));

TEST(Bf16ProductPlain, IsTheProductOfRoundedFactors) {
  const std::vector<float> a = {1.00390625f, 2}, b = {3, 4};  // 1 + 2^-8: a tie, which goes to the even 1
  std::vector<std::uint16_t> packed(bf16_packed_size(2, 1));
  const ProductFactor right{b.data(), 2, 1, 1, 2}, left{a.data(), 2, 1, 1, 2};
  plain_bf16_products().pack(packed.data(), right, 0, 1);
  float out = 10;
  plain_bf16_products().multiply(&out, 1, left, packed.data(), 1, 1.0f, true);
  EXPECT_EQ(out, 10 + 3 + 8);
}

}  // namespace
}  // namespace qnext
