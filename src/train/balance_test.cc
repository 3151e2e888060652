// The routers' losses of a step in two micro-batches, through route() and balance_loss(), against their formulas.
#include "train/balance.h"

#include <gtest/gtest.h>

#include "train/compute.h"

namespace qnext::train {
namespace {

constexpr std::int64_t kExperts = 6, kChosen = 2, kLayers = 2;

struct MicroBatch {
  Bounds bounds;               // of its documents
  std::vector<Tensor> logits;  // by layer, [T, E]
};

// Random logits, in which layers and micro-batches prefer different experts.
std::vector<MicroBatch> some_micro_batches() {
  torch::manual_seed(4);
  std::vector<MicroBatch> out = {{{0, 13, 30, 170}, {}}, {{0, 7, 9, 20}, {}}};
  for (MicroBatch& batch : out) {
    for (std::int64_t layer = 0; layer < kLayers; ++layer) {
      batch.logits.push_back(torch::randn({batch.bounds.back(), kExperts}) + torch::randn({kExperts}));
    }
  }
  return out;
}

double tokens_of(const std::vector<MicroBatch>& batches) {
  double sum = 0;
  for (const MicroBatch& batch : batches) sum += static_cast<double>(batch.bounds.back());
  return sum;
}

// How many of the rows chose each expert: [E].
Tensor choices(const Tensor& logits) {
  return torch::bincount(std::get<1>(logits.topk(kChosen, -1)).reshape({-1}), {}, kExperts).to(torch::kFloat64);
}

// f of each token of a micro-batch's layer: [T, E] or [1, E].
Tensor shares(const std::vector<MicroBatch>& batches, std::size_t batch, std::size_t layer, BalanceScope scope) {
  if (scope == BalanceScope::kSequence) {
    const Bounds& bounds = batches[batch].bounds;
    std::vector<Tensor> out;
    for (std::size_t i = 0; i + 1 < bounds.size(); ++i) {
      const std::int64_t length = bounds[i + 1] - bounds[i];
      const Tensor counts = choices(batches[batch].logits[layer].slice(0, bounds[i], bounds[i + 1]));
      out.push_back((counts / static_cast<double>(length * kChosen)).expand({length, kExperts}));
    }
    return torch::cat(out);
  }
  Tensor counts = choices(batches[batch].logits[layer]);
  if (scope == BalanceScope::kGlobalBatch) {
    for (std::size_t before = 0; before < batch; ++before) counts += choices(batches[before].logits[layer]);
  }
  return (counts / counts.sum()).unsqueeze(0);
}

struct Losses {
  std::vector<double> values;                  // by micro-batch
  std::vector<std::vector<Tensor>> gradients;  // by micro-batch and layer, of its logits
  double balance = 0;
};

// weight E / T sum_t sum_i f_i p_ti, whose gradient is weight E / T p (f - sum f p) (Qiu et al. 2025), and
// z_weight / T sum_t lse_t^2, whose gradient is 2 z_weight / T lse p (Zoph et al. 2022).
Losses formula(const std::vector<MicroBatch>& batches, const BalanceParams& params) {
  const double tokens = tokens_of(batches);
  Losses out;
  for (std::size_t b = 0; b < batches.size(); ++b) {
    out.values.push_back(0);
    out.gradients.emplace_back();
    for (std::size_t layer = 0; layer < kLayers; ++layer) {
      const Tensor logits = batches[b].logits[layer].to(torch::kFloat64);
      const Tensor p = logits.softmax(-1), f = shares(batches, b, layer, params.scope);
      const Tensor log_sums = logits.logsumexp(-1, true), even = (f * p).sum(-1, true);
      const double balance = even.sum().item<double>() * kExperts / tokens;
      out.balance += balance / kLayers;
      out.values[b] += params.weight * balance + params.z_weight / tokens * log_sums.square().sum().item<double>();
      out.gradients[b].push_back(params.weight * kExperts / tokens * p * (f - even) +
                                 2 * params.z_weight / tokens * log_sums * p);
    }
  }
  return out;
}

Losses found(const std::vector<MicroBatch>& batches, const BalanceParams& params) {
  Losses out;
  RouterTotals totals;
  for (const MicroBatch& batch : batches) {
    std::vector<Tensor> leaves;
    std::vector<RouterLoad> routers;
    const Bounds parts = params.scope == BalanceScope::kSequence ? batch.bounds : Bounds{0, batch.bounds.back()};
    for (const Tensor& logits : batch.logits) {
      leaves.push_back(logits.clone().requires_grad_(true));
      routers.push_back(route(leaves.back(), kChosen, parts).load);
    }
    const auto loss = balance_loss(routers, tokens_of(batches), params, {}, totals);
    EXPECT_TRUE(loss.ok());
    loss->backward();
    out.values.push_back(loss->item<double>());
    out.gradients.emplace_back();
    for (const Tensor& leaf : leaves) out.gradients.back().push_back(leaf.grad());
  }
  out.balance = totals.balance;
  Tensor all = torch::zeros({kLayers, kExperts}, torch::kFloat64);
  for (const MicroBatch& batch : batches) {
    for (std::int64_t layer = 0; layer < kLayers; ++layer) {
      all[layer] += choices(batch.logits[static_cast<std::size_t>(layer)]);
    }
  }
  EXPECT_TRUE(torch::equal(totals.counts.to(torch::kFloat64), all));
  EXPECT_NEAR(max_load(totals.counts), (all.max() * kExperts / all[0].sum()).item<double>(), 1e-6);
  return out;
}

class BalanceTest : public ::testing::TestWithParam<BalanceParams> {};

TEST_P(BalanceTest, IsTheFormula) {
  set_num_threads(2);
  const std::vector<MicroBatch> batches = some_micro_batches();
  const Losses expected = formula(batches, GetParam()), actual = found(batches, GetParam());
  EXPECT_NEAR(actual.balance, expected.balance, 1e-6 * expected.balance);
  for (std::size_t b = 0; b < batches.size(); ++b) {
    EXPECT_NEAR(actual.values[b], expected.values[b], 1e-6 * expected.values[b]) << b;
    for (std::size_t layer = 0; layer < kLayers; ++layer) {
      const Tensor difference = actual.gradients[b][layer].to(torch::kFloat64) - expected.gradients[b][layer];
      EXPECT_LE(difference.abs().max().item<double>(), 2e-6 * expected.gradients[b][layer].abs().max().item<double>())
          << b << " " << layer;
    }
  }
}

// Each scope is another loss here: none of the cases above passes as another one.
TEST(BalanceScopeTest, ScopesDiffer) {
  const std::vector<MicroBatch> batches = some_micro_batches();
  const double global = found(batches, {.scope = BalanceScope::kGlobalBatch}).balance;
  const double micro = found(batches, {.scope = BalanceScope::kMicroBatch}).balance;
  const double sequence = found(batches, {.scope = BalanceScope::kSequence}).balance;
  EXPECT_GT(std::abs(global - micro), 1e-3);
  EXPECT_GT(sequence, micro + 1e-2);  // fewer tokens lie less evenly
}

INSTANTIATE_TEST_SUITE_P(Scopes, BalanceTest,
                         testing::Values(BalanceParams{.weight = 0.5, .scope = BalanceScope::kGlobalBatch},
                                         BalanceParams{.weight = 0.5, .scope = BalanceScope::kMicroBatch},
                                         BalanceParams{.weight = 0.5, .scope = BalanceScope::kSequence},
                                         BalanceParams{.weight = 0.5, .z_weight = 0.25},
                                         BalanceParams{
                                             .weight = 0.5, .scope = BalanceScope::kSequence, .z_weight = 0.25},
                                         BalanceParams{.weight = 0, .z_weight = 0.25}));

}  // namespace
}  // namespace qnext::train
