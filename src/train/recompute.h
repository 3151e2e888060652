#pragma once
// Activations that are not kept: forward runs a function without a graph, backward runs it again with one.

#include "train/torch_core.h"

#include <functional>

namespace qnext::train {

// f(x), whose results' graph is rebuilt in backward; the weights that f uses get their gradients then, in .grad.
// f is called twice and must do the same both times. x must require a gradient.
std::vector<torch::Tensor> recomputed(std::function<std::vector<torch::Tensor>(const torch::Tensor&)> f,
                                      const torch::Tensor& x);

}  // namespace qnext::train
