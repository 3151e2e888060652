#include "engine/engine.h"

#include <gtest/gtest.h>

#include <cmath>

#include "engine/engine_test_support.h"

namespace qnext::test {
namespace {

// Prompts of many lengths, greedy and sampled: single tokens, ends inside, at and beside chunk boundaries, and lengths
// that meet what others leave of a step's budget.
std::vector<Request> mixed_requests() {
  const std::size_t lengths[] = {20, 500, 64, 150, 463, 65, 333, 1};
  std::vector<Request> out;
  for (std::size_t i = 0; i < std::size(lengths); ++i) {
    Request request = greedy_request(tiny().prompt(lengths[i], i), 6 + 3 * i);
    if (i % 2 == 1) {
      request.sampling = {.temperature = 0.9f, .top_k = 40, .top_p = 0.95f, .presence_penalty = 0.5f, .seed = 1000 + i};
    }
    out.push_back(std::move(request));
  }
  return out;
}

// ---- The right tokens ---------------------------------------------------------------------------------------------

class EngineGoldenTest : public testing::TestWithParam<std::string> {};

TEST_P(EngineGoldenTest, GreedyTokensAreTransformers) {
  const TinyModel model(GetParam());
  const Golden golden(data_path("golden/" + GetParam() + "/golden.safetensors"));
  const std::vector<TokenId> expected = golden.tokens("greedy");
  const Answer answer = run_alone(model, greedy_request(golden.tokens("input_ids"), expected.size()));
  EXPECT_EQ(answer.tokens, expected);
  EXPECT_EQ(answer.reason(), FinishReason::kLength);
}

INSTANTIATE_TEST_SUITE_P(Models, EngineGoldenTest,
                         testing::Values("next-tiny", "next-rawtopk", "moe-tiny", "dense-tiny"), [](const auto& info) {
                           std::string name = info.param;
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

// From kDeltaChunk tokens a step on, the cuts leave no trace at all; below, rounding differs and tokens do not.
void expect_chunks_do_not_show(const TinyModel& model, std::size_t num_prompt_tokens) {
  const Request request = greedy_request(model.prompt(num_prompt_tokens), 24);
  const Answer expected = run_alone(model, request, {.prefill_chunk_tokens = 4096});
  for (std::size_t chunk_tokens : {1u, 7u, 63u, 64u, 65u, 128u}) {
    SCOPED_TRACE(testing::Message() << num_prompt_tokens << " tokens in chunks of " << chunk_tokens);
    const Answer actual = run_alone(model, request, {.prefill_chunk_tokens = chunk_tokens});
    EXPECT_EQ(actual.tokens, expected.tokens);
    if (chunk_tokens >= kDeltaChunk) expect_same(actual, expected);
  }
}

TEST(Engine, AnyPrefillChunkGivesTheSameTokens) {
  for (const KernelTable& table : available_tables()) {
    SCOPED_TRACE(table.name);
    const TinyModel model("next-tiny", table.name);
    for (std::size_t num_prompt_tokens : {128u, 150u, 200u}) expect_chunks_do_not_show(model, num_prompt_tokens);
  }
}

// ---- Alone or in company ------------------------------------------------------------------------------------------

void expect_company_does_not_show(const TinyModel& model, const EngineConfig& config) {
  const std::vector<Request> requests = mixed_requests();
  const auto engine = model.make_engine(config);
  std::vector<RequestId> ids;
  Answers answers;
  for (const Request& request : requests) {
    ids.push_back(submit(*engine, request));
    if (ids.size() % 3 == 0) step_into(answers, *engine);  // some arrive while others run
  }
  run_to_end(answers, *engine);
  for (std::size_t i = 0; i < requests.size(); ++i) {
    SCOPED_TRACE(testing::Message() << "request " << i);
    EXPECT_EQ(answers[ids[i].value].tokens.size(), requests[i].max_new_tokens);
    expect_same(answers[ids[i].value], run_alone(model, requests[i], config));
  }
}

TEST(Engine, EightTogetherEqualEachAlone) {
  expect_company_does_not_show(tiny(), {.num_sequences = 8});
}

TEST(Engine, EightThroughThreePlacesEqualEachAlone) {
  expect_company_does_not_show(tiny(), {.num_sequences = 3});
}

TEST(Engine, EightTogetherEqualEachAloneInSmallChunksAndPages) {
  expect_company_does_not_show(tiny(), {.num_sequences = 8, .page_tokens = 5, .prefill_chunk_tokens = 50});
  expect_company_does_not_show(tiny(), {.num_sequences = 8, .page_tokens = 16, .prefill_chunk_tokens = 100});
}

TEST(Engine, EightTogetherEqualEachAloneInSmallerTypes) {
  expect_company_does_not_show(tiny(), {.num_sequences = 8, .kv_type = DType::kI16});
  expect_company_does_not_show(tiny(), {.num_sequences = 8, .kv_type = DType::kBF16});
  expect_company_does_not_show(tiny(), {.num_sequences = 8, .kv_type = DType::kQ8_0});
}

TEST(Engine, EightTogetherEqualEachAloneOnTheReferenceKernels) {
  expect_company_does_not_show(TinyModel("next-tiny", "ref"), {.num_sequences = 8});
}

// Prefill and decode, greedy and sampled, in one batch: threads change no token and no bit of a log-probability.
TEST(Engine, AnyNumberOfThreadsGivesTheSameAnswers) {
  const std::vector<Request> requests = mixed_requests();
  const auto run_all = [&](std::size_t num_threads) {
    const TinyModel model("next-tiny", "", num_threads);
    const auto engine = model.make_engine({.num_sequences = 8, .prefill_chunk_tokens = 100});
    for (const Request& request : requests) submit(*engine, request);
    Answers answers;
    run_to_end(answers, *engine);
    return answers;
  };
  const Answers expected = run_all(1);
  for (std::size_t num_threads : {2u, 3u, 8u}) {
    SCOPED_TRACE(testing::Message() << num_threads << " threads");
    Answers actual = run_all(num_threads);
    ASSERT_EQ(actual.size(), expected.size());
    for (const auto& [request_id, answer] : expected) expect_same(actual[request_id], answer);
  }
}

TEST(Engine, TheSeedAloneChoosesTheDraw) {
  Request request = greedy_request(tiny().prompt(20), 30);
  request.sampling = {.temperature = 1, .seed = 5};
  const Answer first = run_alone(tiny(), request);
  expect_same(run_alone(tiny(), request), first);
  request.sampling.seed = 6;
  EXPECT_NE(run_alone(tiny(), request).tokens, first.tokens);
}

// ---- Ends ---------------------------------------------------------------------------------------------------------

TEST(Engine, AStopTokenEndsTheAnswerAndIsNoPartOfIt) {
  const Request request = greedy_request(tiny().prompt(30), 20);
  const Answer whole = run_alone(tiny(), request);
  Request stopped = request;
  stopped.stop_token_ids = {whole.tokens[7]};
  const auto first = std::ranges::find(whole.tokens, whole.tokens[7]);
  const Answer answer = run_alone(tiny(), stopped);
  EXPECT_EQ(answer.reason(), FinishReason::kStop);
  EXPECT_EQ(answer.finish->stop_token_id, whole.tokens[7]);
  EXPECT_EQ(answer.tokens, std::vector<TokenId>(whole.tokens.begin(), first));
  EXPECT_EQ(answer.finish->num_prompt_tokens, 30u);
}

TEST(Engine, TheContextsEndIsLength) {
  const Answer answer =
      run_alone(tiny(), greedy_request(tiny().prompt(30), 100), {.context_tokens = 40, .page_tokens = 8});
  EXPECT_EQ(answer.reason(), FinishReason::kLength);
  EXPECT_EQ(answer.tokens.size(), 10u);
}

TEST(Engine, LogprobsAreOfTheModelsOwnDistribution) {
  Request request = greedy_request(tiny().prompt(30), 3);
  request.num_logprobs = 4;
  request.sampling.logit_bias = {{.token_id = 11, .bias = 10'000}};  // changes the choice, not the report
  const auto engine = tiny().make_engine({});
  submit(*engine, request);
  std::vector<TokenEvent> tokens;
  while (!engine->idle()) {
    for (const Event& event : engine->step()) {
      if (const auto* token = std::get_if<TokenEvent>(&event.what)) tokens.push_back(*token);
    }
  }
  ASSERT_EQ(tokens.size(), 3u);
  for (const TokenEvent& token : tokens) {
    EXPECT_EQ(token.token_id, 11);
    ASSERT_EQ(token.top_logprobs.size(), 4u);
    EXPECT_LE(*token.logprob, token.top_logprobs[0].logprob);
    EXPECT_LT(token.top_logprobs[0].logprob, 0);
    EXPECT_GE(token.top_logprobs[0].logprob, token.top_logprobs[1].logprob);
  }
}

TEST(Engine, LogitsThatAreNotFiniteEndTheRequestWithAnError) {
  auto weights = load_weights(data_path("golden/next-tiny"));
  ASSERT_TRUE(weights.ok()) << weights.message();
  weights->final_norm[3] = std::nanf("");
  const Qwen3Next broken(std::move(weights).value());
  auto engine = Engine::make(broken, tiny().ops(), {.context_tokens = 64});
  ASSERT_TRUE(engine.ok()) << engine.message();
  submit(**engine, greedy_request({1, 2, 3}, 5));
  Answers answers;
  run_to_end(answers, **engine);
  EXPECT_EQ(answers[0].reason(), FinishReason::kError);
  EXPECT_NE(answers[0].finish->error.find("not finite"), std::string::npos);
  EXPECT_TRUE(answers[0].tokens.empty());
}

TEST(Engine, StatsCountEveryToken) {
  const auto engine = tiny().make_engine({.num_sequences = 2});
  submit(*engine, greedy_request(tiny().prompt(100), 5));
  submit(*engine, greedy_request(tiny().prompt(30), 7));
  Answers answers;
  run_to_end(answers, *engine);
  EXPECT_EQ(engine->stats().num_prefill_tokens, 130u);
  EXPECT_EQ(engine->stats().num_decode_tokens, 4u + 6u);  // the first token of each comes with its prompt
  for (const StepTime& time : {engine->stats().prefill, engine->stats().decode}) {
    EXPECT_GT(time.model_s, 0);
    EXPECT_GT(time.total_s, time.model_s);
  }
}

TEST(Engine, AnIdleStepDoesNothing) {
  const auto engine = tiny().make_engine({});
  EXPECT_TRUE(engine->idle());
  EXPECT_TRUE(engine->step().empty());
}

}  // namespace
}  // namespace qnext::test
