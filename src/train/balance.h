#pragma once
// Load balancing and z-loss of the routers.

#include <vector>

#include "base/result.h"
#include "train/network.h"
#include "train/ranks.h"

namespace qnext::train {

enum class BalanceScope { kGlobalBatch, kMicroBatch, kSequence };

struct BalanceParams {
  double weight = 1e-3;  // E sum f_i p_i of each layer times this: 1 when balanced
  BalanceScope scope = BalanceScope::kGlobalBatch;
  double z_weight = 0;
};

// What the routers of a step did so far.
struct RouterTotals {
  Tensor counts;  // [layers, E]: tokens sent to each expert, by all ranks; not defined before the first micro-batch
  double balance =
      0;  // E sum_i f_i p_i, mean over layers; of this rank's micro-batches, and so a part of all ranks' sum
};

// For each layer E sum_i f_i p_i: f the share of the step's tokens so far that each expert got, or the micro-batch's, p
// the micro-batch's mean probabilities, weighted by its share of the step's `tokens`; or the same of each document by
// itself, when the loads are counted by document (ForwardOptions::load_by_document). "So far" is in the order of the
// step's micro-batches, which ranks take in turns: on rank r all up to the round before, and of this round those of
// ranks 0 to r, so that any number of ranks computes what one does. Adds to `totals`. All ranks call it together.
// Source: Qiu et al. 2025 (arXiv 2501.11873), algorithm 1: gradients flow through p alone. Errors: a rank that ended.
Result<Tensor> balance_loss(const std::vector<RouterLoad>& routers, double tokens, const BalanceParams& params,
                            const Ranks& ranks, RouterTotals& totals);

// The busiest expert's tokens over the mean, largest of all layers. counts: [layers, E].
double max_load(const Tensor& counts);

// By layer and expert: its tokens over the mean.
std::vector<std::vector<double>> expert_load(const Tensor& counts);

// The entropy of the experts' shares over an even load's, mean over layers: 1 is even, 0 is one expert.
double load_entropy(const Tensor& counts);

}  // namespace qnext::train
