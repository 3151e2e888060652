// Prompts that begin like earlier ones: how much of them runs again, and that it does not show in the answers.
#include <gtest/gtest.h>

#include <random>

#include "engine/engine_test_support.h"

namespace qnext::test {
namespace {

constexpr std::size_t kGrid = kDeltaChunk;

std::vector<TokenId> joined(std::vector<TokenId> tokens, const std::vector<TokenId>& more) {
  tokens.insert(tokens.end(), more.begin(), more.end());
  return tokens;
}

class EnginePrefixTest : public testing::Test {
 protected:
  EnginePrefixTest() : tiny_("next-tiny") {}

  void open(EngineConfig config) {
    if (config.context_tokens == 0) config.context_tokens = 2048;
    engine_ = tiny_.make_engine(config);
  }

  Answer run(const Request& request) { return run_all({request})[0]; }

  std::vector<Answer> run_all(const std::vector<Request>& requests) {
    std::vector<RequestId> ids;
    for (const Request& request : requests) ids.push_back(submit(*engine_, request));
    Answers answers;
    while (!engine_->idle()) step_into(answers, *engine_);
    std::vector<Answer> out;
    for (RequestId id : ids) out.push_back(answers[id.value]);
    return out;
  }

  Answer alone(const Request& request) { return run_alone(tiny_, request, {.context_tokens = 2048}); }

  std::size_t num_cached(const Answer& answer) { return answer.finish->num_cached_tokens; }

  TinyModel tiny_;
  std::unique_ptr<Engine> engine_;
};

TEST_F(EnginePrefixTest, TheSamePromptRunsItsLastChunkAgain) {
  open({.num_kept_prefixes = 4});
  for (std::size_t num_tokens : {1UL, 40UL, 64UL, 65UL, 300UL, 512UL, 1000UL, 1024UL, 1030UL}) {
    SCOPED_TRACE(num_tokens);
    const Request request = greedy_request(tiny_.prompt(num_tokens, num_tokens), 5);
    const Answer expected = alone(request);
    const Answer first = run(request);
    expect_same(first, expected);
    EXPECT_EQ(num_cached(first), 0U);
    const std::uint64_t num_prefilled = engine_->stats().num_prefill_tokens, num_resumed = engine_->stats().num_resumed;
    const Answer second = run(request);
    expect_same(second, expected);
    EXPECT_EQ(num_cached(second), (num_tokens - 1) / kGrid * kGrid);
    EXPECT_EQ(engine_->stats().num_prefill_tokens - num_prefilled, num_tokens - num_cached(second));
    EXPECT_EQ(engine_->stats().num_resumed - num_resumed, num_cached(second) > 0 ? 1U : 0U);
  }
}

TEST_F(EnginePrefixTest, ASecondTurnRunsItsOwnTokensOnly) {
  open({.num_kept_prefixes = 4});
  std::vector<TokenId> talk;
  for (std::size_t turn = 0; turn < 6; ++turn) {
    SCOPED_TRACE(turn);
    talk = joined(talk, tiny_.prompt(50 + 37 * turn, turn));
    const Request request = greedy_request(talk, 20);
    const Answer answer = run(request);
    EXPECT_EQ(num_cached(answer), turn == 0 ? 0 : talk.size() - (50 + 37 * turn) - 1);  // the last token was not run
    const Answer expected = alone(request);
    EXPECT_EQ(answer.tokens, expected.tokens);
    for (std::size_t i = 0; i < answer.logprobs.size(); ++i) {
      EXPECT_NEAR(answer.logprobs[i], expected.logprobs[i], 1e-3) << i;  // steps where alone there are chunks
    }
    talk = joined(talk, answer.tokens);
  }
}

// Chunks cut at the same places read the same blocks: the answers are those of an engine that keeps nothing.
TEST_F(EnginePrefixTest, WhatIsKeptInQ8GoesOnWithTheSameTokens) {
  open({.kv_type = DType::kQ8_0, .num_kept_prefixes = 8});
  std::vector<TokenId> talk = tiny_.prompt(700);
  for (std::size_t turn = 0; turn < 3; ++turn) {
    SCOPED_TRACE(turn);
    const Request request = greedy_request(talk, 20);
    const Answer answer = run(request);
    EXPECT_EQ(num_cached(answer) > 0, turn > 0);
    const Answer expected = run_alone(tiny_, request, {.context_tokens = 2048, .kv_type = DType::kQ8_0});
    EXPECT_EQ(answer.tokens, expected.tokens);
    talk = joined(joined(talk, answer.tokens), tiny_.prompt(50, turn + 1));
  }
  const Request branch = greedy_request(joined(tiny_.prompt(600), {3}), 9);  // parts midway: bit for bit
  const Answer answer = run(branch);
  EXPECT_EQ(num_cached(answer), 512U);
  expect_same(answer, run_alone(tiny_, branch, {.context_tokens = 2048, .kv_type = DType::kQ8_0}));
}

TEST_F(EnginePrefixTest, AnEndByAStopTokenLeavesNothingToRunAgain) {
  open({.num_kept_prefixes = 4});
  Request request = greedy_request(tiny_.prompt(70), 20);
  const std::vector<TokenId> tokens = alone(request).tokens;
  std::size_t num_tokens = 3;  // up to a token that did not occur before
  while (std::find(tokens.begin(), tokens.begin() + num_tokens, tokens[num_tokens]) != tokens.begin() + num_tokens) {
    ++num_tokens;
  }
  request.stop_token_ids = {tokens[num_tokens]};
  const Answer answer = run(request);
  ASSERT_EQ(answer.tokens.size(), num_tokens);
  EXPECT_EQ(
      num_cached(run(greedy_request(joined(joined(tiny_.prompt(70), answer.tokens), {tokens[num_tokens], 9}), 2))),
      70 + num_tokens);
}

TEST_F(EnginePrefixTest, PromptsThatPartMidwayShareTheChunksBefore) {
  open({.num_kept_prefixes = 8});
  const std::vector<TokenId> trunk = tiny_.prompt(1100);
  (void)run(greedy_request(joined(trunk, tiny_.prompt(200, 1)), 2));
  const Request request = greedy_request(joined(trunk, tiny_.prompt(90, 2)), 6);
  const Answer answer = run(request);
  EXPECT_EQ(num_cached(answer), 1024U);
  expect_same(answer, alone(request));
}

TEST_F(EnginePrefixTest, PromptsThatPartMidwayShareTheChunksBeforeInAFullCache) {
  open({.num_kept_prefixes = 8});
  for (std::uint64_t seed = 10; seed < 20; ++seed) (void)run(greedy_request(tiny_.prompt(20, seed), 2));
  ASSERT_EQ(engine_->prefix_cache().num_prefixes(), 8U);  // ends of answers
  const std::vector<TokenId> trunk = tiny_.prompt(1100);
  (void)run(greedy_request(joined(trunk, tiny_.prompt(200, 1)), 2));
  EXPECT_EQ(num_cached(run(greedy_request(joined(trunk, tiny_.prompt(90, 2)), 2))), 1024U);
}

TEST_F(EnginePrefixTest, TheStateIsKeptWhereTheLastingTokensEnd) {
  open({.num_kept_prefixes = 8});
  const std::vector<TokenId> messages = tiny_.prompt(200);
  Request request = greedy_request(joined(messages, tiny_.prompt(60, 1)), 4);
  request.num_lasting_tokens = 200;
  (void)run(request);
  const Request next = greedy_request(joined(messages, tiny_.prompt(60, 2)), 4);
  const Answer answer = run(next);
  EXPECT_EQ(num_cached(answer), 192U);
  expect_same(answer, alone(next));
}

TEST_F(EnginePrefixTest, TwinsWaitForTheFirstOfThem) {
  open({.num_sequences = 8, .num_kept_prefixes = 8});
  std::vector<Request> requests;
  for (std::uint64_t seed = 0; seed < 6; ++seed) {
    requests.push_back(greedy_request(tiny_.prompt(700), 8));
    requests.back().sampling.temperature = 1.0f;
    requests.back().sampling.seed = seed;
  }
  requests.push_back(greedy_request(tiny_.prompt(100, 3), 8));  // nobody's twin: does not wait
  const std::vector<Answer> answers = run_all(requests);
  for (std::size_t i = 0; i < requests.size(); ++i) expect_same(answers[i], alone(requests[i]));
  EXPECT_EQ(engine_->stats().num_prefill_tokens, 700U + 5 * (700 - 640) + 100);
}

TEST_F(EnginePrefixTest, ACancelledPromptIsNotInVain) {
  open({.num_kept_prefixes = 8});
  const Request request = greedy_request(tiny_.prompt(1500), 4);
  const RequestId id = submit(*engine_, request);
  Answers answers;
  step_into(answers, *engine_);
  step_into(answers, *engine_);
  engine_->cancel(id);
  while (!engine_->idle()) step_into(answers, *engine_);
  const Answer answer = run(request);
  EXPECT_EQ(num_cached(answer), 1024U);
  expect_same(answer, alone(request));
}

// Few pages and few slots: what is kept gives way, and nobody waits for it for ever.
TEST_F(EnginePrefixTest, ThoseThatRunComeFirst) {
  for (std::size_t num_kept : {1UL, 2UL, 5UL}) {
    SCOPED_TRACE(num_kept);
    open({.context_tokens = 640, .num_sequences = 3, .num_pages = 10, .num_kept_prefixes = num_kept});
    for (std::size_t round = 0; round < (kPoison ? 1 : 3); ++round) {
      std::vector<Request> requests;
      for (std::size_t i = 0; i < 5; ++i) requests.push_back(greedy_request(tiny_.prompt(100 + 90 * i, i % 3), 8));
      const std::vector<Answer> answers = run_all(requests);
      for (std::size_t i = 0; i < requests.size(); ++i) {
        expect_same(answers[i], run_alone(tiny_, requests[i], {.context_tokens = 640}));
      }
      EXPECT_LE(engine_->prefix_cache().num_prefixes(), num_kept);
    }
  }
}

// Talks that branch, run at once, are cancelled, and crowd each other out: each answer as if it were alone. Prompts
// go on from prompts, not from answers, so that bits can be compared.
TEST_F(EnginePrefixTest, RandomTrees) {
  constexpr std::size_t kNumRequests = kPoison ? 15 : 60;  // sanitizers take ten times as long
  std::mt19937 random(5);
  const auto below = [&](std::size_t limit) {
    return std::uniform_int_distribution<std::size_t>(0, limit - 1)(random);
  };
  std::map<std::vector<TokenId>, Answer> expected;
  for (std::size_t num_kept : {2UL, 6UL, 20UL}) {
    SCOPED_TRACE(num_kept);
    open({.context_tokens = 1024,
          .num_sequences = 4,
          .page_tokens = 16,
          .num_pages = 100,
          .num_kept_prefixes = num_kept});
    std::vector<std::vector<TokenId>> prompts = {tiny_.prompt(10), tiny_.prompt(600)};
    Answers answers;
    std::map<std::uint32_t, std::vector<TokenId>> prompt_of;
    std::vector<RequestId> cancelled;
    for (std::size_t i = 0; i < kNumRequests; ++i) {
      std::vector<TokenId> prompt = prompts[below(prompts.size())];
      prompt.resize(1 + below(prompt.size()));
      if (below(4) > 0) prompt = joined(prompt, tiny_.prompt(1 + below(200), below(3)));
      prompt.resize(std::min<std::size_t>(prompt.size(), 900));
      prompts.push_back(prompt);
      const RequestId id = submit(*engine_, greedy_request(prompt, 2 + below(2)));
      prompt_of[id.value] = prompt;
      if (below(8) == 0) engine_->cancel(id);
      for (std::size_t j = below(4); j > 0; --j) step_into(answers, *engine_);
    }
    while (!engine_->idle()) step_into(answers, *engine_);
    for (const auto& [id, answer] : answers) {
      SCOPED_TRACE(id);
      ASSERT_TRUE(answer.finish.has_value());
      if (answer.reason() == FinishReason::kCancelled) continue;
      const auto [found, is_new] = expected.try_emplace(prompt_of[id]);
      if (is_new) found->second = run_alone(tiny_, greedy_request(prompt_of[id], 3), {.context_tokens = 1024});
      ASSERT_LE(answer.tokens.size(), 3U);
      for (std::size_t i = 0; i < answer.tokens.size(); ++i) {
        EXPECT_EQ(answer.tokens[i], found->second.tokens[i]);
        EXPECT_EQ(answer.logprobs[i], found->second.logprobs[i]);
      }
    }
    EXPECT_GE(engine_->stats().num_cached_tokens, num_kept == 20 ? 1U : 0U);
  }
}

}  // namespace
}  // namespace qnext::test
