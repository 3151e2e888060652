#include "engine/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "engine/philox.h"
#include "tensor/safetensors.h"

namespace qnext {
namespace {

std::vector<float> random_logits(std::size_t count, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, 3.0f);
  std::vector<float> out(count);
  for (float& logit : out) logit = normal(random);
  return out;
}

// distribution() as a dense row.
std::vector<double> probabilities(Sampler& sampler, std::span<const float> logits, const SamplingParams& params,
                                  const TokenHistory& history = {}) {
  std::vector<double> out(logits.size(), 0.0);
  const auto candidates = sampler.distribution(logits, history, params);
  EXPECT_TRUE(candidates.ok());
  for (const Candidate& candidate : *candidates)
    out[static_cast<std::size_t>(candidate.token_id)] = candidate.probability;
  return out;
}

// ---- Against transformers ------------------------------------------------------------------------------------------

struct GoldenChain {
  const char* name;
  SamplingParams params;
};

class GoldenChainTest : public testing::TestWithParam<GoldenChain> {};

TEST_P(GoldenChainTest, ProbabilitiesAreTransformers) {
  const auto file = Safetensors::open(QNEXT_SOURCE_DIR "/tests/data/sampling/sampling.safetensors");
  ASSERT_TRUE(file.ok()) << file.message();
  const TensorEntry* logits = file->find("logits");
  const TensorEntry* previous = file->find("previous");
  const TensorEntry* expected = file->find(std::string("probs.") + GetParam().name);
  ASSERT_TRUE(logits != nullptr && previous != nullptr && expected != nullptr);
  const std::size_t num_rows = logits->shape[0];
  const std::size_t width = logits->shape[1];
  const std::size_t num_previous = previous->shape[1];
  Sampler sampler(width);
  for (std::size_t row = 0; row < num_rows; ++row) {
    TokenHistory history;
    const auto* ids = reinterpret_cast<const TokenId*>(previous->data) + row * num_previous;
    for (std::size_t i = 0; i < num_previous; ++i) history.add_answer(ids[i]);
    const std::span<const float> row_logits{reinterpret_cast<const float*>(logits->data) + row * width, width};
    const std::vector<double> actual = probabilities(sampler, row_logits, GetParam().params, history);
    for (std::size_t i = 0; i < width; ++i) {
      const float want = reinterpret_cast<const float*>(expected->data)[row * width + i];
      EXPECT_EQ(actual[i] > 0, want > 0) << "row " << row << " token " << i;
      // Golden data is f32 throughout. A scaled logit, at most 18 here, is off by 2^-24 of itself, the exponential by
      // as much times the logit: relative 18 * 2^-24 for numerator and sum each, and 400 additions of 2^-24.
      EXPECT_NEAR(actual[i], want, want * (2 * 18 + 400) * 0x1p-24 + 1e-30) << "row " << row << " token " << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Chains, GoldenChainTest,
    testing::Values(
        GoldenChain{"rep1.3", {.repetition_penalty = 1.3f}}, GoldenChain{"presence1.5", {.presence_penalty = 1.5f}},
        GoldenChain{"frequency0.4", {.frequency_penalty = 0.4f}}, GoldenChain{"temp0.7", {.temperature = 0.7f}},
        GoldenChain{"topk20", {.top_k = 20}}, GoldenChain{"topp0.8", {.top_p = 0.8f}},
        GoldenChain{"minp0.05", {.min_p = 0.05f}},
        GoldenChain{"instruct", {.temperature = 0.7f, .top_k = 20, .top_p = 0.8f}},
        GoldenChain{"thinking", {.temperature = 0.6f, .top_k = 20, .top_p = 0.95f}},
        GoldenChain{"all",
                    {.temperature = 1.2f, .top_k = 50, .top_p = 0.9f, .min_p = 0.02f, .repetition_penalty = 1.05f}}),
    [](const auto& info) {
      std::string name = info.param.name;
      std::erase_if(name, [](char c) { return !std::isalnum(static_cast<unsigned char>(c)); });
      return name;
    });

// ---- Each rule ----------------------------------------------------------------------------------------------------

TEST(Sampler, GreedyTakesTheLowestIdOfEquals) {
  Sampler sampler(5);
  const std::vector<float> logits = {1, 7, 3, 7, 7};
  for (std::size_t position : {0u, 1u, 2u}) {
    EXPECT_EQ(*sampler.sample(logits, {}, {.temperature = 0}, position), 1);
  }
}

TEST(Sampler, GreedySeesPenaltiesAndBias) {
  Sampler sampler(4);
  const std::vector<float> logits = {5, 4, 3, 2};
  TokenHistory history;
  history.add_prompt(std::vector<TokenId>{0});
  const SamplingParams greedy{.temperature = 0};
  SamplingParams params = greedy;
  params.presence_penalty = 2;  // the prompt's tokens do not count
  EXPECT_EQ(*sampler.sample(logits, history, params, 1), 0);
  history.add_answer(0);
  EXPECT_EQ(*sampler.sample(logits, history, params, 1), 1);
  params = greedy;
  params.repetition_penalty = 2;
  EXPECT_EQ(*sampler.sample(logits, history, params, 1), 1);
  params = greedy;
  params.logit_bias = {{.token_id = 3, .bias = 10}};
  EXPECT_EQ(*sampler.sample(logits, history, params, 1), 3);
}

TEST(Sampler, RepetitionPenaltyCountsPromptTokensOnceAndPushesNegativeLogitsDown) {
  Sampler sampler(3);
  TokenHistory history;
  history.add_prompt(std::vector<TokenId>{1, 1, 1});
  const std::vector<float> logits = {0, -1, 0};
  const auto actual = probabilities(sampler, logits, {.repetition_penalty = 2}, history);
  EXPECT_NEAR(actual[1] / actual[0], std::exp(-2.0), 1e-15);
}

TEST(Sampler, TopKEqualsASortForAnyK) {
  std::vector<float> logits = random_logits(1000, 1);
  for (std::size_t i = 0; i < 300; ++i) logits[i] = std::round(logits[i]);  // many ties
  std::vector<TokenId> sorted(logits.size());
  std::iota(sorted.begin(), sorted.end(), 0);
  std::ranges::stable_sort(sorted, std::greater{}, [&](TokenId id) { return logits[static_cast<std::size_t>(id)]; });
  Sampler sampler(logits.size());
  for (std::size_t k : {1u, 2u, 20u, 499u, 500u, 999u}) {
    const auto candidates = sampler.distribution(logits, {}, {.top_k = k});
    ASSERT_TRUE(candidates.ok());
    ASSERT_EQ(candidates->size(), k);
    for (std::size_t i = 0; i < k; ++i) EXPECT_EQ((*candidates)[i].token_id, sorted[i]) << "k " << k << " rank " << i;
  }
  EXPECT_EQ(sampler.distribution(logits, {}, {.top_k = 1000})->size(), 1000u);
  EXPECT_EQ(sampler.distribution(logits, {}, {.top_k = 5000})->size(), 1000u);
}

TEST(Sampler, TopPKeepsTheFewestThatReachP) {
  const std::vector<float> logits = random_logits(5000, 2);
  Sampler sampler(logits.size());
  std::vector<double> all = probabilities(sampler, logits, {});
  std::ranges::sort(all, std::greater{});
  for (float p : {0.0f, 0.01f, 0.3f, 0.9f, 0.999f}) {
    std::size_t num_expected = 0;
    for (double sum = 0; num_expected == 0 || sum < p; ++num_expected) sum += all[num_expected];
    EXPECT_EQ(sampler.distribution(logits, {}, {.top_p = p})->size(), num_expected) << p;
  }
}

TEST(Sampler, TopPKeepsTheLowerIdsOfEquals) {
  std::vector<float> logits = random_logits(2000, 8);
  for (float& logit : logits) logit = std::round(logit);  // some twenty values in all
  std::vector<TokenId> sorted(logits.size());
  std::iota(sorted.begin(), sorted.end(), 0);
  std::ranges::stable_sort(sorted, std::greater{}, [&](TokenId id) { return logits[static_cast<std::size_t>(id)]; });
  Sampler sampler(logits.size());
  for (float p : {0.05f, 0.5f, 0.8f, 0.99f}) {
    for (std::size_t top_k : {0u, 700u}) {
      const auto candidates = sampler.distribution(logits, {}, {.top_k = top_k, .top_p = p});
      ASSERT_TRUE(candidates.ok());
      std::vector<TokenId> kept;
      for (const Candidate& candidate : *candidates) kept.push_back(candidate.token_id);
      std::vector<TokenId> likeliest(sorted.begin(), sorted.begin() + static_cast<std::ptrdiff_t>(kept.size()));
      std::ranges::sort(kept);
      std::ranges::sort(likeliest);
      EXPECT_EQ(kept, likeliest) << p << " of the " << top_k << " likeliest";
    }
  }
}

TEST(Sampler, ProbabilitiesSumToOneAtEveryTemperature) {
  const std::vector<float> logits = random_logits(3000, 3);
  Sampler sampler(logits.size());
  for (float temperature : {1e-30f, 1e-3f, 0.5f, 1.0f, 1000.0f}) {
    const auto actual = probabilities(sampler, logits, {.temperature = temperature});
    EXPECT_NEAR(std::accumulate(actual.begin(), actual.end(), 0.0), 1.0, 3000 * 0x1p-53) << temperature;
  }
}

TEST(Sampler, LogitsThatAreNotFiniteAreAnError) {
  for (float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                    -std::numeric_limits<float>::infinity()}) {
    for (std::size_t place : {0u, 50u, 99u}) {
      std::vector<float> logits = random_logits(100, 4);
      logits[place] = bad;
      Sampler sampler(logits.size());
      TokenHistory history;
      history.add_answer(static_cast<TokenId>(place));
      for (float temperature : {0.0f, 1.0f}) {
        for (float penalty : {0.0f, 1.0f}) {
          const auto token =
              sampler.sample(logits, history, {.temperature = temperature, .presence_penalty = penalty}, 0);
          ASSERT_FALSE(token.ok()) << bad << " at " << place;
          EXPECT_NE(token.message().find("not finite"), std::string::npos);
        }
      }
    }
  }
}

TEST(Sampler, ExtremeButAllowedParametersNeverOverflow) {
  const std::vector<float> logits = {3e4f, -3e4f, 0, 1};
  TokenHistory history;
  for (int i = 0; i < 1000; ++i) history.add_answer(0);
  Sampler sampler(logits.size());
  for (float sign : {-1.0f, 1.0f}) {
    const SamplingParams params{.temperature = 1e-30f,
                                .repetition_penalty = sign > 0 ? 100.0f : 0.01f,
                                .presence_penalty = sign * 100,
                                .frequency_penalty = sign * 100,
                                .logit_bias = {{.token_id = 1, .bias = sign * 10'000}}};
    ASSERT_TRUE(check_sampling_params(params, 4).ok());
    EXPECT_TRUE(sampler.sample(logits, history, params, 0).ok());
  }
}

// ---- Draws --------------------------------------------------------------------------------------------------------

TEST(Sampler, DrawsFollowTheDistribution) {
  const std::vector<float> logits = random_logits(40, 5);
  Sampler sampler(logits.size());
  const SamplingParams params{.temperature = 0.8f, .top_k = 10, .seed = 42};
  const std::vector<double> expected = probabilities(sampler, logits, params);
  constexpr std::size_t kNumDraws = 100'000;
  std::vector<std::size_t> num_drawn(logits.size(), 0);
  for (std::size_t position = 0; position < kNumDraws; ++position) {
    ++num_drawn[static_cast<std::size_t>(*sampler.sample(logits, {}, params, position))];
  }
  for (std::size_t i = 0; i < logits.size(); ++i) {  // within 5 standard deviations of a binomial
    const double deviation = std::sqrt(kNumDraws * expected[i] * (1 - expected[i]));
    EXPECT_NEAR(static_cast<double>(num_drawn[i]), kNumDraws * expected[i], 5 * deviation) << i;
  }
}

// Pearson's chi-square over a range of seeds at one position, with each cut: for d degrees of freedom it has the mean d
// and the variance 2 d.
TEST(Sampler, DrawsOfManySeedsFollowTheDistribution) {
  const std::vector<float> logits = random_logits(60, 9);
  Sampler sampler(logits.size());
  constexpr std::size_t kNumSeeds = 50'000;
  for (SamplingParams params : {SamplingParams{.temperature = 1.5f}, SamplingParams{.top_k = 12},
                                SamplingParams{.top_p = 0.9f}, SamplingParams{.temperature = 2, .min_p = 0.05f}}) {
    const std::vector<double> expected = probabilities(sampler, logits, params);
    std::vector<double> num_drawn(logits.size(), 0);
    for (params.seed = 0; params.seed < kNumSeeds; ++params.seed) {
      ++num_drawn[static_cast<std::size_t>(*sampler.sample(logits, {}, params, 1234))];
    }
    double chi_square = 0;
    double rare_expected = 0;  // cells too small for the approximation, in one
    double rare_drawn = 0;
    double num_cells = 0;
    for (std::size_t i = 0; i < logits.size(); ++i) {
      const double want = kNumSeeds * expected[i];
      ASSERT_TRUE(want > 0 || num_drawn[i] == 0) << i;
      if (want < 10) {
        rare_expected += want;
        rare_drawn += num_drawn[i];
        continue;
      }
      chi_square += (num_drawn[i] - want) * (num_drawn[i] - want) / want;
      ++num_cells;
    }
    EXPECT_NEAR(rare_drawn, rare_expected, 5 * std::sqrt(rare_expected + 1));
    const double freedom = num_cells - 1;
    EXPECT_NEAR(chi_square, freedom, 5 * std::sqrt(2 * freedom)) << num_cells << " cells";
  }
}

TEST(Sampler, DrawsDependOnSeedAndPositionAlone) {
  const std::vector<float> logits = random_logits(500, 6);
  const auto draws = [&](Sampler& sampler, std::uint64_t seed) {
    std::vector<TokenId> out;
    for (std::size_t position = 0; position < 50; ++position) {
      out.push_back(*sampler.sample(logits, {}, {.temperature = 1.5f, .seed = seed}, position));
    }
    return out;
  };
  Sampler fresh(500);
  Sampler used(500);
  (void)draws(used, 99);
  EXPECT_EQ(draws(fresh, 7), draws(used, 7));
  EXPECT_NE(draws(fresh, 7), draws(fresh, 8));
  EXPECT_NE(draws(fresh, 7), draws(fresh, 7 + (std::uint64_t{1} << 32)));
}

// Known answers: Random123's kat_vectors, philox4x32 with 10 rounds.
TEST(Philox, KnownAnswers) {
  using Counter = std::array<std::uint32_t, 4>;
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}), (Counter{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  constexpr std::uint32_t kOnes = 0xffffffff;
  EXPECT_EQ(philox4x32({kOnes, kOnes, kOnes, kOnes}, {kOnes, kOnes}),
            (Counter{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Counter{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, EveryBitOfSeedAndPositionCounts) {
  const double base = uniform_at(0, 0);
  for (int bit = 0; bit < 64; ++bit) {
    EXPECT_NE(uniform_at(std::uint64_t{1} << bit, 0), base) << bit;
    EXPECT_NE(uniform_at(0, std::uint64_t{1} << bit), base) << bit;
    EXPECT_NE(uniform_at(0, std::uint64_t{1} << bit), uniform_at(std::uint64_t{1} << bit, 0)) << bit;
  }
}

TEST(Philox, UniformStaysBelowOne) {
  double sum = 0;
  constexpr int kNumDraws = 10'000;
  for (int i = 0; i < kNumDraws; ++i) {
    const double value = uniform_at(1, static_cast<std::uint64_t>(i));
    ASSERT_GE(value, 0.0);
    ASSERT_LT(value, 1.0);
    sum += value;
  }
  EXPECT_NEAR(sum / kNumDraws, 0.5, 5 * std::sqrt(1.0 / 12 / kNumDraws));  // 5 standard deviations of a mean
}

// ---- Log-probabilities --------------------------------------------------------------------------------------------

TEST(Logprobs, AreTheLogSoftmaxOfTheRow) {
  const std::vector<float> logits = {1000, 999, -1000, 1000};
  const double log_total = 1000 + std::log(2 + std::exp(-1.0));
  const Logprobs actual = logprobs_of(logits, 1, 3);
  const double tolerance = 1001 * 0x1p-24;  // the result is a float, the sum may cancel 1000
  EXPECT_NEAR(actual.chosen, 999 - log_total, tolerance);
  ASSERT_EQ(actual.top.size(), 3u);
  EXPECT_EQ(actual.top[0].token_id, 0);
  EXPECT_EQ(actual.top[1].token_id, 3);
  EXPECT_EQ(actual.top[2].token_id, 1);
  EXPECT_NEAR(actual.top[0].logprob, 1000 - log_total, tolerance);
  EXPECT_TRUE(logprobs_of(logits, 0, 0).top.empty());
  EXPECT_EQ(logprobs_of(logits, 0, 4).top.back().token_id, 2);
}

}  // namespace
}  // namespace qnext
