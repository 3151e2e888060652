#include "train/recompute.h"

#include <torch/custom_class.h>

namespace qnext::train {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Function = std::function<std::vector<Tensor>(const Tensor&)>;

struct Held : torch::CustomClassHolder {
  explicit Held(Function function) : f(std::move(function)) {}
  Function f;
};

struct Recomputed : torch::autograd::Function<Recomputed> {
  static variable_list forward(AutogradContext* context, const Tensor& x, const c10::intrusive_ptr<Held>& held) {
    context->save_for_backward({x});
    context->saved_data["f"] = torch::IValue::make_capsule(held);
    return held->f(x);
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const Tensor x = context->get_saved_variables()[0].detach().requires_grad_(true);
    const auto held = context->saved_data["f"].toCapsule();
    variable_list outputs;
    {
      torch::AutoGradMode with_graph(true);
      outputs = static_cast<Held&>(*held).f(x);
    }
    variable_list wanted, d_wanted;  // counts and the like have no graph
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      if (!outputs[i].requires_grad()) continue;
      wanted.push_back(outputs[i]);
      d_wanted.push_back(gradients[i]);
    }
    torch::autograd::backward(wanted, d_wanted);
    return {x.grad(), Tensor()};
  }
};

}  // namespace

std::vector<Tensor> recomputed(Function f, const Tensor& x) {
  return Recomputed::apply(x, c10::make_intrusive<Held>(std::move(f)));
}

}  // namespace qnext::train
