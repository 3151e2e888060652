#include "train/balance.h"

#include <cmath>

namespace qnext::train {
namespace {

// [E], or by document [documents, E].
Tensor counts_of(BalanceScope scope, const Tensor& seen, const Tensor& micro_batch, const Tensor& by_document) {
  if (scope == BalanceScope::kGlobalBatch) return seen;
  return scope == BalanceScope::kMicroBatch ? micro_batch : by_document.detach();
}

}  // namespace

Result<Tensor> balance_loss(const std::vector<RouterLoad>& routers, double tokens, const BalanceParams& params,
                            const Ranks& ranks, RouterTotals& totals) {
  std::vector<Tensor> own;
  for (const RouterLoad& router : routers) own.push_back(router.counts.detach().sum(0));
  QN_TRY(const std::vector<Tensor> now, ranks.all_of(torch::stack(own)));  // by rank, as micro-batches are dealt out
  if (!totals.counts.defined()) totals.counts = torch::zeros_like(now[0]);
  Tensor seen;
  for (int rank = 0; rank < ranks.count(); ++rank) {
    totals.counts = totals.counts + now[static_cast<std::size_t>(rank)];
    if (rank == ranks.rank()) seen = totals.counts;
  }
  Tensor sum = torch::zeros({});
  for (std::size_t i = 0; i < routers.size(); ++i) {
    const Tensor chosen = counts_of(params.scope, seen[static_cast<std::int64_t>(i)], own[i], routers[i].counts);
    const Tensor share = chosen / chosen.sum(-1, true);
    const Tensor even = (share * routers[i].probabilities).sum() * (static_cast<double>(share.size(-1)) / tokens);
    totals.balance += even.detach().item<double>() / static_cast<double>(routers.size());
    sum = sum + params.weight * even;
    if (params.z_weight > 0) sum = sum + routers[i].z * (params.z_weight / tokens);
  }
  return sum;
}

std::vector<std::vector<double>> expert_load(const Tensor& counts) {
  std::vector<std::vector<double>> out;
  const Tensor load = (counts / counts.mean(1, true)).to(torch::kFloat64).contiguous();
  for (std::int64_t i = 0; i < load.size(0); ++i) {
    const double* layer = load[i].data_ptr<double>();
    out.emplace_back(layer, layer + load.size(1));
  }
  return out;
}

double load_entropy(const Tensor& counts) {
  if (counts.size(1) == 1) return 1;
  const Tensor share = counts / counts.sum(1, true);
  return -torch::xlogy(share, share).sum(1).mean().item<double>() / std::log(static_cast<double>(counts.size(1)));
}

double max_load(const Tensor& counts) {
  return (counts.amax(1) / counts.mean(1)).max().item<double>();
}

}  // namespace qnext::train
