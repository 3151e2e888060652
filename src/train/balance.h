#pragma once
// Load balancing and z-loss of the routers.

#include <vector>

#include "base/result.h"
#include "train/network.h"
#include "train/ranks.h"

namespace qnext::train {

enum class BalanceScope { kGlobalBatch, kMicroBatch };

struct BalanceParams {
  double weight = 1e-3;  // E sum f_i p_i of each layer times this: 1 when balanced
  BalanceScope scope = BalanceScope::kGlobalBatch;
  double z_weight = 0;
};

// For each layer E sum_i f_i p_i: f the share of the step's tokens so far that each expert got, or the micro-batch's,
// p the micro-batch's mean probabilities, weighted by its share of the step's `tokens`. "So far" is in the order of the
// micro-batches, of which ranks take turns: any number of them says the same. `counts`, by layer and expert, are the
// step's so far, to which this micro-batch's are added over all ranks; `mean` gets the mean over layers added.
// Source: Qiu et al. 2025 (arXiv 2501.11873), algorithm 1: gradients flow through p alone. Errors: a rank that ended.
Result<Tensor> balance_loss(const std::vector<RouterLoad>& routers, double tokens, const BalanceParams& params,
                            const Ranks& ranks, std::vector<Tensor>& counts, double& mean);

// The busiest expert's tokens over the mean, largest of all layers.
double max_load(const std::vector<Tensor>& counts);

// By layer and expert: its tokens over the mean.
std::vector<std::vector<double>> expert_load(const std::vector<Tensor>& counts);

// The entropy of the experts' shares over an even load's, mean over layers: 1 is even, 0 is one expert.
double load_entropy(const std::vector<Tensor>& counts);

}  // namespace qnext::train
