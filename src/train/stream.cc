// The residual stream: sums and what is read several times, whose gradients are added up on all threads, where autograd
// itself would add on one.
#include <algorithm>

#include "train/loops.h"
#include "train/ops.h"
#include "train/tensor_views.h"

namespace qnext::train {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr std::int64_t kStreamRows = 128;  // in one task

Tensor sum_of_all(at::TensorList terms) {
  const Tensor out = torch::empty(terms[0].sizes());
  std::vector<Tensor> kept;
  std::vector<Matrix> sources;
  for (const Tensor& term : terms) sources.push_back(matrix(kept.emplace_back(term.contiguous())));
  const Matrix sum = matrix(out);
  for_each_block(sum.rows, kStreamRows, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      std::copy_n(sources[0].row(row), sum.cols, sum.row(row));
      for (std::size_t i = 1; i < sources.size(); ++i) add_scaled(sum.row(row), sources[i].row(row), 1, sum.cols);
    }
  });
  return out;
}

struct SumOf : torch::autograd::Function<SumOf> {
  static Tensor forward(AutogradContext* context, at::TensorList terms) {
    context->saved_data["terms"] = static_cast<std::int64_t>(terms.size());
    return sum_of_all(terms);
  }
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    return variable_list(static_cast<std::size_t>(context->saved_data["terms"].toInt()), gradients[0]);
  }
};

struct Branches : torch::autograd::Function<Branches> {
  static variable_list forward(AutogradContext* /*context*/, const Tensor& x, std::int64_t count) {
    variable_list out;
    for (std::int64_t i = 0; i < count; ++i) out.push_back(x.view_as(x));
    return out;
  }
  static variable_list backward(AutogradContext* /*context*/, variable_list gradients) {
    return {sum_of_all(gradients), no_gradient()};
  }
};

}  // namespace

Tensor sum_of(at::TensorList terms) {
  return SumOf::apply(terms);
}

std::vector<Tensor> branches(const Tensor& x, std::int64_t count) {
  return Branches::apply(x, count);
}

}  // namespace qnext::train
