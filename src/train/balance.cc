#include "train/balance.h"

#include <algorithm>

namespace qnext::train {

Result<Tensor> balance_loss(const std::vector<RouterLoad>& routers, double tokens, const BalanceParams& params,
                            const Ranks& ranks, std::vector<Tensor>& counts, double& mean) {
  // [ranks, E]: of this micro-batch and those that other ranks run beside it, each in its row.
  std::vector<Tensor> now;
  for (const RouterLoad& router : routers) {
    now.push_back(torch::zeros({ranks.count(), router.counts.numel()}));
    now.back()[ranks.rank()].copy_(router.counts);
  }
  QN_RETURN_IF_ERROR(ranks.sum(now));
  counts.resize(routers.size());
  Tensor sum = torch::zeros({});
  for (std::size_t i = 0; i < routers.size(); ++i) {
    const Tensor before = counts[i].defined() ? counts[i] : torch::zeros_like(routers[i].counts);
    counts[i] = before + now[i].sum(0);
    // As if one rank ran them one after the other: those of the ranks up to this one.
    const Tensor so_far = before + now[i].slice(0, 0, ranks.rank() + 1).sum(0);
    const Tensor& seen = params.scope == BalanceScope::kGlobalBatch ? so_far : routers[i].counts;
    const Tensor share = (seen / seen.sum()).detach();
    const Tensor even = (share * routers[i].probabilities).sum() * (static_cast<double>(share.numel()) / tokens);
    mean += even.detach().item<double>() / static_cast<double>(routers.size());
    sum = sum + params.weight * even;
    if (params.z_weight > 0) sum = sum + routers[i].z * (params.z_weight / tokens);
  }
  return sum;
}

double max_load(const std::vector<Tensor>& counts) {
  double largest = 0;
  for (const Tensor& layer : counts) largest = std::max(largest, (layer.max() / layer.mean()).item<double>());
  return largest;
}

}  // namespace qnext::train
