#include "train/balance.h"

#include <algorithm>

namespace qnext::train {

Result<Tensor> balance_loss(const std::vector<RouterLoad>& routers, double tokens, const BalanceParams& params,
                            const Ranks& ranks, std::vector<Tensor>& counts, double& mean) {
  std::vector<Tensor> now;  // of this micro-batch and those that other ranks run beside it
  for (const RouterLoad& router : routers) now.push_back(router.counts.clone());
  QN_RETURN_IF_ERROR(ranks.sum(now));
  counts.resize(routers.size());
  Tensor sum = torch::zeros({});
  for (std::size_t i = 0; i < routers.size(); ++i) {
    counts[i] = counts[i].defined() ? counts[i] + now[i] : now[i];
    const Tensor& seen = params.scope == BalanceScope::kGlobalBatch ? counts[i] : routers[i].counts;
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
