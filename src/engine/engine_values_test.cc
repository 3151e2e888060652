// What the engine reports, in numbers; and numbers that are none: damage must stay with the one who has it.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <set>
#include <vector>

#include "engine/engine.h"
#include "engine/engine_test_support.h"
#include "kernels/compare.h"

namespace qnext::test {
namespace {

std::vector<TokenEvent> token_events(const Request& request, const EngineConfig& config = {}) {
  const auto engine = tiny().make_engine(config);
  submit(*engine, request);
  std::vector<TokenEvent> out;
  while (!engine->idle()) {
    for (const Event& event : engine->step()) {
      if (const auto* token = std::get_if<TokenEvent>(&event.what)) out.push_back(*token);
    }
  }
  return out;
}

std::vector<double> log_softmax(std::span<const float> logits) {
  const double best = *std::ranges::max_element(logits);
  double sum = 0;
  for (float logit : logits) sum += std::exp(logit - best);
  std::vector<double> out;
  for (float logit : logits) out.push_back(logit - best - std::log(sum));
  return out;
}

double standard_deviation(std::span<const float> values) {
  double sum = 0;
  double squares = 0;
  for (float value : values) sum += value, squares += static_cast<double>(value) * value;
  const double mean = sum / static_cast<double>(values.size());
  return std::sqrt(squares / static_cast<double>(values.size()) - mean * mean);
}

// ---- Log-probabilities ---------------------------------------------------------------------------------------------

TEST(EngineValues, LogprobsAreTransformers) {
  const Golden golden(data_path("golden/next-tiny/golden.safetensors"));
  const std::vector<TokenId> greedy = golden.tokens("greedy");
  const std::span<const float> logits = golden.floats("greedy_logits");
  const std::size_t V = tiny().model().config().V;
  Request request = greedy_request(golden.tokens("input_ids"), greedy.size());
  request.num_logprobs = 5;
  const std::vector<TokenEvent> tokens = token_events(request);
  ASSERT_EQ(tokens.size(), greedy.size());
  // Logits may be off by 2e-3 of their standard deviation (design/model.md section 4); a log-softmax is the difference
  // of two numbers that are.
  const double tolerance = 2 * 2e-3 * standard_deviation(logits);
  for (std::size_t t = 0; t < tokens.size(); ++t) {
    SCOPED_TRACE(testing::Message() << "token " << t);
    const std::vector<double> expected = log_softmax(logits.subspan(t * V, V));
    EXPECT_NEAR(*tokens[t].logprob, expected[static_cast<std::size_t>(greedy[t])], tolerance);
    ASSERT_EQ(tokens[t].top_logprobs.size(), 5u);
    EXPECT_EQ(tokens[t].top_logprobs[0].token_id, greedy[t]);
    EXPECT_EQ(tokens[t].top_logprobs[0].logprob, *tokens[t].logprob);
    for (std::size_t i = 0; i < 5; ++i) {
      const TokenLogprob& top = tokens[t].top_logprobs[i];
      EXPECT_NEAR(top.logprob, expected[static_cast<std::size_t>(top.token_id)], tolerance);
      EXPECT_LE(top.logprob, tokens[t].top_logprobs[i == 0 ? 0 : i - 1].logprob);
    }
  }
}

TEST(EngineValues, NoLogprobsUnlessAskedFor) {
  Request request = greedy_request(tiny().prompt(9), 3);
  request.num_logprobs.reset();
  for (const TokenEvent& token : token_events(request)) {
    EXPECT_FALSE(token.logprob.has_value());
    EXPECT_TRUE(token.top_logprobs.empty());
  }
}

// Keys and values in bf16 must cost less than the whole network in bf16 does: a mean KL divergence of 4.5e-3 for
// transformers on such weights (tests/data/golden is of that making). And they must cost something, or bf16 is not on.
TEST(EngineValues, Bf16KeysAndValuesStayCloseToF32) {
  const std::size_t V = tiny().model().config().V;
  double total = 0;
  constexpr std::size_t kNumPrompts = 12;
  for (std::size_t variant = 0; variant < kNumPrompts; ++variant) {
    Request request = greedy_request(tiny().prompt(100, variant), 1);
    request.num_logprobs = V;
    const TokenEvent exact = token_events(request).at(0);
    const TokenEvent rounded = token_events(request, {.kv_type = DType::kBF16}).at(0);
    std::vector<double> rounded_logprob(V);
    for (const TokenLogprob& top : rounded.top_logprobs) {
      rounded_logprob[static_cast<std::size_t>(top.token_id)] = top.logprob;
    }
    for (const TokenLogprob& top : exact.top_logprobs) {
      total += std::exp(top.logprob) * (top.logprob - rounded_logprob[static_cast<std::size_t>(top.token_id)]);
    }
  }
  EXPECT_LE(total / kNumPrompts, 4.5e-3);
  EXPECT_NE(total, 0);
}

// ---- Penalties -----------------------------------------------------------------------------------------------------

TEST(EngineValues, ThePresencePenaltySeesTheWholeAnswerAndNotThePrompt) {
  const std::size_t V = tiny().model().config().V;
  std::vector<TokenId> whole_vocabulary(V);
  for (std::size_t i = 0; i < V; ++i) whole_vocabulary[i] = static_cast<TokenId>(i);
  Request request = greedy_request(whole_vocabulary, 60);
  const Answer plain = run_alone(tiny(), request);
  request.sampling.presence_penalty = 100;
  const Answer answer = run_alone(tiny(), request);
  EXPECT_EQ(answer.tokens[0], plain.tokens[0]);  // all are in the prompt: no reason to avoid any
  EXPECT_EQ(std::set<TokenId>(answer.tokens.begin(), answer.tokens.end()).size(), 60u);
}

TEST(EngineValues, TheRepetitionPenaltySeesThePrompt) {
  Request request = greedy_request(tiny().prompt(60), 20);
  request.sampling.repetition_penalty = 100;
  const std::vector<TokenId> tokens = run_alone(tiny(), request).tokens;
  std::set<TokenId> seen(request.prompt.begin(), request.prompt.end());
  for (TokenId token_id : tokens) EXPECT_TRUE(seen.insert(token_id).second) << token_id;
}

// ---- Damage --------------------------------------------------------------------------------------------------------

// next-tiny with a NaN for the embedding of one token.
Qwen3Next damaged_model(TokenId token_id) {
  auto weights = load_weights(data_path("golden/next-tiny"));
  QN_CHECK(weights.ok(), "{}", weights.message());
  Weight& embedding = weights->embedding;
  std::byte* bytes = weights->owned.allocate(embedding.bytes());
  std::memcpy(bytes, embedding.data, embedding.bytes());
  std::memset(bytes + static_cast<std::size_t>(token_id) * embedding.row_bytes, 0xFF, embedding.row_bytes);
  embedding.data = bytes;
  return Qwen3Next(std::move(weights).value());
}

bool uses(const Request& request, const Answer& answer, TokenId token_id) {
  return std::ranges::count(request.prompt, token_id) + std::ranges::count(answer.tokens, token_id) > 0;
}

// One sequence computes NaNs beside others, in shared batches; its pages and its slot then serve the next.
TEST(EngineValues, ADamagedSequenceHarmsNeitherNeighboursNorSuccessors) {
  constexpr TokenId kDamaged = 77;
  const Qwen3Next model = damaged_model(kDamaged);
  const EngineConfig config{
      .context_tokens = 256, .num_sequences = 3, .page_tokens = 16, .num_pages = 32, .prefill_chunk_tokens = 100};
  auto engine = Engine::make(model, tiny().ops(), config);
  ASSERT_TRUE(engine.ok()) << engine.message();
  std::vector<Request> requests;
  for (std::size_t i = 0; i < 9; ++i) {
    Request request = greedy_request(tiny().prompt(60 + 11 * i, i), 12);
    std::ranges::replace(request.prompt, kDamaged, kDamaged + 1);
    if (i % 3 == 1) request.prompt[i * 6] = kDamaged;
    requests.push_back(request);
    submit(**engine, request);
  }
  Answers answers;
  run_to_end(answers, **engine);
  std::size_t num_harmed = 0;
  for (std::size_t i = 0; i < requests.size(); ++i) {
    SCOPED_TRACE(testing::Message() << "request " << i);
    const Answer& answer = answers[static_cast<std::uint32_t>(i)];
    const Answer alone = run_alone(tiny(), requests[i], config);
    if (uses(requests[i], alone, kDamaged)) {
      EXPECT_EQ(answer.reason(), FinishReason::kError);
      EXPECT_NE(answer.finish->error.find("not finite"), std::string::npos) << answer.finish->error;
      ++num_harmed;
    } else {
      expect_same(answer, alone);
    }
  }
  EXPECT_GE(num_harmed, 3u);
  EXPECT_LE(num_harmed, 6u);
}

// Each token of a prompt is as likely as an answer at its place says; whatever the chunks, and whatever is kept of it.
TEST(EngineValues, APromptIsReportedAsAnAnswerWouldBe) {
  const std::vector<TokenId> prompt = tiny().prompt(150);
  Request reported = greedy_request(prompt, 0);
  reported.num_logprobs = 2;
  reported.reports_prompt = true;
  const std::vector<TokenEvent> tokens = token_events(reported);
  ASSERT_EQ(tokens.size(), prompt.size());
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    EXPECT_TRUE(tokens[i].is_prompt);
    EXPECT_EQ(tokens[i].token_id, prompt[i]);
    EXPECT_EQ(tokens[i].logprob.has_value(), i > 0);
    EXPECT_EQ(tokens[i].top_logprobs.size(), i > 0 ? 2U : 0U);
  }
  for (const std::size_t i : {1UL, 31UL, 32UL, 33UL, 64UL, 149UL}) {
    Request before = greedy_request({prompt.begin(), prompt.begin() + static_cast<std::ptrdiff_t>(i)}, 1);
    before.num_logprobs = tiny().model().config().V;
    const TokenEvent next = token_events(before).at(0);
    const auto found = std::ranges::find(next.top_logprobs, prompt[i], &TokenLogprob::token_id);
    EXPECT_NEAR(*tokens[i].logprob, found->logprob, 1e-4) << i;
    EXPECT_EQ(tokens[i].top_logprobs[0].token_id, next.token_id) << i;
  }
  const auto engine = tiny().make_engine({.num_sequences = 3, .prefill_chunk_tokens = 64, .num_kept_prefixes = 4});
  reported.max_new_tokens = 3;
  for (std::size_t round = 0; round < 2; ++round) {
    Answers answers;
    const std::uint32_t id = submit(*engine, reported).value;
    submit(*engine, greedy_request(prompt, 4));
    submit(*engine, greedy_request(tiny().prompt(100, 1), 0));
    while (!engine->idle()) step_into(answers, *engine);
    EXPECT_EQ(answers[id].finish->num_cached_tokens, 0U);
    EXPECT_EQ(answers[id].tokens, run_alone(tiny(), greedy_request(prompt, 3)).tokens);
    EXPECT_TRUE(answers[id + 2].tokens.empty());
    EXPECT_EQ(answers[id + 2].reason(), FinishReason::kLength);
    ASSERT_EQ(answers[id].prompt.size(), prompt.size());
    for (std::size_t i = 1; i < prompt.size(); ++i) EXPECT_EQ(answers[id].prompt[i].logprob, tokens[i].logprob);
  }
}

// Damage that comes in the middle of an answer: the tokens before it stand.
TEST(EngineValues, AnAnswerKeepsWhatCameBeforeTheDamage) {
  const Request request = greedy_request(tiny().prompt(30), 20);
  const std::vector<TokenId> tokens = run_alone(tiny(), request).tokens;
  const TokenId damaged = tokens[5];
  ASSERT_EQ(std::ranges::count(request.prompt, damaged), 0);
  const auto end = std::ranges::find(tokens, damaged) + 1;  // sampled once, then it meets its own embedding
  const Qwen3Next model = damaged_model(damaged);
  auto engine = Engine::make(model, tiny().ops(), {.context_tokens = 64});
  ASSERT_TRUE(engine.ok()) << engine.message();
  submit(**engine, request);
  Answers answers;
  run_to_end(answers, **engine);
  EXPECT_EQ(answers[0].tokens, std::vector<TokenId>(tokens.begin(), end));
  EXPECT_EQ(answers[0].reason(), FinishReason::kError);
}

}  // namespace
}  // namespace qnext::test
