#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "kernels/compare.h"
#include "kernels/dispatch.h"
#include "kernels/test_tensor.h"

namespace qnext {
namespace {

const KernelTable& ref() {
  return available_tables().front();
}

// ---- Convolution ----------------------------------------------------------------------------------------------------

struct ConvShape {
  std::size_t num_taps;
  std::size_t num_tokens;
  std::size_t num_channels;
};

constexpr ConvShape kConvShapes[] = {{4, 1, 8192}, {4, 65, 128}, {2, 3, 33}, {3, 1, 65},    {3, 2, 100},
                                     {4, 2, 33},   {5, 1, 100},  {5, 3, 65}, {5, 1000, 17}, {4, 63, 1}};

struct ConvResult {
  Tensor out;
  Tensor history;
};

ConvResult convolve(const KernelTable& table, const Tensor& history, View<const float> x, const Tensor& weight) {
  ConvResult result = {.out = Tensor({x.dim(0), x.dim(1)}, kUntouched), .history = history};
  table.causal_conv_silu(result.out, result.history, x, weight, {0, x.dim(1)});
  return result;
}

TEST(CausalConv, EveryTableAgreesWithRef) {
  for (const ConvShape& s : kConvShapes) {
    const Tensor x = random_tensor({s.num_tokens, s.num_channels}, 1);
    const Tensor history = random_tensor({s.num_taps - 1, s.num_channels}, 2);
    const Tensor weight = random_tensor({s.num_taps, s.num_channels}, 3);
    const ConvResult expected = convolve(ref(), history, x, weight);
    const double largest_sum =
        static_cast<double>(s.num_taps) * max_abs(weight.values) * std::max(max_abs(x.values), max_abs(history.values));
    for (const KernelTable& table : available_tables()) {
      SCOPED_TRACE(testing::Message() << table.name << " taps " << s.num_taps << " tokens " << s.num_tokens);
      const ConvResult actual = convolve(table, history, x, weight);
      // silu's slope is at most 1.1.
      const double tolerance = 1.1 * (static_cast<double>(s.num_taps) + 8) * kEpsilon * largest_sum;
      expect_close(actual.out.view, expected.out.view, tolerance);
      expect_same_bits(actual.history.values, expected.history.values);
    }
  }
}

TEST(CausalConv, TapsRunFromOldestToNewest) {
  const Tensor history({2, 1}, {1000.0f, 100.0f});
  const Tensor x({2, 1}, {10.0f, 0.0f});
  const Tensor weight({3, 1}, {1.0f, 2.0f, 3.0f});
  for (const KernelTable& table : available_tables()) {
    SCOPED_TRACE(table.name);
    const ConvResult result = convolve(table, history, x, weight);
    EXPECT_FLOAT_EQ(result.out.values[0], 1000 + 2 * 100 + 3 * 10);  // silu of so much is itself
    EXPECT_FLOAT_EQ(result.out.values[1], 100 + 2 * 10 + 3 * 0);
    EXPECT_EQ(result.history.values, (std::vector<float>{10.0f, 0.0f}));
  }
}

TEST(CausalConv, GoesOnWhereItStoppedToTheBit) {
  for (const std::size_t num_taps : {2, 3, 4, 5}) {
    const Tensor x = random_tensor({65, 33}, 4);
    const Tensor history = random_tensor({num_taps - 1, 33}, 5);
    const Tensor weight = random_tensor({num_taps, 33}, 6);
    for (const KernelTable& table : available_tables()) {
      SCOPED_TRACE(testing::Message() << table.name << " taps " << num_taps);
      const ConvResult whole = convolve(table, history, x, weight);
      Tensor running = history;
      std::vector<float> pieces;
      std::size_t begin = 0;
      for (const std::size_t count : {1, 1, 2, 3, 7, 51}) {
        const ConvResult piece = convolve(table, running, x.view.slice(0, begin, begin + count), weight);
        pieces.insert(pieces.end(), piece.out.values.begin(), piece.out.values.end());
        running.values = piece.history.values;
        running.view = View<float>(running.values.data(), {num_taps - 1, 33});
        begin += count;
      }
      ASSERT_EQ(begin, 65u);
      expect_same_bits(pieces, whole.out.values);
      expect_same_bits(running.values, whole.history.values);
    }
  }
}

TEST(CausalConv, ChannelRangesAddUpToTheWholeAndTouchNothingElse) {
  const Tensor x = random_tensor({5, 100}, 7);
  const Tensor weight = random_tensor({4, 100}, 8);
  const Tensor history = random_tensor({3, 100}, 9);
  for (const KernelTable& table : available_tables()) {
    SCOPED_TRACE(table.name);
    const ConvResult whole = convolve(table, history, x, weight);
    ConvResult parts = {.out = Tensor({5, 100}, kUntouched), .history = history};
    table.causal_conv_silu(parts.out, parts.history, x, weight, {7, 64});
    EXPECT_EQ(parts.out.view(0, 6), kUntouched);
    EXPECT_EQ(parts.out.view(4, 64), kUntouched);
    EXPECT_EQ(parts.history.view(2, 6), history.view(2, 6));
    table.causal_conv_silu(parts.out, parts.history, x, weight, {0, 7});
    table.causal_conv_silu(parts.out, parts.history, x, weight, {64, 100});
    expect_same_bits(parts.out.values, whole.out.values);
    expect_same_bits(parts.history.values, whole.history.values);
  }
}

// ---- The delta rule -------------------------------------------------------------------------------------------------

struct DeltaShape {
  std::size_t num_tokens;
  std::size_t num_key_heads;
  std::size_t num_value_heads;
  std::size_t key_width;
  std::size_t value_width;
};

// The real widths at every interesting T; then Hv/Hk = 1, 2, 3, Dk != Dv, and widths that no vector divides.
constexpr DeltaShape kDeltaShapes[] = {{1, 1, 2, 128, 128},  {63, 1, 2, 128, 128},   {64, 1, 2, 128, 128},
                                       {65, 1, 2, 128, 128}, {1000, 1, 1, 128, 128}, {200, 2, 2, 64, 100},
                                       {70, 1, 3, 33, 65},   {130, 2, 6, 100, 33},   {67, 1, 1, 200, 16},
                                       {5, 1, 2, 16, 1},     {66, 1, 1, 1, 17}};

enum class Regime { kOrdinary, kStrongDecay, kMixedDecay, kNoDecay, kSameKeys, kOppositeKeys, kPositiveKeys };
constexpr Regime kRegimes[] = {Regime::kOrdinary, Regime::kStrongDecay,  Regime::kMixedDecay,  Regime::kNoDecay,
                               Regime::kSameKeys, Regime::kOppositeKeys, Regime::kPositiveKeys};

struct DeltaProblem {
  Tensor q, k, v, log_decay, beta, state;

  DeltaRuleInputs inputs() const { return inputs({0, v.dim(0)}); }
  DeltaRuleInputs inputs(Range tokens) const {
    const auto part = [&](const Tensor& x) { return x.view.slice(0, tokens.begin, tokens.end); };
    return {.q = part(q), .k = part(k), .v = part(v), .log_decay = part(log_decay), .beta = part(beta)};
  }
};

void normalise(Tensor& x, float length) {
  const std::size_t width = x.dim(2);
  for (std::size_t begin = 0; begin < x.values.size(); begin += width) {
    double sum = 0;
    for (std::size_t i = begin; i < begin + width; ++i) sum += static_cast<double>(x.values[i]) * x.values[i];
    const double factor = length / std::sqrt(sum + 1e-6);
    for (std::size_t i = begin; i < begin + width; ++i) x.values[i] = static_cast<float>(x.values[i] * factor);
  }
}

float draw_log_decay(Regime regime, float uniform) {
  if (regime == Regime::kOrdinary) return -0.2f * uniform;
  if (regime == Regime::kStrongDecay) return -30.0f * uniform;
  if (regime == Regime::kMixedDecay) return uniform < 0.1f ? -30.0f : -0.01f;
  return 0.0f;
}

DeltaProblem make_problem(const DeltaShape& s, Regime regime, std::uint32_t seed) {
  DeltaProblem p = {.q = random_tensor({s.num_tokens, s.num_key_heads, s.key_width}, seed),
                    .k = random_tensor({s.num_tokens, s.num_key_heads, s.key_width}, seed + 1),
                    .v = random_tensor({s.num_tokens, s.num_value_heads, s.value_width}, seed + 2),
                    .log_decay = Tensor({s.num_tokens, s.num_value_heads}, 0.0f),
                    .beta = Tensor({s.num_tokens, s.num_value_heads}, 0.0f),
                    .state = random_tensor({s.num_value_heads, s.key_width, s.value_width}, seed + 3, 0.3f)};
  for (std::size_t t = 0; t < s.num_tokens; ++t) {
    for (std::size_t i = 0; i < s.num_key_heads * s.key_width; ++i) {
      float& key = p.k.view.row(t)[i];
      if (regime == Regime::kSameKeys) key = p.k.view.row(0)[i];
      if (regime == Regime::kOppositeKeys) key = p.k.view.row(0)[i] * (t % 2 == 0 ? 1.0f : -1.0f);
      if (regime == Regime::kPositiveKeys) key = std::abs(key);
    }
  }
  normalise(p.k, 1.0f);
  normalise(p.q, 1.0f / std::sqrt(static_cast<float>(s.key_width)));
  std::mt19937 random(seed + 4);
  std::uniform_real_distribution<float> uniform(0.0f, 1.0f);
  for (float& value : p.log_decay.values) value = draw_log_decay(regime, uniform(random));
  for (float& value : p.beta.values) value = regime == Regime::kOrdinary ? uniform(random) : 0.9999f;
  return p;
}

struct DeltaResult {
  Tensor out;
  Tensor state;
};

DeltaResult run(DeltaRule kernel, const DeltaProblem& p) {
  DeltaResult result = {.out = Tensor({p.v.dim(0), p.v.dim(1), p.v.dim(2)}, kUntouched), .state = p.state};
  kernel(result.out, result.state, p.inputs(), {0, p.state.dim(0)});
  return result;
}

// The contract's bound, which holds for 4,096 chained steps: 1e-5 of the largest.
void expect_agreement(const DeltaResult& actual, const DeltaResult& expected) {
  expect_close(actual.out.view, expected.out.view, 1e-5 * max_abs(expected.out.values));
  expect_close(actual.state.view, expected.state.view, 1e-5 * max_abs(expected.state.values));
}

TEST(DeltaRule, StepAndChunkOfEveryTableAgreeWithRefsStep) {
  for (const DeltaShape& s : kDeltaShapes) {
    const DeltaProblem problem = make_problem(s, Regime::kOrdinary, 10);
    const DeltaResult expected = run(ref().delta_rule_step, problem);
    for (const KernelTable& table : available_tables()) {
      SCOPED_TRACE(testing::Message() << table.name << " tokens " << s.num_tokens << " widths " << s.key_width << " "
                                      << s.value_width << " heads " << s.num_value_heads);
      expect_agreement(run(table.delta_rule_step, problem), expected);
      expect_agreement(run(table.delta_rule_chunk, problem), expected);
    }
  }
}

TEST(DeltaRule, HoldsInEveryRegime) {
  for (const Regime regime : kRegimes) {
    for (const DeltaShape& s : {DeltaShape{200, 1, 2, 128, 128}, DeltaShape{130, 1, 1, 33, 20}}) {
      const DeltaProblem problem = make_problem(s, regime, 20);
      const DeltaResult expected = run(ref().delta_rule_step, problem);
      for (const KernelTable& table : available_tables()) {
        SCOPED_TRACE(testing::Message() << table.name << " regime " << static_cast<int>(regime));
        expect_agreement(run(table.delta_rule_step, problem), expected);
        expect_agreement(run(table.delta_rule_chunk, problem), expected);
      }
    }
  }
}

TEST(DeltaRule, HoldsAfter4096ChainedSteps) {
  for (const Regime regime : {Regime::kOrdinary, Regime::kNoDecay}) {
    const DeltaProblem problem = make_problem({4096, 1, 1, 64, 32}, regime, 30);
    const DeltaResult expected = run(ref().delta_rule_step, problem);
    for (const KernelTable& table : available_tables()) {
      SCOPED_TRACE(testing::Message() << table.name << " regime " << static_cast<int>(regime));
      expect_agreement(run(table.delta_rule_step, problem), expected);
      expect_agreement(run(table.delta_rule_chunk, problem), expected);
    }
  }
}

// One head of one component: S <- e^g S, u = beta (v - k S), S <- S + k u, o = q S.
TEST(DeltaRule, IsWhatTheEquationsSay) {
  DeltaProblem p = {.q = Tensor({2, 1, 1}, {2.0f, 3.0f}),
                    .k = Tensor({2, 1, 1}, {0.5f, 1.0f}),
                    .v = Tensor({2, 1, 1}, {1.0f, -2.0f}),
                    .log_decay = Tensor({2, 1}, {std::log(0.5f), 0.0f}),
                    .beta = Tensor({2, 1}, {0.5f, 0.25f}),
                    .state = Tensor({1, 1, 1}, 4.0f)};
  // S = 2; u = 0.5 (1 - 1) = 0; S = 2; o = 4.   u = 0.25 (-2 - 2) = -1; S = 1; o = 3.
  for (const KernelTable& table : available_tables()) {
    for (const DeltaRule kernel : {table.delta_rule_step, table.delta_rule_chunk}) {
      SCOPED_TRACE(table.name);
      const DeltaResult result = run(kernel, p);
      expect_close(result.out.values, std::vector<float>{4.0f, 3.0f}, 1e-6);
      expect_close(result.state.values, std::vector<float>{1.0f}, 1e-6);
    }
  }
}

TEST(DeltaRule, StepsAreTheSameHoweverTheyAreBatched) {
  const DeltaProblem p = make_problem({20, 1, 2, 128, 100}, Regime::kOrdinary, 40);
  for (const KernelTable& table : available_tables()) {
    SCOPED_TRACE(table.name);
    const DeltaResult whole = run(table.delta_rule_step, p);
    DeltaResult pieces = {.out = Tensor({20, 2, 100}, kUntouched), .state = p.state};
    std::size_t begin = 0;
    for (const std::size_t count : {1, 1, 7, 11}) {
      const Range tokens = {begin, begin + count};
      table.delta_rule_step(pieces.out.view.slice(0, tokens.begin, tokens.end), pieces.state, p.inputs(tokens), {0, 2});
      begin += count;
    }
    expect_same_bits(pieces.out.values, whole.out.values);
    expect_same_bits(pieces.state.values, whole.state.values);
  }
}

TEST(DeltaRule, HeadRangesAddUpToTheWholeAndTouchNothingElse) {
  const DeltaProblem p = make_problem({66, 2, 6, 32, 20}, Regime::kOrdinary, 50);
  for (const KernelTable& table : available_tables()) {
    for (const DeltaRule kernel : {table.delta_rule_step, table.delta_rule_chunk}) {
      SCOPED_TRACE(table.name);
      const DeltaResult whole = run(kernel, p);
      DeltaResult parts = {.out = Tensor({66, 6, 20}, kUntouched), .state = p.state};
      kernel(parts.out, parts.state, p.inputs(), {2, 5});  // cuts both key heads' groups
      for (const std::size_t h : {0, 1, 5}) {
        EXPECT_EQ(parts.out.view(65, h, 0), kUntouched);
        EXPECT_EQ(parts.out.view(0, h, 19), kUntouched);
        expect_same_bits(std::span(parts.state.view.row(h), 32 * 20), std::span(p.state.view.row(h), 32 * 20));
      }
      kernel(parts.out, parts.state, p.inputs(), {0, 2});
      kernel(parts.out, parts.state, p.inputs(), {5, 6});
      expect_same_bits(parts.out.values, whole.out.values);
      expect_same_bits(parts.state.values, whole.state.values);
    }
  }
}

// The model's q, k and v are parts of one convolution's rows.
TEST(DeltaRule, ReadsPartsOfWiderRows) {
  const DeltaProblem p = make_problem({70, 2, 4, 16, 24}, Regime::kOrdinary, 60);
  const std::size_t key_row = 2 * 16;
  const std::size_t value_row = 4 * 24;
  Tensor mixed({70, 2 * key_row + value_row}, kUntouched);
  for (std::size_t t = 0; t < 70; ++t) {
    std::copy_n(p.q.view.row(t), key_row, mixed.view.row(t));
    std::copy_n(p.k.view.row(t), key_row, mixed.view.row(t) + key_row);
    std::copy_n(p.v.view.row(t), value_row, mixed.view.row(t) + 2 * key_row);
  }
  DeltaRuleInputs inputs = p.inputs();
  inputs.q = mixed.view.slice(1, 0, key_row).split_last(2);
  inputs.k = mixed.view.slice(1, key_row, 2 * key_row).split_last(2);
  inputs.v = mixed.view.slice(1, 2 * key_row, 2 * key_row + value_row).split_last(4);
  for (const KernelTable& table : available_tables()) {
    for (const DeltaRule kernel : {table.delta_rule_step, table.delta_rule_chunk}) {
      SCOPED_TRACE(table.name);
      const DeltaResult expected = run(kernel, p);
      DeltaResult actual = {.out = Tensor({70, 4, 24}, kUntouched), .state = p.state};
      kernel(actual.out, actual.state, inputs, {0, 4});
      expect_same_bits(actual.out.values, expected.out.values);
      expect_same_bits(actual.state.values, expected.state.values);
    }
  }
}

TEST(DeltaRule, ForgetsEverythingWhereTheDecayIsInfinite) {
  DeltaProblem p = make_problem({70, 1, 1, 16, 20}, Regime::kOrdinary, 70);
  p.log_decay.values[3] = -std::numeric_limits<float>::infinity();
  p.log_decay.values[4] = -1e30f;
  p.log_decay.values[68] = -std::numeric_limits<float>::infinity();
  const DeltaResult expected = run(ref().delta_rule_step, p);
  ASSERT_TRUE(std::isfinite(max_abs(expected.out.values)));
  for (const KernelTable& table : available_tables()) {
    SCOPED_TRACE(table.name);
    expect_agreement(run(table.delta_rule_step, p), expected);
    expect_agreement(run(table.delta_rule_chunk, p), expected);
  }
}

}  // namespace
}  // namespace qnext
