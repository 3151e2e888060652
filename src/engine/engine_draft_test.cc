// Drafting: what is said must not show it, to the bit.
#include <gtest/gtest.h>

#include <random>

#include "engine/agreeing_model.h"
#include "engine/engine_test_support.h"

namespace qnext::test {
namespace {

constexpr float kMostlyAgrees = 1.0f / 64;

Request sampled_request(std::vector<TokenId> prompt, std::size_t max_new_tokens, std::uint64_t seed) {
  Request request = greedy_request(std::move(prompt), max_new_tokens);
  request.sampling.temperature = 0.6f;
  request.sampling.seed = seed;
  return request;
}

double acceptance(const EngineStats& stats) {
  return static_cast<double>(stats.num_accepted_tokens) / static_cast<double>(stats.num_drafted_tokens);
}

class EngineDraftTest : public testing::Test {
 protected:
  EngineDraftTest() : agreeing_(agreeing_weights(kMostlyAgrees)) {}

  std::vector<Answer> run_all(Engine& engine, const std::vector<Request>& requests) {
    std::vector<RequestId> ids;
    for (const Request& request : requests) ids.push_back(submit(engine, request));
    Answers answers;
    while (!engine.idle()) step_into(answers, engine);
    std::vector<Answer> out;
    for (RequestId id : ids) out.push_back(answers[id.value]);
    return out;
  }

  TinyModel agreeing_;
};

TEST_F(EngineDraftTest, AnyDepthGivesTheSameAnswerInFewerSteps) {
  const Request request = greedy_request(agreeing_.prompt(100), 60);
  const Answer expected = run_alone(agreeing_, request);
  for (std::size_t depth : {1UL, 2UL, 4UL, 8UL}) {
    SCOPED_TRACE(depth);
    const auto engine = agreeing_.make_engine({.max_drafts = depth, .adapts_drafts = false});
    const RequestId id = submit(*engine, request);
    Answers answers;
    std::size_t num_steps = 0;
    for (; !engine->idle(); ++num_steps) step_into(answers, *engine);
    expect_same(answers[id.value], expected);
    EXPECT_GT(acceptance(engine->stats()), 0.5);
    EXPECT_LT(num_steps, 40U);
    EXPECT_EQ(engine->stats().num_decode_tokens, 59U);
  }
}

// Rows of wrong guesses are written over, block for block.
TEST_F(EngineDraftTest, BlocksOfKeysAndValuesGoBackToo) {
  const TinyModel stubborn("next-tiny");
  for (const TinyModel* model : {&std::as_const(agreeing_), &stubborn}) {
    const Request request = greedy_request(model->prompt(100), 60);
    const auto engine = model->make_engine({.kv_type = DType::kQ8_0, .max_drafts = 4, .adapts_drafts = false});
    expect_same(run_all(*engine, {request})[0], run_alone(*model, request, {.kv_type = DType::kQ8_0}));
    EXPECT_GT(engine->stats().num_drafted_tokens, 0U);
  }
}

TEST_F(EngineDraftTest, WrongGuessesLeaveNoTrace) {
  const TinyModel stubborn("next-tiny");  // random weights: its block knows nothing
  for (std::uint64_t seed = 0; seed < 4; ++seed) {
    const Request request = sampled_request(stubborn.prompt(70, seed), 40, seed);
    const auto engine = stubborn.make_engine({.max_drafts = 3, .adapts_drafts = false});
    expect_same(run_all(*engine, {request})[0], run_alone(stubborn, request));
    EXPECT_GT(engine->stats().num_drafted_tokens, 100U);
    EXPECT_LT(acceptance(engine->stats()), 0.1);
  }
}

TEST_F(EngineDraftTest, EveryEndIsTheSame) {
  const std::vector<TokenId> prompt = agreeing_.prompt(30);
  const std::vector<TokenId> tokens = run_alone(agreeing_, greedy_request(prompt, 30)).tokens;
  for (std::size_t length = 1; length <= 9; ++length) {
    SCOPED_TRACE(length);
    Request cut = greedy_request(prompt, length);
    Request stopped = greedy_request(prompt, 30);
    stopped.stop_token_ids = {tokens[length]};
    Request filled = greedy_request(prompt, 100);  // to the context's end
    const EngineConfig small{.context_tokens = 30 + length};
    EngineConfig config{.num_sequences = 2, .max_drafts = 4, .adapts_drafts = false};
    const std::vector<Answer> answers = run_all(*agreeing_.make_engine(config), {cut, stopped});
    expect_same(answers[0], run_alone(agreeing_, cut));
    expect_same(answers[1], run_alone(agreeing_, stopped));
    config.context_tokens = small.context_tokens;
    expect_same(run_all(*agreeing_.make_engine(config), {filled})[0], run_alone(agreeing_, filled, small));
  }
}

using Text = std::vector<TokenId>;

// The top_k tokens that may follow `text`, with their probabilities, from a step without guesses.
std::vector<std::pair<TokenId, double>> next_tokens(const TinyModel& model, const Text& text, std::size_t top_k,
                                                    float temperature) {
  Request request = greedy_request(text, 1);
  request.num_logprobs = top_k;
  const auto engine = model.make_engine({});
  submit(*engine, request);
  std::vector<std::pair<TokenId, double>> out;
  double total = 0;
  for (const Event& event : engine->step()) {
    const auto* token = std::get_if<TokenEvent>(&event.what);
    if (token == nullptr) continue;
    for (const auto& top : token->top_logprobs) {
      out.emplace_back(top.token_id, std::exp(top.logprob / temperature));
      total += out.back().second;
    }
  }
  for (auto& [id, probability] : out) probability /= total;
  return out;
}

// Pearson's, over cells of which at least 5 are expected and one for all others: it has about the mean `freedom` and
// the variance twice that.
struct ChiSquare {
  double value = 0, freedom = 0;
};
ChiSquare chi_square(const std::map<Text, double>& probabilities, std::map<Text, double> counts, double total) {
  ChiSquare out{.freedom = -1};
  double rest_wanted = 0, rest_found = 0;
  const auto add = [&](double found, double wanted) {
    out.value += (found - wanted) * (found - wanted) / wanted;
    ++out.freedom;
  };
  for (const auto& [text, probability] : probabilities) {
    const double wanted = probability * total;
    if (wanted >= 5) {
      add(counts[text], wanted);
    } else {
      rest_wanted += wanted;
      rest_found += counts[text];
    }
  }
  if (rest_wanted > 0) add(rest_found, rest_wanted);
  return out;
}

// All first three tokens of 1e5 draws, the second and third of them mostly guessed.
TEST_F(EngineDraftTest, SamplesWithGuessesFollowTheDistribution) {
  constexpr std::size_t kTopK = 5, kLength = 3, kNumSequences = kPoison ? 3'000 : 33'400;
  constexpr float kTemperature = 1.5f;
  const Text prompt = agreeing_.prompt(3);
  std::map<Text, double> expected = {{{}, 1.0}};
  for (std::size_t i = 0; i < kLength; ++i) {
    std::map<Text, double> longer;
    for (const auto& [text, probability] : expected) {
      Text whole = prompt, more = text;
      whole.insert(whole.end(), text.begin(), text.end());
      more.push_back(0);
      for (const auto& [id, share] : next_tokens(agreeing_, whole, kTopK, kTemperature)) {
        more.back() = id;
        longer[more] = probability * share;
      }
    }
    expected = std::move(longer);
  }

  const auto engine = agreeing_.make_engine({.context_tokens = 64,
                                             .num_sequences = 64,
                                             .max_waiting = kNumSequences,
                                             .max_drafts = 2,
                                             .adapts_drafts = false});
  for (std::uint64_t seed = 0; seed < kNumSequences; ++seed) {
    Request request = greedy_request(prompt, kLength);
    request.num_logprobs.reset();
    request.sampling = {.temperature = kTemperature, .top_k = kTopK, .seed = seed};
    submit(*engine, request);
  }
  std::map<std::uint32_t, Text> texts;
  while (!engine->idle()) {
    for (const Event& event : engine->step()) {
      const auto* token = std::get_if<TokenEvent>(&event.what);
      if (token != nullptr) texts[event.request_id.value].push_back(token->token_id);
    }
  }
  EXPECT_GT(acceptance(engine->stats()), 0.2);  // both ways are taken often
  EXPECT_LT(acceptance(engine->stats()), 0.8);
  std::map<Text, double> counts;
  for (const auto& [id, text] : texts) counts[text] += 1;
  for (const auto& [text, count] : counts) EXPECT_TRUE(expected.contains(text));
  const ChiSquare found = chi_square(expected, counts, kNumSequences);
  EXPECT_GT(found.freedom, kPoison ? 20 : 40);
  EXPECT_NEAR(found.value, found.freedom, 5 * std::sqrt(2 * found.freedom));
}

// Many at once, sampled with penalties, cancelled, in few pages, with prefixes kept: each as alone and undrafted.
TEST_F(EngineDraftTest, RandomTraffic) {
  std::mt19937 random(11);
  const auto below = [&](std::size_t limit) {
    return std::uniform_int_distribution<std::size_t>(0, limit - 1)(random);
  };
  for (const bool adapts : {false, true}) {
    const EngineConfig config{.context_tokens = 512,
                              .num_sequences = 5,
                              .page_tokens = 16,
                              .num_pages = 70,
                              .max_drafts = 3,
                              .adapts_drafts = adapts,
                              .num_kept_prefixes = 6};
    const auto engine = agreeing_.make_engine(config);
    Answers answers;
    std::map<std::uint32_t, Request> requests;
    for (std::size_t i = 0; i < (kPoison ? 15 : 40); ++i) {
      Request request = sampled_request(agreeing_.prompt(1 + below(250), below(3)), 2 + below(40), i);
      if (below(3) == 0) request.sampling.temperature = 0;
      if (below(3) == 0) request.sampling.presence_penalty = 0.5f;
      if (below(3) == 0) request.sampling.repetition_penalty = 1.2f;
      const RequestId id = submit(*engine, request);
      requests[id.value] = request;
      const bool cancels = below(8) == 0;
      for (std::size_t steps = below(6); steps > 0; --steps) step_into(answers, *engine);
      if (cancels) engine->cancel(id);
    }
    while (!engine->idle()) step_into(answers, *engine);
    for (const auto& [id, answer] : answers) {
      SCOPED_TRACE(id);
      if (answer.reason() == FinishReason::kCancelled || answer.reason() == FinishReason::kError) continue;
      expect_same(answer, run_alone(agreeing_, requests[id], {.context_tokens = 512}));
    }
    EXPECT_GT(engine->stats().num_accepted_tokens, adapts ? 0U : 50U);  // so small a model soon guesses no more
  }
}

TEST_F(EngineDraftTest, GuessesAreCountedByDepth) {
  const auto engine = agreeing_.make_engine({.max_drafts = 3, .adapts_drafts = false});
  run_all(*engine, {greedy_request(agreeing_.prompt(40), 60)});
  const auto& counts = engine->stats().guesses_by_depth;
  std::uint64_t num_right = 0;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    EXPECT_LE(counts[i].num_right, counts[i].num_tried);
    EXPECT_EQ(counts[i].num_tried > 0, i < 3);
    EXPECT_LE(counts[i].num_tried, i == 0 ? SIZE_MAX : counts[i - 1].num_right);
    num_right += counts[i].num_right;
  }
  EXPECT_GT(num_right, 20U);
  EXPECT_LE(num_right, engine->stats().num_accepted_tokens);  // but for the last step's
  EXPECT_GE(num_right + 3, engine->stats().num_accepted_tokens);
}

TEST_F(EngineDraftTest, AConversationKeepsItsGuessesGood) {
  const auto engine = agreeing_.make_engine({.max_drafts = 2, .adapts_drafts = false, .num_kept_prefixes = 4});
  std::vector<TokenId> talk = agreeing_.prompt(90);
  for (std::size_t turn = 0; turn < 4; ++turn) {
    const std::uint64_t num_drafted = engine->stats().num_drafted_tokens;
    const std::uint64_t num_accepted = engine->stats().num_accepted_tokens;
    const Answer answer = run_all(*engine, {greedy_request(talk, 30)})[0];
    EXPECT_EQ(answer.tokens, run_alone(agreeing_, greedy_request(talk, 30)).tokens);
    EXPECT_GE(answer.finish->num_cached_tokens, turn > 0 ? 90U : 0U);
    EXPECT_GT(static_cast<double>(engine->stats().num_accepted_tokens - num_accepted),
              0.5 * static_cast<double>(engine->stats().num_drafted_tokens - num_drafted));
    talk.insert(talk.end(), answer.tokens.begin(), answer.tokens.end());
    const std::vector<TokenId> more = agreeing_.prompt(20, turn);
    talk.insert(talk.end(), more.begin(), more.end());
  }
}

// The block catches up with an answer's last tokens, for prompts that go on from it, when the answer is out.
TEST_F(EngineDraftTest, AnAnswersEndWaitsForNoBlock) {
  const auto engine = agreeing_.make_engine({.max_drafts = 2});
  const RequestId id = submit(*engine, greedy_request(agreeing_.prompt(100), 20));
  Answers answers;
  while (!answers[id.value].finish) step_into(answers, *engine);
  EXPECT_FALSE(engine->idle());
  EXPECT_TRUE(engine->step().empty());
  EXPECT_TRUE(engine->idle());
}

TEST(EngineDraft, NeedsAnMtpBlock) {
  const TinyModel tiny("dense-tiny");
  const auto engine = Engine::make(tiny.model(), tiny.ops(), {.context_tokens = 64, .max_drafts = 1});
  ASSERT_FALSE(engine.ok());
  EXPECT_EQ(engine.message(), "max_drafts: found 1, but the model has no MTP block to draft with");
}

}  // namespace
}  // namespace qnext::test
