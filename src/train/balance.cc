#include "train/balance.h"

#include <algorithm>
#include <cmath>

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

std::vector<std::vector<double>> expert_load(const std::vector<Tensor>& counts) {
  std::vector<std::vector<double>> out;
  for (const Tensor& layer : counts) {
    const Tensor load = (layer / layer.mean()).to(torch::kFloat64).contiguous();
    out.emplace_back(load.data_ptr<double>(), load.data_ptr<double>() + load.numel());
  }
  return out;
}

double load_entropy(const std::vector<Tensor>& counts) {
  double sum = 0;
  for (const Tensor& layer : counts) {
    const Tensor share = layer / layer.sum();
    const double even = std::log(static_cast<double>(layer.numel()));
    sum += layer.numel() == 1 ? 1 : -torch::xlogy(share, share).sum().item<double>() / even;
  }
  return counts.empty() ? 1 : sum / static_cast<double>(counts.size());
}

}  // namespace qnext::train
