#include "eval/compare_logits.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace qnext {
namespace {

LogitDifference compare(std::vector<float> reference, std::vector<float> actual, std::size_t V) {
  LogitComparison comparison;
  const std::size_t T = reference.size() / V;
  comparison.add({reference.data(), {T, V}}, {actual.data(), {T, V}});
  return comparison.finish();
}

TEST(CompareLogits, EqualLogitsDoNotDiffer) {
  const LogitDifference out = compare({1, 2, 3, -4, 5, 6}, {1, 2, 3, -4, 5, 6}, 3);
  EXPECT_EQ(out.mean_kl, 0);
  EXPECT_EQ(out.max_kl, 0);
  EXPECT_EQ(out.top1_agreement, 1);
  EXPECT_EQ(out.max_logit_difference_over_std, 0);
}

TEST(CompareLogits, KlIsTheReferencesExpectationOfTheLogRatio) {
  // p = (1/4, 3/4), q = (1/2, 1/2).
  const LogitDifference out = compare({0, std::log(3.0f)}, {7, 7}, 2);
  const double expected = 0.25 * std::log(0.5) + 0.75 * std::log(1.5);
  EXPECT_NEAR(out.mean_kl, expected, 1e-7);  // log(3) is rounded to f32: 2^-25 relative
}

TEST(CompareLogits, AShiftOfAllLogitsChangesNoProbabilityButTheDifference) {
  const LogitDifference out = compare({1, 2, 3}, {101, 102, 103}, 3);
  EXPECT_NEAR(out.max_kl, 0, 1e-14);
  EXPECT_EQ(out.max_logit_difference, 100);
  EXPECT_NEAR(out.reference_std, std::sqrt(2.0 / 3.0), 1e-15);
  EXPECT_NEAR(out.max_logit_difference_over_std, 100 / std::sqrt(2.0 / 3.0), 1e-12);
}

TEST(CompareLogits, MeansAndMaximaAreOverPositions) {
  const LogitDifference out = compare({0, 0, 0, 4}, {0, 0, 4, 0}, 2);
  ASSERT_EQ(out.positions.size(), 2u);
  EXPECT_EQ(out.positions[0].kl, 0);
  EXPECT_GT(out.positions[1].kl, 1);
  EXPECT_EQ(out.mean_kl, out.positions[1].kl / 2);
  EXPECT_EQ(out.max_kl, out.positions[1].kl);
  EXPECT_EQ(out.top1_agreement, 0.5);
  EXPECT_EQ(out.positions[1].reference_top1, 1);
  EXPECT_EQ(out.positions[1].actual_top1, 0);
}

TEST(CompareLogits, TiesGoToTheLowerId) {
  const LogitDifference out = compare({1, 5, 5}, {1, 5, 5}, 3);
  EXPECT_EQ(out.positions[0].reference_top1, 1);
}

TEST(CompareLogits, NonFiniteLogitsAreInfinitelyFar) {
  for (float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                    -std::numeric_limits<float>::infinity()}) {
    EXPECT_TRUE(std::isinf(compare({1, 2}, {1, bad}, 2).max_kl));
    EXPECT_TRUE(std::isinf(compare({1, bad}, {1, 2}, 2).max_logit_difference));
  }
}

TEST(CompareLogits, HugeLogitsDoNotOverflow) {
  const LogitDifference out = compare({3e38f, -3e38f}, {3e38f, -3e38f}, 2);
  EXPECT_EQ(out.mean_kl, 0);
}

TEST(CompareLogits, AddingInPiecesIsAddingAtOnce) {
  const std::vector<float> a = {1, 2, 0, 5, 4, 3};
  const std::vector<float> b = {1, 2, 1, 5, 4, 1};
  LogitComparison pieces;
  for (std::size_t t = 0; t < 3; ++t) pieces.add({a.data() + 2 * t, {1, 2}}, {b.data() + 2 * t, {1, 2}});
  const LogitDifference one = compare(a, b, 2);
  EXPECT_EQ(pieces.finish().mean_kl, one.mean_kl);
  EXPECT_EQ(pieces.finish().reference_std, one.reference_std);
}

TEST(HiddenDifference, IsRelativeToTheReferencesNorm) {
  HiddenDifference out;
  const std::vector<float> reference = {3, 4};
  const std::vector<float> actual = {3, 5};
  out.add(reference, actual);
  EXPECT_DOUBLE_EQ(out.relative(), 1.0 / 5.0);
  EXPECT_EQ(out.max_difference, 1);
  EXPECT_FALSE(out.empty);
  const std::vector<float> nan = {std::numeric_limits<float>::quiet_NaN(), 4};
  out.add(reference, nan);
  EXPECT_TRUE(std::isinf(out.max_difference));
}

TEST(RoutingDifference, ComparesSetsAndWeightsOfEqualChoices) {
  const std::vector<float> expected = {1, 2, 3, 4, 5, 6};
  const std::vector<float> found = {1, 2, 4, 3, 5, 7};  // the same, another order, another expert
  const std::vector<float> weights = {0.5f, 0.5f, 0.5f, 0.5f, 0.5f, 0.5f};
  const std::vector<float> other = {0.75f, 0.25f, 0, 0, 0, 0};
  RoutingDifference out;
  out.add({.experts = expected, .weights = weights}, {.experts = found, .weights = other}, 2);
  EXPECT_DOUBLE_EQ(out.agreement(), 2.0 / 3.0);
  EXPECT_EQ(out.max_weight_difference, 0.25);
  EXPECT_EQ(RoutingDifference{}.agreement(), 1);
}

}  // namespace
}  // namespace qnext
