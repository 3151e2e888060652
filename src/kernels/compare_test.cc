#include "kernels/compare.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace qnext {
namespace {

using Values = std::vector<float>;

TEST(Compare, AcceptsWhatIsWithinTheTolerance) {
  EXPECT_TRUE(is_close(Values{1.0f, -2.0f, 0.0f}, Values{1.25f, -2.25f, -0.25f}, 0.25));
  EXPECT_TRUE(is_close(Values{}, Values{}, 0.0));
  EXPECT_TRUE(is_close(Values{INFINITY, -INFINITY}, Values{INFINITY, -INFINITY}, 0.0));
}

TEST(Compare, FindsAPlantedError) {
  EXPECT_FALSE(is_close(Values{1.0f, 2.0f}, Values{1.0f, 2.5f}, 0.25)) << "too small";
  EXPECT_FALSE(is_close(Values{-1.0f, -9.0f}, Values{-1.0f, -2.0f}, 0.25)) << "both negative";
  EXPECT_FALSE(is_close(Values{-2.0f}, Values{2.0f}, 0.25)) << "sign";
  EXPECT_FALSE(is_close(Values{0.5f}, Values{0.0f}, 0.25)) << "zero expected";
  EXPECT_FALSE(is_close(Values{0.0f}, Values{0.5f}, 0.25)) << "zero found";
  EXPECT_FALSE(is_close(Values{1.0f}, Values{1.0f, 1.0f}, 0.25)) << "too few";
  EXPECT_FALSE(is_close(Values{}, Values{1.0f}, 0.25)) << "none";
}

TEST(Compare, FindsNonFiniteValuesOnEitherSide) {
  EXPECT_FALSE(is_close(Values{NAN}, Values{1.0f}, 0.25));
  EXPECT_FALSE(is_close(Values{1.0f}, Values{NAN}, 0.25));
  EXPECT_FALSE(is_close(Values{NAN}, Values{NAN}, 0.25));
  EXPECT_FALSE(is_close(Values{INFINITY}, Values{1.0f}, 0.25));
  EXPECT_FALSE(is_close(Values{1.0f}, Values{-INFINITY}, 0.25));
  EXPECT_FALSE(is_close(Values{INFINITY}, Values{-INFINITY}, 0.25));
  EXPECT_FALSE(is_close(Values{3e38f}, Values{-3e38f}, 1e38)) << "the difference overflows a float";
}

TEST(Compare, RefusesAToleranceThatHidesEverything) {
  EXPECT_FALSE(is_close(Values{1.0f}, Values{1.0f}, NAN));
  EXPECT_FALSE(is_close(Values{1.0f}, Values{1.0f}, INFINITY));
  EXPECT_FALSE(is_close(Values{1.0f}, Values{1.0f}, -1.0));
}

TEST(Compare, SaysWhereTheWorstIs) {
  const auto result = is_close(Values{1, 2, 3, 4}, Values{1, 3, 9, 4}, 0.5);
  EXPECT_STREQ(result.message(),
               "2 of 4 values differ by more than 0.5; worst at index 2: 3, expected 9 (difference 6)");
}

TEST(Compare, FindsATransposedMatrix) {
  const Values matrix = {1, 2, 3, 4, 5, 6};
  const Values transposed = {1, 4, 2, 5, 3, 6};
  EXPECT_TRUE(is_close(View<const float>(matrix.data(), {2, 3}), View<const float>(matrix.data(), {2, 3}), 0.0));
  EXPECT_FALSE(is_close(View<const float>(transposed.data(), {3, 2}), View<const float>(matrix.data(), {2, 3}), 0.25));
  EXPECT_FALSE(is_close(View<const float>(transposed.data(), {2, 3}), View<const float>(matrix.data(), {2, 3}), 0.25));
  EXPECT_FALSE(is_close(View<const float>(matrix.data(), {6}), View<const float>(matrix.data(), {2, 3}), 0.25));
}

TEST(Compare, BitsTellZerosApart) {
  EXPECT_TRUE(same_bits(Values{NAN, 0.0f}, Values{NAN, 0.0f}));
  EXPECT_FALSE(same_bits(Values{-0.0f}, Values{0.0f}));
  EXPECT_FALSE(same_bits(Values{1.0f}, Values{std::nextafter(1.0f, 2.0f)}));
  EXPECT_FALSE(same_bits(Values{1.0f}, Values{}));
}

}  // namespace
}  // namespace qnext
