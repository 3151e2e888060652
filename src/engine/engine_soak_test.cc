// The engine under random traffic in tight pools: arrivals, cancellations, exhaustion. Whatever happens, each accepted
// request ends once, memory adds up after every step, and no one's tokens show who else was there.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <vector>

#include "engine/engine.h"
#include "engine/engine_test_support.h"

namespace qnext::test {
namespace {

constexpr std::size_t kContextTokens = 192;

Request random_request(std::mt19937& random) {
  const std::size_t num_prompt_tokens = 1 + random() % 150;  // one draw a line: compilers differ in the order of others
  const std::size_t variant = random() % 1000;
  Request request = greedy_request(tiny().prompt(num_prompt_tokens, variant), 1 + random() % 40);
  if (random() % 2 == 0) {
    request.sampling = {.temperature = 0.8f,
                        .top_k = random() % 2 == 0 ? std::size_t{30} : std::size_t{0},
                        .top_p = 0.95f,
                        .repetition_penalty = 1.1f,
                        .frequency_penalty = 0.3f,
                        .seed = random()};
  }
  if (random() % 4 == 0) request.stop_token_ids = {3, 100, 200, 300, 400};
  return request;
}

struct Traffic {
  std::vector<Request> requests;  // by RequestId::value
  Answers answers;
  std::vector<bool> cancelled;
};

// Submits requests at random steps and cancels some, until all have ended.
Traffic run_traffic(Engine& engine, std::size_t num_requests, std::mt19937& random) {
  Traffic traffic;
  std::size_t num_steps = 0;
  while (traffic.requests.size() < num_requests || !engine.idle()) {
    if (traffic.requests.size() < num_requests && random() % 4 == 0) {
      const Request request = random_request(random);
      const auto request_id = engine.submit(request);
      if (request_id.ok()) {
        EXPECT_EQ(request_id->value, traffic.requests.size());
        traffic.requests.push_back(request);
        traffic.cancelled.push_back(false);
      }
    }
    if (!traffic.requests.empty() && random() % 40 == 0) {
      const std::size_t idx = random() % traffic.requests.size();
      engine.cancel(RequestId{static_cast<std::uint32_t>(idx)});
      if (!traffic.answers[static_cast<std::uint32_t>(idx)].finish) traffic.cancelled[idx] = true;  // else too late
    }
    step_into(traffic.answers, engine);
    if (testing::Test::HasFatalFailure()) return traffic;
    // A token a step, one request after the other, would take fewer.
    EXPECT_LT(++num_steps, num_requests * (kContextTokens + 100)) << "no end in sight";
    if (testing::Test::HasFailure()) return traffic;
  }
  EXPECT_EQ(traffic.answers.size(), traffic.requests.size()) << "a request was never heard of";
  return traffic;
}

// What came of each must begin as what it gets alone does, and end so unless it was cut short.
void expect_each_as_alone(const Traffic& traffic, const EngineConfig& config) {
  for (const auto& [request_idx, answer] : traffic.answers) {
    SCOPED_TRACE(testing::Message() << "request " << request_idx);
    ASSERT_TRUE(answer.finish.has_value());
    EXPECT_EQ(answer.reason() == FinishReason::kCancelled, traffic.cancelled[request_idx]) << answer.finish->error;
    const Answer alone = run_alone(tiny(), traffic.requests[request_idx],
                                   {.context_tokens = kContextTokens,
                                    .kv_type = config.kv_type,
                                    .page_tokens = config.page_tokens,
                                    .prefill_chunk_tokens = config.prefill_chunk_tokens});
    const bool cut_short = answer.reason() == FinishReason::kError || answer.reason() == FinishReason::kCancelled;
    if (!cut_short) {
      expect_same(answer, alone);
      continue;
    }
    ASSERT_LE(answer.tokens.size(), alone.tokens.size());
    EXPECT_TRUE(std::ranges::equal(answer.tokens, std::span(alone.tokens).first(answer.tokens.size())));
  }
}

TEST(EngineSoak, RandomTrafficInTightPools) {
  std::mt19937 random(17);
  std::map<FinishReason, std::size_t> num_ended_by;
  const EngineConfig configs[] = {
      {.kv_type = DType::kF32, .page_tokens = 4, .prefill_chunk_tokens = 512},
      {.kv_type = DType::kBF16, .page_tokens = 16, .prefill_chunk_tokens = 100},
      {.kv_type = DType::kF32, .page_tokens = 16, .prefill_chunk_tokens = 5},
      {.kv_type = DType::kBF16, .page_tokens = 64, .prefill_chunk_tokens = 64},
      {.kv_type = DType::kQ8_0, .page_tokens = 16, .prefill_chunk_tokens = 33},
      {.kv_type = DType::kI16, .page_tokens = 5, .prefill_chunk_tokens = 70},
  };
  for (EngineConfig config : configs) {
    SCOPED_TRACE(testing::Message() << "pages of " << config.page_tokens << ", chunks of "
                                    << config.prefill_chunk_tokens);
    config.context_tokens = kContextTokens;
    config.num_sequences = 4;
    config.max_waiting = 3;
    config.num_pages = ceil_div(kContextTokens, config.page_tokens) * 3 / 2;
    const auto engine = tiny().make_engine(config);
    const Traffic traffic = run_traffic(*engine, 25, random);
    if (HasFailure()) return;
    EXPECT_EQ(engine->kv_cache().num_free_pages(), engine->kv_cache().num_pages());
    EXPECT_EQ(engine->state_cache().num_free_slots(), engine->state_cache().num_slots());
    expect_each_as_alone(traffic, config);
    for (const auto& [request_idx, answer] : traffic.answers) ++num_ended_by[answer.reason()];
  }
  // The traffic did meet everything that can happen.
  for (const auto reason :
       {FinishReason::kLength, FinishReason::kStop, FinishReason::kCancelled, FinishReason::kError}) {
    EXPECT_GT(num_ended_by[reason], 0u) << finish_reason_name(reason);
  }
}

}  // namespace
}  // namespace qnext::test
