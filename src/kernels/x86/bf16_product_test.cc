// Products in bf16 against plain C++, over sizes around every edge of a tile and both layouts of both factors.
#include "kernels/x86/bf16_product.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "kernels/product_test_support.h"
#include "kernels/random_weight.h"

namespace qnext {
namespace {

class Bf16ProductTest : public ::testing::TestWithParam<ProductSizes> {
 protected:
  void SetUp() override {
    if (fast_bf16_products() == nullptr) GTEST_SKIP() << "this CPU has no AVX512_BF16";
  }
};

TEST_P(Bf16ProductTest, PacksAndMultipliesAsThePlainOne) {
  const auto [rows, depth, columns] = GetParam();
  const std::vector<float> a_values = random_floats(rows * depth, 1), b_values = random_floats(depth * columns, 2);
  const std::size_t num_panels = (columns + kBf16Columns - 1) / kBf16Columns, stride = columns + 3;
  for (int layout = 0; layout < 4; ++layout) {
    const ProductFactor a = test_factor(a_values, depth, rows, layout % 2 == 0),
                        b = test_factor(b_values, depth, columns, layout < 2);
    std::vector<std::uint16_t> expected_packed(bf16_packed_size(depth, columns), 7), packed(expected_packed);
    plain_bf16_products().pack(expected_packed.data(), b, 0, num_panels);
    fast_bf16_products()->pack(packed.data(), b, num_panels / 2, num_panels);
    fast_bf16_products()->pack(packed.data(), b, 0, num_panels / 2);
    ASSERT_EQ(packed, expected_packed) << "layout " << layout;
    for (bool add : {false, true}) {
      std::vector<float> expected = random_floats(rows * stride, 3), found = expected;
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
                         ::testing::Values(ProductSizes{1, 1, 1}, ProductSizes{12, 2, 32}, ProductSizes{13, 3, 33},
                                           ProductSizes{11, 31, 31}, ProductSizes{96, 32, 64}, ProductSizes{97, 33, 65},
                                           ProductSizes{5, 511, 17}, ProductSizes{25, 512, 40},
                                           ProductSizes{30, 513, 100}, ProductSizes{110, 1500, 15},
                                           ProductSizes{0, 8, 8}, ProductSizes{5, 0, 7}));

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
