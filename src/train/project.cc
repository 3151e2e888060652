#include "train/ops.h"
#include "train/part_times.h"
#include "train/tensor_views.h"

namespace qnext::train {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct ProjectEach : torch::autograd::Function<ProjectEach> {
  static variable_list forward(AutogradContext* context, const Tensor& x, at::TensorList ws) {
    const PartTimer timer(Part::kProject);
    variable_list saved = {x}, outputs;
    for (const Tensor& w : ws) {
      saved.push_back(w);
      outputs.push_back(torch::empty({x.size(0), w.size(0)}));
      parallel_multiply_nt(matrix(outputs.back()), matrix(x), matrix(w));
    }
    context->save_for_backward(std::move(saved));
    return outputs;
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const PartTimer timer(Part::kProject);
    const auto saved = context->get_saved_variables();
    const Tensor d_x = torch::empty_like(saved[0]);
    const Factor x = ready_factor(matrix(saved[0]), /*is_transposed=*/false);
    variable_list out = {d_x};
    for (std::size_t i = 0; i < gradients.size(); ++i) {
      const Tensor d_out = gradients[i].contiguous();
      parallel_multiply(matrix(d_x), matrix(d_out), matrix(saved[i + 1]), i == 0 ? Into::kReplace : Into::kAdd);
      out.push_back(torch::empty_like(saved[i + 1]));
      parallel_multiply_tn(matrix(out.back()), matrix(d_out), x);
    }
    return out;
  }
};

}  // namespace

std::vector<Tensor> project_each(const Tensor& x, at::TensorList ws) {
  return ProjectEach::apply(x.contiguous(), ws);
}

Tensor project(const Tensor& x, const Tensor& w) {
  return project_each(x, w)[0];
}

}  // namespace qnext::train
