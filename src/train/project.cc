#include "train/ops.h"
#include "train/part_times.h"
#include "train/tensor_views.h"

namespace qnext::train {
namespace {

struct Project : torch::autograd::Function<Project> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x, const Tensor& w) {
    const PartTimer timer(Part::kProject);
    context->save_for_backward({x, w});
    Tensor out = torch::empty({x.size(0), w.size(0)});
    parallel_multiply_nt(matrix(out), matrix(x), matrix(w));
    return out;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const PartTimer timer(Part::kProject);
    const auto saved = context->get_saved_variables();
    const Tensor d_out = gradients[0].contiguous();
    Tensor d_x = torch::empty_like(saved[0]);
    Tensor d_w = torch::empty_like(saved[1]);
    parallel_multiply(matrix(d_x), matrix(d_out), matrix(saved[1]));
    parallel_multiply_tn(matrix(d_w), matrix(d_out), matrix(saved[0]));
    return {d_x, d_w};
  }
};

}  // namespace

Tensor project(const Tensor& x, const Tensor& w) {
  return Project::apply(x.contiguous(), w);
}

}  // namespace qnext::train
