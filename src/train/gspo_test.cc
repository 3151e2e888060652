// GSPO's formulas against the paper's, by hand.
#include "train/gspo.h"

#include <gtest/gtest.h>

#include <cmath>

namespace qnext::train {
namespace {

TEST(Gspo, AdvantagesAreOfTheGroup) {
  const auto even = group_advantages(std::vector<double>{1, 1, 1});
  EXPECT_EQ(even, (std::vector<double>{0, 0, 0}));
  const auto some = group_advantages(std::vector<double>{1, 0, 0, 1});
  EXPECT_EQ(some, (std::vector<double>{1, -1, -1, 1}));
  const auto one = group_advantages(std::vector<double>{1, 0, 0, 0});
  EXPECT_NEAR(one[0], std::sqrt(3.0), 1e-12);
  EXPECT_NEAR(one[1], -1 / std::sqrt(3.0), 1e-12);
}

TEST(Gspo, TheSamePolicyHasRatioOneAndEveryTokenTheSameWeight) {
  const SequenceWeight weight = sequence_weight(-12.5, -12.5, 10, 2, {});
  EXPECT_EQ(weight.ratio, 1);
  EXPECT_EQ(weight.token_weight, 0.2);
  EXPECT_FALSE(weight.clipped);
}

TEST(Gspo, TheRatioIsOfTheWholeAnswerPerToken) {
  EXPECT_DOUBLE_EQ(sequence_weight(-10, -12, 4, 1, {.clip_high = 1}).ratio, std::exp(0.5));
  EXPECT_DOUBLE_EQ(sequence_weight(-10, -12, 4, 1, {.clip_high = 1}).token_weight, std::exp(0.5) / 4);
}

// min(s A, clip(s) A): what has become likelier enough is left alone, what has become unlikelier is not.
TEST(Gspo, ClipsOnTheAdvantagesSideOnly) {
  const GspoParams params{.clip_low = 0.1, .clip_high = 0.2};
  const auto clipped = [&](double ratio, double advantage) {
    return sequence_weight(std::log(ratio), 0, 1, advantage, params).clipped;
  };
  EXPECT_TRUE(clipped(1.21, 1));
  EXPECT_FALSE(clipped(1.19, 1));
  EXPECT_FALSE(clipped(0.5, 1));
  EXPECT_TRUE(clipped(0.89, -1));
  EXPECT_FALSE(clipped(0.91, -1));
  EXPECT_FALSE(clipped(1.5, -1));
  EXPECT_EQ(sequence_weight(std::log(1.21), 0, 1, 1, params).token_weight, 0);
}

}  // namespace
}  // namespace qnext::train
