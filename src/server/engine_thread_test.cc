#include "server/engine_thread.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <random>
#include <thread>

#include "engine/engine_test_support.h"

namespace qnext::test {
namespace {

const TinyModel& tiny() {
  static const TinyModel model("next-tiny");
  return model;
}

// What came of one ticket. Written by the engine's thread; others read `ended` first.
struct Outcome {
  Answer answer;
  std::atomic<bool> ended = false;

  EngineThread::OnEvent listener() {
    return [this](const Event& event) {
      ASSERT_FALSE(ended) << "an event after the last";
      if (const auto* token = std::get_if<TokenEvent>(&event.what)) {
        answer.tokens.push_back(token->token_id);
        if (token->logprob) answer.logprobs.push_back(*token->logprob);
        return;
      }
      answer.finish = std::get<FinishEvent>(event.what);
      ended = true;
    };
  }
  void wait() const {
    while (!ended) std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
};

TEST(EngineThread, ManyThreadsGetWhatEachGetsAlone) {
  constexpr std::size_t kNumThreads = 4, kNumRequests = 12;
  const auto engine = tiny().make_engine({.context_tokens = 256, .num_sequences = 3});
  EngineThread thread(*engine, 256);
  std::vector<Outcome> outcomes(kNumThreads * kNumRequests);
  const auto request_of = [](std::size_t i) { return greedy_request(tiny().prompt(1 + i * 7 % 60, i), 1 + i % 20); };
  std::vector<std::thread> clients;
  for (std::size_t c = 0; c < kNumThreads; ++c) {
    clients.emplace_back([&, c] {
      std::mt19937 random(static_cast<unsigned>(c));
      for (std::size_t i = c * kNumRequests; i < (c + 1) * kNumRequests; ++i) {
        const auto ticket = thread.try_submit(request_of(i), outcomes[i].listener());
        ASSERT_TRUE(ticket);
        if (random() % 4 == 0) thread.cancel(*ticket);
        if (random() % 3 == 0) outcomes[i].wait();
      }
    });
  }
  for (std::thread& client : clients) client.join();
  for (std::size_t i = 0; i < outcomes.size(); ++i) {
    SCOPED_TRACE(i);
    outcomes[i].wait();
    const Answer alone = run_alone(tiny(), request_of(i), {.context_tokens = 256});
    if (outcomes[i].answer.reason() != FinishReason::kCancelled) {
      expect_same(outcomes[i].answer, alone);
    } else {
      const auto& tokens = outcomes[i].answer.tokens;
      ASSERT_LE(tokens.size(), alone.tokens.size());
      EXPECT_TRUE(std::ranges::equal(tokens, std::span(alone.tokens).first(tokens.size())));
    }
  }
  EXPECT_EQ(thread.load().num_requests, 0u);
  EXPECT_GT(thread.load().stats.num_decode_tokens, 0u);
}

TEST(EngineThread, RefusesWhatItHasNoPlaceFor) {
  const auto engine = tiny().make_engine({.context_tokens = 512, .num_sequences = 1, .max_waiting = 2});
  EngineThread thread(*engine, 2);
  Outcome first, second, third;
  const auto ticket = thread.try_submit(greedy_request(tiny().prompt(5), 500), first.listener());
  ASSERT_TRUE(ticket && thread.try_submit(greedy_request(tiny().prompt(5), 2), second.listener()));
  EXPECT_FALSE(thread.try_submit(greedy_request(tiny().prompt(5), 2), third.listener()));
  thread.cancel(*ticket);
  thread.cancel(*ticket);
  thread.cancel(12345);
  second.wait();
  EXPECT_EQ(second.answer.reason(), FinishReason::kLength);
  EXPECT_EQ(first.answer.reason(), FinishReason::kCancelled);
}

TEST(EngineThread, WhatTheEngineRefusesEndsInAnError) {
  const auto engine = tiny().make_engine({.context_tokens = 64});
  EngineThread thread(*engine, 256);
  Outcome outcome;
  ASSERT_TRUE(thread.try_submit(greedy_request(tiny().prompt(100), 2), outcome.listener()));
  outcome.wait();
  EXPECT_EQ(outcome.answer.reason(), FinishReason::kError);
  EXPECT_NE(outcome.answer.finish->error, "");
}

TEST(EngineThread, ItsEndCancelsWhatRuns) {
  const auto engine = tiny().make_engine({.context_tokens = 1024});
  Outcome outcomes[3];
  {
    EngineThread thread(*engine, 256);
    for (Outcome& outcome : outcomes) {
      ASSERT_TRUE(thread.try_submit(greedy_request(tiny().prompt(5), 1000), outcome.listener()));
    }
    while (thread.load().stats.num_decode_tokens == 0) std::this_thread::yield();
  }
  EXPECT_EQ(outcomes[0].answer.reason(), FinishReason::kCancelled);
  for (const Outcome& outcome : outcomes) EXPECT_TRUE(outcome.ended);
  for (std::size_t round = 0; round < 20; ++round) {  // some of them never begin
    Outcome late[2];
    {
      EngineThread thread(*engine, 256);
      for (Outcome& outcome : late) {
        ASSERT_TRUE(thread.try_submit(greedy_request(tiny().prompt(5), 1000), outcome.listener()));
      }
    }
    for (const Outcome& outcome : late) EXPECT_EQ(outcome.answer.reason(), FinishReason::kCancelled);
  }
  EXPECT_TRUE(engine->idle());
  engine->check_integrity();
}

}  // namespace
}  // namespace qnext::test
