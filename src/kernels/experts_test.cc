#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/compare.h"
#include "kernels/dispatch.h"
#include "kernels/random_weight.h"

namespace qnext {
namespace {

// ---- Routing ----

struct Routed {
  std::vector<std::uint32_t> ids;
  std::vector<float> weights;
};

Routed route(const KernelTable& table, const std::vector<float>& logits, std::size_t num_experts,
             std::size_t num_active, bool normalize) {
  const std::size_t num_tokens = logits.size() / num_experts;
  Routed out{std::vector<std::uint32_t>(num_tokens * num_active), std::vector<float>(num_tokens * num_active)};
  table.route_top_k(View<std::uint32_t>(out.ids.data(), {num_tokens, num_active}),
                    View<float>(out.weights.data(), {num_tokens, num_active}),
                    View<const float>(logits.data(), {num_tokens, num_experts}), normalize, {0, num_tokens});
  return out;
}

TEST(RouteTopK, AgreesWithRef) {
  const auto tables = available_tables();
  for (const auto& [num_experts, num_active] :
       {std::pair<std::size_t, std::size_t>{512, 10}, {128, 8}, {33, 5}, {7, 7}, {1, 1}, {17, 16}}) {
    std::vector<float> logits = random_floats(65 * num_experts, 1);
    for (float& logit : logits) logit = std::round(logit * 64) / 16;  // with ties, and large enough for tiny p
    for (const bool normalize : {false, true}) {
      const Routed expected = route(tables[0], logits, num_experts, num_active, normalize);
      for (const KernelTable& table : tables.subspan(1)) {
        SCOPED_TRACE(testing::Message() << table.name << " E " << num_experts << " A " << num_active);
        const Routed actual = route(table, logits, num_experts, num_active, normalize);
        EXPECT_EQ(actual.ids, expected.ids);
        // e^(l - max) with l - max rounded once (|l - max| <= 32) and an exp of 2 ulp, times a quotient of the same.
        expect_close(actual.weights, expected.weights, 2 * (32 + 2 + 1) * 0x1p-24);
      }
    }
  }
}

TEST(RouteTopK, LargestFirstAndTiesToTheLowerIndex) {
  const std::vector<float> logits = {1, 3, 2, 3, 0, 2};
  for (const KernelTable& table : available_tables()) {
    SCOPED_TRACE(table.name);
    const Routed routed = route(table, logits, 6, 4, true);
    EXPECT_EQ(routed.ids, (std::vector<std::uint32_t>{1, 3, 2, 5}));
    const double total = 2 * (1 + std::exp(-1.0));
    const auto high = static_cast<float>(1 / total), low = static_cast<float>(std::exp(-1.0) / total);
    expect_close(routed.weights, std::vector<float>{high, high, low, low}, 4 * 0x1p-24);
  }
}

TEST(RouteTopK, ExtremeLogitsGiveFiniteWeights) {
  const std::vector<float> logits = {1e30f, -1e30f, 3e38f, -3e38f, -INFINITY, 0};
  for (const KernelTable& table : available_tables()) {
    SCOPED_TRACE(table.name);
    const Routed routed = route(table, logits, 6, 3, true);
    EXPECT_EQ(routed.ids, (std::vector<std::uint32_t>{2, 0, 5}));
    expect_close(routed.weights, std::vector<float>{1, 0, 0}, 0.0);
  }
}

TEST(RouteTopK, NaNsAreChosenLastAndIdsStayInRange) {
  const std::vector<float> logits = {NAN, 1, NAN, 2, NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN};
  for (const KernelTable& table : available_tables()) {
    SCOPED_TRACE(table.name);
    const Routed routed = route(table, logits, 6, 3, true);
    EXPECT_EQ(routed.ids, (std::vector<std::uint32_t>{3, 1, 0, 0, 1, 2}));
  }
}

// ---- Experts ----

struct Experts {
  std::size_t width, expert_width;
  std::vector<RandomWeight> store;
  std::vector<Weight> gate, up, down;

  Experts(DType type, std::size_t num_experts, std::size_t d, std::size_t f) : width(d), expert_width(f) {
    for (std::size_t e = 0; e < num_experts; ++e) {
      const auto seed = static_cast<std::uint32_t>(100 * e);
      gate.push_back(store.emplace_back(type, f, d, seed).weight);
      up.push_back(store.emplace_back(type, f, d, seed + 10).weight);
      down.push_back(store.emplace_back(type, d, f, seed + 20).weight);
    }
  }
  ExpertWeights weights() const { return {.gate = gate, .up = up, .down = down}; }
};

// Routing of T tokens to A of E experts each; expert E - 1 gets none, expert 0 every token.
struct Pairs {
  std::vector<std::uint32_t> begin, token;
  std::vector<float> weight;

  Pairs(std::size_t num_tokens, std::size_t num_experts, std::size_t num_active) {
    std::mt19937 random(7);
    std::vector<std::vector<std::uint32_t>> tokens_of(num_experts);
    std::vector<std::uint32_t> others(num_experts - 2);
    for (std::size_t i = 0; i < others.size(); ++i) others[i] = static_cast<std::uint32_t>(i + 1);
    for (std::uint32_t t = 0; t < num_tokens; ++t) {
      tokens_of[0].push_back(t);
      std::shuffle(others.begin(), others.end(), random);
      for (std::size_t i = 0; i + 1 < num_active; ++i) tokens_of[others[i]].push_back(t);
    }
    std::uniform_real_distribution<float> share(0.05f, 0.5f);
    for (const auto& tokens : tokens_of) {
      begin.push_back(static_cast<std::uint32_t>(token.size()));
      for (std::uint32_t t : tokens) token.push_back(t), weight.push_back(share(random));
    }
    begin.push_back(static_cast<std::uint32_t>(token.size()));
  }
  Routing routing() const { return {.expert_begin = begin, .pair_token = token, .pair_weight = weight}; }
};

std::vector<float> run_hidden(const KernelTable& table, const std::vector<float>& x, const Pairs& pairs,
                              const Experts& experts, std::initializer_list<Range> parts) {
  std::vector<float> hidden(pairs.token.size() * experts.expert_width, NAN);
  for (const Range part : parts) {
    table.expert_hidden(View<float>(hidden.data(), {pairs.token.size(), experts.expert_width}),
                        View<const float>(x.data(), {x.size() / experts.width, experts.width}), pairs.routing(),
                        experts.weights(), part);
  }
  return hidden;
}

std::vector<float> run_output(const KernelTable& table, const std::vector<float>& before,
                              const std::vector<float>& hidden, const Pairs& pairs, const Experts& experts,
                              std::initializer_list<Range> parts) {
  std::vector<float> out = before;
  for (const Range part : parts) {
    table.expert_output(View<float>(out.data(), {out.size() / experts.width, experts.width}),
                        View<const float>(hidden.data(), {pairs.token.size(), experts.expert_width}), pairs.routing(),
                        experts.weights(), part);
  }
  return out;
}

// sum_k |x_k w_k| at its largest over the rows of the weights and of x.
double largest_norm(const std::vector<float>& x, const std::vector<Weight>& weights) {
  double largest = 0;
  for (const Weight& w : weights) {
    std::vector<float> row(w.cols);
    for (std::size_t r = 0; r < w.rows; ++r) {
      decode_row(row.data(), w, r);
      for (std::size_t t = 0; t < x.size() / w.cols; ++t) {
        double norm = 0;
        for (std::size_t k = 0; k < w.cols; ++k) norm += std::abs(static_cast<double>(x[t * w.cols + k]) * row[k]);
        largest = std::max(largest, norm);
      }
    }
  }
  return largest;
}

class ExpertsOfType : public testing::TestWithParam<DType> {};

INSTANTIATE_TEST_SUITE_P(Experts, ExpertsOfType,
                         testing::Values(DType::kF32, DType::kBF16, DType::kF8E4M3, DType::kQ8_0, DType::kQ4_K,
                                         DType::kQ6_K, DType::kMXFP4),
                         [](const auto& info) { return std::string(dtype_info(info.param).name); });

TEST_P(ExpertsOfType, AgreeWithRef) {
  const bool plain = dtype_info(GetParam()).block_elements == 1;
  const Experts experts(GetParam(), 6, plain ? 147 : 512, plain ? 37 : 256);
  const auto tables = available_tables();
  for (const std::size_t num_tokens : {1, 2, 63, 64, 65, 150}) {
    const Pairs pairs(num_tokens, 6, 3);
    std::vector<float> x = random_floats(num_tokens * experts.width, 2);
    for (float& value : x) value *= 0.05f;
    const double gate_norm = largest_norm(x, experts.gate), up_norm = largest_norm(x, experts.up);
    const Range f{0, experts.expert_width}, d{0, experts.width};
    const std::vector<float> hidden = run_hidden(tables[0], x, pairs, experts, {f});
    const std::vector<float> before = random_floats(num_tokens * experts.width, 3);
    const std::vector<float> out = run_output(tables[0], before, hidden, pairs, experts, {d});
    const double down_norm = largest_norm(hidden, experts.down);
    for (const KernelTable& table : tables.subspan(1)) {
      SCOPED_TRACE(testing::Message() << table.name << " T " << num_tokens);
      // A product of two sums, each K * eps * norm off; silu's slope is at most 1.1, and it adds its own few ulp.
      const double hidden_tolerance = (2.1 * static_cast<double>(experts.width) + 8) * 0x1p-24 * gate_norm * up_norm;
      expect_close(run_hidden(table, x, pairs, experts, {f}), hidden, hidden_tolerance);
      // Three weighted sums (weights at most 0.5), each rounded when it is scaled and when it is added.
      const double out_tolerance =
          3 * ((0.5 * static_cast<double>(experts.expert_width) + 2) * down_norm + max_abs(out) + max_abs(before)) *
          0x1p-24;
      expect_close(run_output(table, before, hidden, pairs, experts, {d}), out, out_tolerance);
    }
  }
}

TEST_P(ExpertsOfType, ATokenAloneHasTheBitsThatItHasInABatch) {
  const Experts experts(GetParam(), 4, 512, 256);
  constexpr std::size_t kNumTokens = 80;
  const Pairs all(kNumTokens, 4, 2);
  const std::vector<float> x = random_floats(kNumTokens * experts.width, 4);
  const std::vector<float> before = random_floats(kNumTokens * experts.width, 5);
  for (const KernelTable& table : available_tables()) {
    SCOPED_TRACE(table.name);
    // In a batch, and with the columns dealt out to three threads.
    const auto hidden = run_hidden(table, x, all, experts, {{0, 13}, {13, 64}, {64, 256}});
    const auto out = run_output(table, before, hidden, all, experts, {{0, 101}, {101, 104}, {104, 512}});
    for (std::uint32_t t = 0; t < kNumTokens; t += 13) {
      Pairs alone(1, 4, 2);
      alone.begin.assign(1, 0);
      alone.token.clear();
      alone.weight.clear();
      for (std::size_t e = 0; e < 4; ++e) {
        for (std::size_t i = all.begin[e]; i < all.begin[e + 1]; ++i) {
          if (all.token[i] == t) alone.token.push_back(0), alone.weight.push_back(all.weight[i]);
        }
        alone.begin.push_back(static_cast<std::uint32_t>(alone.token.size()));
      }
      const auto row = [&](const std::vector<float>& rows) {
        const auto first = rows.begin() + static_cast<std::ptrdiff_t>(t * experts.width);
        return std::vector<float>(first, first + static_cast<std::ptrdiff_t>(experts.width));
      };
      const auto own_hidden = run_hidden(table, row(x), alone, experts, {{0, 256}});
      expect_same_bits(run_output(table, row(before), own_hidden, alone, experts, {{0, 512}}), row(out));
    }
  }
}

}  // namespace
}  // namespace qnext
