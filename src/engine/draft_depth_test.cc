#include "engine/draft_depth.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace qnext::test {
namespace {

// Steps of one sequence: each guess is right with probability `acceptance`, as long as those before it were; a step
// with guesses costs 1 + depth * cost.
struct World {
  double acceptance = 0;
  double cost = 0;
  double noise = 0.1;
};

// Seconds for num_tokens, from this depth on; uses[depth] counts steps.
double run(DraftDepth& depth, const World& world, std::size_t num_tokens, std::vector<std::size_t>& uses,
           std::mt19937& random, std::size_t num_sequences = 1) {
  std::uniform_real_distribution<double> uniform(0, 1);
  double seconds = 0;
  for (std::size_t done = 0; done < num_tokens;) {
    const std::size_t chosen = depth.choose(num_sequences);
    std::size_t num_new = num_sequences;
    for (std::size_t i = 0; i < num_sequences; ++i) {
      std::size_t num_right = 0;
      while (num_right < chosen && uniform(random) < world.acceptance) ++num_right;
      depth.record_guesses(chosen, num_right);
      num_new += num_right;
    }
    const double step = (1 + static_cast<double>(chosen) * world.cost) * (1 + world.noise * (2 * uniform(random) - 1));
    depth.record_step(num_sequences, chosen, step);
    seconds += step;
    done += num_new;
    ++uses[chosen];
  }
  return seconds;
}

TEST(DraftDepth, IsNearlyAsFastAsTheBest) {
  std::mt19937 random(1);
  constexpr std::size_t kNumTokens = 20000;
  for (const World& world : {World{.acceptance = 0.95, .cost = 0.15},
                             {.acceptance = 0.7, .cost = 0.5},
                             {.acceptance = 0.5, .cost = 0.3},
                             {.acceptance = 0.3, .cost = 0.5},
                             {.acceptance = 0, .cost = 0.5}}) {
    SCOPED_TRACE(world.acceptance);
    double best = 0;  // tokens a second
    double num_new = 0;
    for (int i = 0; i <= 3; ++i) {
      num_new += std::pow(world.acceptance, i);
      best = std::max(best, num_new / (1 + i * world.cost));
    }
    DraftDepth depth(3);
    std::vector<std::size_t> uses(4);
    const double seconds = run(depth, world, kNumTokens, uses, random);
    EXPECT_GT(kNumTokens / seconds, 0.96 * best);
  }
}

TEST(DraftDepth, CostsNextToNothingWhereItBringsNothing) {
  std::mt19937 random(2);
  DraftDepth depth(2);
  std::vector<std::size_t> uses(3);
  const double seconds = run(depth, {.acceptance = 0, .cost = 0.6}, 20000, uses, random);
  EXPECT_LT(seconds, 1.004 * 20000);
}

// A few answers' time: a guess that is never right is tried, but not two or three at once.
TEST(DraftDepth, CostsLittleFromTheFirstAnswerOn) {
  std::mt19937 random(5);
  DraftDepth depth(3);
  std::vector<std::size_t> uses(4);
  const double seconds = run(depth, {.acceptance = 0, .cost = 0.6}, 300, uses, random);
  EXPECT_LT(seconds, 1.03 * 300);
  EXPECT_EQ(uses[2] + uses[3], 0U);
}

TEST(DraftDepth, NoticesWhenThingsChange) {
  std::mt19937 random(3);
  DraftDepth depth(2);
  std::vector<std::size_t> before(3), after(3);
  (void)run(depth, {.acceptance = 0.9, .cost = 0.2}, 5000, before, random);
  (void)run(depth, {.acceptance = 0.0, .cost = 0.2}, 20000, after, random);
  EXPECT_GT(after[0], 19000U);
}

TEST(DraftDepth, TurnsItselfOnAgain) {
  std::mt19937 random(6);
  DraftDepth depth(2);
  std::vector<std::size_t> before(3), after(3);
  (void)run(depth, {.acceptance = 0.0, .cost = 0.4}, 5000, before, random);
  (void)run(depth, {.acceptance = 0.95, .cost = 0.4}, 3000, after, random);
  EXPECT_GT(after[1] + after[2], after[0]);
}

TEST(DraftDepth, CrowdsAreLearntApart) {
  std::mt19937 random(4);
  DraftDepth depth(1);
  std::vector<std::size_t> alone(2), crowd(2);
  for (int round = 0; round < 20; ++round) {
    (void)run(depth, {.acceptance = 0.8, .cost = 0.3}, 500, alone, random);
    (void)run(depth, {.acceptance = 0.8, .cost = 1.0}, 4000, crowd, random, 8);
  }
  EXPECT_GT(alone[1], 5 * alone[0]);
  EXPECT_GT(crowd[0], 5 * crowd[1]);
}

TEST(DraftDepth, NoDepthIsNoDepth) {
  DraftDepth depth(0);
  EXPECT_EQ(depth.choose(3), 0U);
}

}  // namespace
}  // namespace qnext::test
