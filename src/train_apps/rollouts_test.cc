#include "train_apps/rollouts.h"

#include <gtest/gtest.h>

namespace qnext {
namespace {

constexpr const char* kReference = "A: 20 x 40 = 800 hours.\nAnswer: (1) **800 hours**; (2) **1,850 hours**<|im_end|>";

TEST(AnswerReward, EveryNumberOfTheAnswersLinesCounts) {
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

TEST(AnswerReward, PartsAnswerOneByOneBehindTheThoughts) {
  const auto reward = [](std::string_view answer) {
    return answer_reward(
        answer, true, "<think>\nAnswer: **7**\n</think>\n\n(1) Hours:\nAnswer: **8**\n(2) Units:\nAnswer: **9**", 0.1);
  };
  EXPECT_EQ(reward("1. Hours:\nAnswer: **8 hours**\n2. Units:\nAnswer: **9**\n"), 1);
  EXPECT_EQ(reward("<think>\nAnswer: **1**\n</think>\n\nAnswer: **8**\nAnswer: **9**"), 1);
  EXPECT_EQ(reward("Answer: **8**\nAnswer: **7**"), 0.1);
  EXPECT_EQ(reward("Answer: **9**"), 0.1);
  EXPECT_EQ(reward("<think>\nAnswer: **8**\nAnswer: **9**\n</think>\n\n8 and 9"), 0);
}

TEST(AnswerReward, WithoutAColonTheLastLineCounts) {
  EXPECT_EQ(answer_reward("So:\n12", true, "It is\n12", 0.1), 1);
  EXPECT_EQ(answer_reward("12\n13", true, "It is\n12", 0.1), 0.1);
}

}  // namespace
}  // namespace qnext
