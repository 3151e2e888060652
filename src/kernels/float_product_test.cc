// Products of float32 on every instruction set against plain C++, over sizes around every edge of a tile, both layouts
// of both factors, packed and in place.
#include "kernels/float_product.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "kernels/product_test_support.h"
#include "kernels/random_weight.h"

namespace qnext {
namespace {

std::vector<float> packed(const FloatProducts& products, const ProductFactor& b) {
  std::vector<float> out(products.packed_size(b.depth, b.side), 7.0f);
  const std::size_t num_panels = products.num_panels(b.side);
  products.pack(out.data(), b, num_panels / 2, num_panels);
  products.pack(out.data(), b, 0, num_panels / 2);
  return out;
}

class FloatProductTest : public ::testing::TestWithParam<ProductSizes> {};

TEST_P(FloatProductTest, EqualsThePlainOne) {
  const auto [rows, depth, columns] = GetParam();
  const std::vector<float> a_values = random_floats(rows * depth, 1), b_values = random_floats(depth * columns, 2);
  const std::size_t stride = columns + 3;
  const FloatProducts& plain = plain_float_products();
  for (int layout = 0; layout < 4; ++layout) {
    const ProductFactor a = test_factor(a_values, depth, rows, layout % 2 == 0),
                        b = test_factor(b_values, depth, columns, layout < 2);
    const std::vector<float> plain_packed = packed(plain, b);
    for (const FloatProducts& products : available_float_products()) {
      const std::vector<float> b_packed = packed(products, b);
      for (bool add : {false, true}) {
        std::vector<float> expected = random_floats(rows * stride, 3), found = expected, in_place = expected;
        plain.multiply(expected.data(), stride, a, plain.packed_panels(plain_packed.data(), depth, columns), 0.5f, add);
        products.multiply(found.data(), stride, a, products.packed_panels(b_packed.data(), depth, columns), 0.5f, add);
        const float bound = 2e-6f * std::sqrt(static_cast<float>(depth) + 1);
        for (std::size_t i = 0; i < found.size(); ++i) {
          const float allowed = i % stride < columns ? bound : 0;  // nothing beyond the row
          ASSERT_NEAR(found[i], expected[i], allowed)
              << products.name << " layout " << layout << " add " << add << " at " << i;
        }
        if (!products.is_readable_in_place(b)) continue;
        products.multiply(in_place.data(), stride, a, products.panels_in_place(b), 0.5f, add);
        ASSERT_EQ(in_place, found) << products.name;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, FloatProductTest,
                         ::testing::Values(ProductSizes{1, 1, 1}, ProductSizes{8, 4, 32}, ProductSizes{6, 3, 16},
                                           ProductSizes{13, 5, 33}, ProductSizes{15, 31, 31}, ProductSizes{64, 32, 64},
                                           ProductSizes{97, 33, 65}, ProductSizes{5, 255, 17},
                                           ProductSizes{25, 256, 48}, ProductSizes{30, 257, 100},
                                           ProductSizes{11, 1000, 15}, ProductSizes{0, 8, 8}, ProductSizes{5, 0, 16},
                                           ProductSizes{3, 7, 0}));

// A row's bits are the same whatever rows and columns are computed with it.
TEST(FloatProduct, ARowDoesNotDependOnTheOthers) {
  constexpr std::size_t kRows = 29, kDepth = 300, kColumns = 70;
  const std::vector<float> a_values = random_floats(kRows * kDepth, 4), b_values = random_floats(kDepth * kColumns, 5);
  for (const FloatProducts& products : available_float_products()) {
    const ProductFactor a = test_factor(a_values, kDepth, kRows, true),
                        b = test_factor(b_values, kDepth, kColumns, false);
    const std::vector<float> b_packed = packed(products, b);
    const ProductPanels panels = products.packed_panels(b_packed.data(), kDepth, kColumns);
    std::vector<float> together(kRows * kColumns), alone(kColumns);
    products.multiply(together.data(), kColumns, a, panels, 1, false);
    for (std::size_t row = 0; row < kRows; ++row) {
      products.multiply(alone.data(), kColumns, {a_values.data() + row * kDepth, kDepth, 1, 1, kDepth}, panels, 1,
                        false);
      ASSERT_TRUE(
          std::equal(alone.begin(), alone.end(), together.begin() + static_cast<std::ptrdiff_t>(row * kColumns)))
          << products.name << " row " << row;
    }
  }
}

}  // namespace
}  // namespace qnext
