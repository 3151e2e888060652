// Constraints: what is said keeps to them, whoever else runs and whatever is guessed.
#include <gtest/gtest.h>

#include <bit>

#include "engine/agreeing_model.h"
#include "engine/engine_test_support.h"

namespace qnext::test {
namespace {

// After `num_free` tokens of any kind: multiples of `step` only, and at most `num_constrained` of them.
class Multiples : public TokenConstraint {
 public:
  Multiples(TokenId step, std::size_t num_free, std::size_t num_constrained)
      : step_(step), num_free_(num_free), num_left_(num_constrained) {}

  Result<bool> mask(std::span<std::uint32_t> allowed) override {
    if (num_free_ > 0) return false;
    if (fails_) return error("the rule is too hard");
    std::ranges::fill(allowed, 0U);
    if (!is_impossible_) {
      for (std::size_t id = 0; id < allowed.size() * 32; id += static_cast<std::size_t>(step_)) {
        allowed[id / 32] |= 1U << (id % 32);
      }
    }
    return true;
  }
  Status accept(TokenId token_id) override {
    if (num_free_ > 0) {
      --num_free_;
      return success();
    }
    if (token_id % step_ != 0) return error("{} is no multiple of {}", token_id, step_);
    --num_left_;
    return success();
  }
  bool is_complete() const override { return num_left_ == 0; }

  bool fails_ = false;
  bool is_impossible_ = false;

 private:
  TokenId step_;
  std::size_t num_free_, num_left_;
};

class EngineConstraintTest : public testing::Test {
 protected:
  EngineConstraintTest() : tiny_(agreeing_weights(1.0f / 64)) {}

  std::vector<Answer> run_all(const std::vector<Request>& requests, const EngineConfig& config) {
    const auto engine = tiny_.make_engine(config);
    std::vector<RequestId> ids;
    for (const Request& request : requests) ids.push_back(submit(*engine, request));
    Answers answers;
    while (!engine->idle()) step_into(answers, *engine);
    std::vector<Answer> out;
    for (RequestId id : ids) out.push_back(answers[id.value]);
    return out;
  }

  TinyModel tiny_;
};

TEST_F(EngineConstraintTest, IsKeptToUntilItIsComplete) {
  for (const SamplingParams& sampling : {SamplingParams{.temperature = 0},
                                         {.temperature = 1.5f, .seed = 1},
                                         {.temperature = 1000, .seed = 2},
                                         {.temperature = 1.0f, .top_k = 3, .top_p = 0.5f, .min_p = 0.1f, .seed = 3},
                                         {.temperature = 0.7f, .presence_penalty = 2, .seed = 4}}) {
    for (std::size_t num_free : {0UL, 5UL}) {
      Request request = greedy_request(tiny_.prompt(20), 100);
      request.sampling = sampling;
      request.constraint = std::make_shared<Multiples>(7, num_free, 12);
      const Answer answer = run_all({request}, {})[0];
      ASSERT_EQ(answer.tokens.size(), num_free + 12);
      for (std::size_t i = num_free; i < answer.tokens.size(); ++i) EXPECT_EQ(answer.tokens[i] % 7, 0);
      EXPECT_EQ(answer.reason(), FinishReason::kStop);
      EXPECT_FALSE(answer.finish->stop_token_id.has_value());
    }
  }
}

TEST_F(EngineConstraintTest, WhatEndsAnAnswerEndsThisOne) {
  Request cut = greedy_request(tiny_.prompt(20), 4);
  cut.constraint = std::make_shared<Multiples>(7, 0, 12);
  EXPECT_EQ(run_all({cut}, {})[0].reason(), FinishReason::kLength);
  Request stopped = greedy_request(tiny_.prompt(20), 4);
  stopped.constraint = std::make_shared<Multiples>(1000, 0, 12);  // only 0 is left
  stopped.stop_token_ids = {0};
  const Answer answer = run_all({stopped}, {})[0];
  EXPECT_EQ(answer.reason(), FinishReason::kStop);
  EXPECT_TRUE(answer.tokens.empty());
}

TEST_F(EngineConstraintTest, AFailureEndsItsOwnAnswerOnly) {
  const Request free = greedy_request(tiny_.prompt(30), 12);
  Request fails = greedy_request(tiny_.prompt(20), 12), impossible = fails;
  auto failing = std::make_shared<Multiples>(7, 3, 12);
  failing->fails_ = true;
  fails.constraint = failing;
  auto none = std::make_shared<Multiples>(7, 3, 12);
  none->is_impossible_ = true;
  impossible.constraint = none;
  const std::vector<Answer> answers = run_all({fails, free, impossible}, {.num_sequences = 3});
  EXPECT_EQ(answers[0].reason(), FinishReason::kError);
  EXPECT_EQ(answers[0].finish->error, "the rule is too hard");
  EXPECT_EQ(answers[0].tokens.size(), 3U);
  EXPECT_TRUE(answers[0].finish->by_constraint);
  EXPECT_EQ(answers[2].reason(), FinishReason::kError);
  EXPECT_EQ(answers[2].finish->error, "no token is allowed to follow: the grammar cannot be met");
  expect_same(answers[1], run_alone(tiny_, free));
}

TEST_F(EngineConstraintTest, GuessesAndNeighboursDoNotShow) {
  const auto requests = [&] {  // anew each time: a constraint serves once
    std::vector<Request> out;
    for (std::uint64_t seed = 0; seed < 6; ++seed) {
      Request request = greedy_request(tiny_.prompt(20 + 30 * seed), 20);
      request.sampling = {.temperature = 0.5f, .seed = seed};
      if (seed % 3 != 0) request.constraint = std::make_shared<Multiples>(static_cast<TokenId>(1 + seed), 4, 30);
      out.push_back(request);
    }
    return out;
  };
  std::vector<Answer> expected;
  for (const Request& request : requests()) expected.push_back(run_all({request}, {})[0]);
  const std::vector<Answer> actual =
      run_all(requests(), {.num_sequences = 4, .max_drafts = 3, .adapts_drafts = false, .num_kept_prefixes = 4});
  for (std::size_t i = 0; i < expected.size(); ++i) expect_same(actual[i], expected[i]);
}

}  // namespace
}  // namespace qnext::test
