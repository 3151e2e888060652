#pragma once
// Experts that lie on several ranks: each rank has as many of them as the others, in order, and computes what all
// ranks' tokens send to them. Rows travel to the expert and back by Gloo's all-to-all, their gradients the other way.
// (Lepikhin et al. 2020, GShard, arXiv 2006.16668.)

#include "base/result.h"
#include "train/network.h"
#include "train/ranks.h"

namespace qnext::train {

// As experts() (ops.h), where gate_up and down are of this rank's experts alone: [E / ranks, 2 F, D] and
// [E / ranks, D, F]. All ranks call it in one order, in forward and in backward. Throws where a rank ended, which
// Ranks::guarded makes an error of.
Tensor experts_of_ranks(const Tensor& x, const Tensor& chosen, const Tensor& weights, const Tensor& gate_up,
                        const Tensor& down, const Ranks& ranks);

// Whether a weight, by its name, is of the routed experts: [E, ...], and in parts where ranks share the experts.
bool is_of_experts(const std::string& name);

// This rank's part of such a weight, as a view.
Tensor own_part(const Tensor& whole, const Ranks& ranks);

// The parts of all ranks, put together; on every rank. All ranks call it in one order. Errors: a rank ended.
Result<Tensor> all_parts(const Tensor& part, const Ranks& ranks);

// Of the weights' experts, keeps this rank's.
void keep_own_experts(NetworkWeights& weights, const Ranks& ranks);

}  // namespace qnext::train
