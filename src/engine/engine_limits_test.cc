// Full pools, full queues, requests that leave, and settings that cannot be.
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "engine/engine.h"
#include "engine/engine_test_support.h"

namespace qnext::test {
namespace {

TEST(EngineLimits, ACancelledRequestLeavesAtOnceAndDisturbsNobody) {
  const auto engine = tiny().make_engine({.num_sequences = 3});
  const Request kept = greedy_request(tiny().prompt(100, 1), 20);
  const RequestId decoding = submit(*engine, greedy_request(tiny().prompt(10, 2), 500));
  const RequestId stays = submit(*engine, kept);
  const RequestId prefilling = submit(*engine, greedy_request(tiny().prompt(1000, 3), 20));
  const RequestId waiting = submit(*engine, greedy_request(tiny().prompt(10, 4), 20));
  Answers answers;
  step_into(answers, *engine);
  ASSERT_FALSE(answers[decoding.value].tokens.empty());
  ASSERT_TRUE(answers[prefilling.value].tokens.empty());
  const std::size_t num_tokens_before = answers[decoding.value].tokens.size();
  for (RequestId request_id : {decoding, prefilling, waiting, RequestId{12345}}) engine->cancel(request_id);
  step_into(answers, *engine);
  for (RequestId request_id : {decoding, prefilling, waiting}) {
    ASSERT_TRUE(answers[request_id.value].finish.has_value());
    EXPECT_EQ(answers[request_id.value].reason(), FinishReason::kCancelled);
  }
  EXPECT_EQ(answers[decoding.value].tokens.size(), num_tokens_before);
  EXPECT_EQ(engine->state_cache().num_free_slots(), 2u);
  run_to_end(answers, *engine);
  expect_same(answers[stays.value], run_alone(tiny(), kept));
  engine->cancel(stays);  // too late: no error, no event
  EXPECT_TRUE(engine->step().empty());
}

TEST(EngineLimits, ADeadlineEndsAnAnswerWithWhatThereIs) {
  const auto engine = tiny().make_engine({.num_sequences = 2});
  const auto soon = std::chrono::steady_clock::now() + std::chrono::seconds(2);
  Request running = greedy_request(tiny().prompt(10, 1), 900);
  running.deadline = soon;
  Request waiting = greedy_request(tiny().prompt(10, 2), 20);
  waiting.deadline = soon;
  Request late = greedy_request(tiny().prompt(10, 3), 20);
  late.deadline = std::chrono::steady_clock::now();
  const Request other = greedy_request(tiny().prompt(100, 4), 20);
  const RequestId late_id = submit(*engine, late), running_id = submit(*engine, running),
                  other_id = submit(*engine, other), waiting_id = submit(*engine, waiting);
  Answers answers;
  step_into(answers, *engine);
  EXPECT_EQ(answers[late_id.value].reason(), FinishReason::kDeadline);
  EXPECT_TRUE(answers[late_id.value].tokens.empty());
  ASSERT_FALSE(answers[running_id.value].finish.has_value());
  const std::vector<TokenId> said = answers[running_id.value].tokens;
  ASSERT_FALSE(said.empty());
  std::this_thread::sleep_until(soon);
  step_into(answers, *engine);
  EXPECT_EQ(answers[running_id.value].reason(), FinishReason::kDeadline);
  EXPECT_EQ(answers[running_id.value].tokens, said);
  EXPECT_EQ(answers[waiting_id.value].reason(), FinishReason::kDeadline);
  run_to_end(answers, *engine);
  expect_same(answers[other_id.value], run_alone(tiny(), other));
}

// A prompt that goes on from an answer, and ends in the page of its last checkpoint before it says more than one token,
// leaves two prefixes that share all their pages.
TEST(EngineLimits, PrefixesThatShareAllTheirPagesGiveWay) {
  const auto engine = tiny().make_engine({.context_tokens = 256, .num_sequences = 1, .num_kept_prefixes = 4});
  Answers answers;
  std::vector<TokenId> talk = tiny().prompt(70, 1);
  const RequestId first = submit(*engine, greedy_request(talk, 8));
  while (!engine->idle()) step_into(answers, *engine);
  for (const std::vector<TokenId>& more : {answers[first.value].tokens, tiny().prompt(73, 2)}) {
    talk.insert(talk.end(), more.begin(), more.end());
  }
  submit(*engine, greedy_request(talk, 1));
  while (!engine->idle()) step_into(answers, *engine);
  const RequestId other = submit(*engine, greedy_request(tiny().prompt(100, 3), 2));
  for (int i = 0; i < 10 && !engine->idle(); ++i) step_into(answers, *engine);
  EXPECT_TRUE(answers[other.value].finish.has_value());
}

// Ten pages of 16; each request needs five or more for its prompt alone: two run, the third waits, none is lost.
TEST(EngineLimits, ARequestLongerThanTheFreePagesWaits) {
  const EngineConfig config{.context_tokens = 160, .num_sequences = 4, .page_tokens = 16, .num_pages = 10};
  const auto engine = tiny().make_engine(config);
  std::vector<Request> requests;
  for (std::size_t i = 0; i < 5; ++i) requests.push_back(greedy_request(tiny().prompt(70, i), 5));
  std::vector<RequestId> ids;
  for (const Request& request : requests) ids.push_back(submit(*engine, request));
  Answers answers;
  step_into(answers, *engine);
  EXPECT_EQ(engine->kv_cache().num_free_pages(), 0u);
  EXPECT_EQ(engine->state_cache().num_free_slots(), 2u);  // slots are there, pages are not
  run_to_end(answers, *engine);
  for (std::size_t i = 0; i < requests.size(); ++i) {
    expect_same(answers[ids[i].value], run_alone(tiny(), requests[i]));
  }
}

// Both prompts fit, both answers do not: the older waits for no one and ends as if alone, the younger with an error.
TEST(EngineLimits, WhenPagesRunOutTheYoungestEndsWithAnError) {
  const EngineConfig config{.context_tokens = 64, .num_sequences = 2, .page_tokens = 8, .num_pages = 8};
  const auto engine = tiny().make_engine(config);
  const Request older = greedy_request(tiny().prompt(20, 1), 40);
  const Request younger = greedy_request(tiny().prompt(20, 2), 40);
  const RequestId older_id = submit(*engine, older);
  const RequestId younger_id = submit(*engine, younger);
  Answers answers;
  run_to_end(answers, *engine);
  expect_same(answers[older_id.value], run_alone(tiny(), older));
  const Answer& ended = answers[younger_id.value];
  EXPECT_EQ(ended.reason(), FinishReason::kError);
  EXPECT_NE(ended.finish->error.find("8 K/V pages"), std::string::npos) << ended.finish->error;
  const Answer alone = run_alone(tiny(), younger);  // what it had until then was right
  ASSERT_LT(ended.tokens.size(), alone.tokens.size());
  EXPECT_TRUE(std::ranges::equal(ended.tokens, std::span(alone.tokens).first(ended.tokens.size())));
}

// A sequence that needs a page while another holds the last ones stands still until they are free, and goes on.
TEST(EngineLimits, ADecodingSequenceWaitsForAPage) {
  const EngineConfig config{.context_tokens = 64, .num_sequences = 2, .page_tokens = 8, .num_pages = 8};
  const auto engine = tiny().make_engine(config);
  const Request longer = greedy_request(tiny().prompt(30, 1), 15);  // wants its fifth page after 3 tokens
  const Request shorter = greedy_request(tiny().prompt(25, 2), 8);  // fills the four that it has
  const RequestId longer_id = submit(*engine, longer);
  const RequestId shorter_id = submit(*engine, shorter);
  Answers answers;
  while (!answers[shorter_id.value].finish) step_into(answers, *engine);
  EXPECT_EQ(answers[longer_id.value].tokens.size(), 3u);
  run_to_end(answers, *engine);
  expect_same(answers[longer_id.value], run_alone(tiny(), longer));
  expect_same(answers[shorter_id.value], run_alone(tiny(), shorter));
}

void expect_refused(const Result<RequestId>& result, std::string_view named) {
  ASSERT_FALSE(result.ok());
  EXPECT_NE(result.message().find(named), std::string::npos) << result.message();
}

TEST(EngineLimits, RequestsThatCannotRunAreRefused) {
  const auto engine = tiny().make_engine({.context_tokens = 64, .max_waiting = 2});
  expect_refused(engine->submit(greedy_request({}, 5)), "prompt");
  expect_refused(engine->submit(greedy_request({512}, 5)), "prompt[0]");
  expect_refused(engine->submit(greedy_request(tiny().prompt(64), 5)), "64 tokens, and the context is 64");
  EXPECT_TRUE(engine->idle());
  EXPECT_TRUE(engine->submit(greedy_request(tiny().prompt(63), 5)).ok());
  EXPECT_TRUE(engine->submit(greedy_request(tiny().prompt(1), 5)).ok());
  expect_refused(engine->submit(greedy_request(tiny().prompt(1), 5)), "2 requests wait already");
  Answers answers;
  step_into(answers, *engine);
  EXPECT_TRUE(engine->submit(greedy_request(tiny().prompt(1), 5)).ok());
  run_to_end(answers, *engine);
  EXPECT_EQ(answers.size(), 3u);
  EXPECT_EQ(answers[0].tokens.size(), 1u);  // the one that the context had room for
}

TEST(EngineLimits, SettingsThatCannotBeAreNamed) {
  struct BadConfig {
    const char* named;
    EngineConfig config;
  };
  constexpr std::size_t kHuge = ~std::size_t{0};
  const BadConfig cases[] = {
      {"context_tokens", {.context_tokens = 0}},
      {"context_tokens", {.context_tokens = 1}},
      {"context_tokens", {.context_tokens = kHuge}},
      {"made for 4096 tokens", {.context_tokens = 4097}},
      {"num_sequences", {.context_tokens = 64, .num_sequences = 0}},
      {"num_sequences", {.context_tokens = 64, .num_sequences = kHuge}},
      {"max_waiting", {.context_tokens = 64, .max_waiting = 0}},
      {"page_tokens", {.context_tokens = 64, .page_tokens = 0}},
      {"page_tokens", {.context_tokens = 64, .page_tokens = kHuge}},
      {"prefill_chunk_tokens", {.context_tokens = 64, .prefill_chunk_tokens = 0}},
      {"prefill_chunk_tokens", {.context_tokens = 64, .prefill_chunk_tokens = kHuge}},
      {"num_pages", {.context_tokens = 640, .page_tokens = 64, .num_pages = 9}},
      {"num_pages", {.context_tokens = 64, .num_pages = kHuge}},
      {"kv_type", {.context_tokens = 64, .kv_type = DType::kQ4_0}},
      {"GiB of cache", {.context_tokens = 4096, .num_sequences = 65536, .num_pages = 4'000'000'000}},
  };
  for (const BadConfig& bad : cases) {
    const auto engine = Engine::make(tiny().model(), tiny().ops(), bad.config);
    ASSERT_FALSE(engine.ok()) << bad.named;
    EXPECT_NE(engine.message().find(bad.named), std::string::npos) << engine.message();
  }
}

TEST(EngineLimits, HeadsThatAreNoWholeBlocksAreRefused) {
  ModelConfig model = tiny().model().config();
  const EngineConfig config{.context_tokens = 64, .kv_type = DType::kQ8_0};
  EXPECT_TRUE(check_engine_config(model, config).ok());
  model.Dh = 80;
  EXPECT_EQ(check_engine_config(model, config).message(),
            "kv_type: q8_0 keeps 32 values together, and this model's heads are 80 wide; take bf16");
  EXPECT_TRUE(check_engine_config(model, {.context_tokens = 64, .kv_type = DType::kBF16}).ok());
  model.Dh = 544;
  EXPECT_TRUE(check_engine_config(model, config).ok());
  EXPECT_EQ(check_engine_config(model, {.context_tokens = 64, .kv_type = DType::kI16}).message(),
            "kv_type: i16 takes heads of at most 512 values, and this model's are 544 wide; take f32");
}

TEST(EngineLimits, MemoryIsWhatTheModelSays) {
  const ModelConfig& model = tiny().model().config();
  const EngineConfig config{.context_tokens = 1000, .num_sequences = 3, .kv_type = DType::kBF16};
  EXPECT_EQ(engine_memory_bytes(model, config),
            3 * (1024 * model.kv_bytes_per_token(DType::kBF16) + model.state_bytes()));
}

}  // namespace
}  // namespace qnext::test
