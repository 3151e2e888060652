#include "train_apps/rollouts.h"

#include <gtest/gtest.h>

namespace qnext {
namespace {

constexpr const char* kReference = "A: 20 x 40 = 800 hours.\nAnswer: (1) **800 hours**; (2) **1,850 hours**<|im_end|>";

TEST(AnswerReward, EveryNumberOfTheLastLineCounts) {
  const auto reward = [](std::string_view answer, bool ended = true) {
    return answer_reward(answer, ended, kReference, 0.1);
  };
  EXPECT_EQ(reward("Answer: (1) **800 hours**; (2) **1,850 hours**"), 1);
  EXPECT_EQ(reward("5 + 5 = 11.\nAnswer: (1) 800 and (2) 1850.\n"), 1);
  EXPECT_EQ(reward("Answer: (1) **800 hours**; (2) **1,851 hours**"), 0.1);
  EXPECT_EQ(reward("Answer: (1) **800 hours**"), 0.1);
  EXPECT_EQ(reward("Answer: (1) **800 hours**; (2) **1,850 hours**; (3) 7"), 0.1);
  EXPECT_EQ(reward("(1) **800 hours**; (2) **1,850 hours**"), 0) << "without the form";
  EXPECT_EQ(reward("Answer: (1) **800 hours**; (2) **1,850 hours**", false), 0) << "it did not end";
  EXPECT_EQ(reward(""), 0);
}

}  // namespace
}  // namespace qnext
