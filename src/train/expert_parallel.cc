#include "train/expert_parallel.h"

#include <torch/custom_class.h>

#include "train/tensor_views.h"

namespace qnext::train {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Counts = std::vector<std::int64_t>;  // rows, by rank

struct Held : torch::CustomClassHolder {
  explicit Held(const Ranks& group) : ranks(group) {}
  Ranks ranks;
};

struct Exchange : torch::autograd::Function<Exchange> {
  static Tensor forward(AutogradContext* context, const Tensor& rows, const Counts& send, const Counts& receive,
                        const c10::intrusive_ptr<Held>& held) {
    context->saved_data["send"] = send;
    context->saved_data["receive"] = receive;
    context->saved_data["ranks"] = torch::IValue::make_capsule(held);
    return held->ranks.exchange(rows, send, receive);
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto held = context->saved_data["ranks"].toCapsule();
    const Counts send = context->saved_data["send"].toIntVector(),
                 receive = context->saved_data["receive"].toIntVector();
    return {static_cast<Held&>(*held).ranks.exchange(gradients[0], receive, send), no_gradient(), no_gradient(),
            no_gradient()};
  }
};

Counts rows_by_rank(const Tensor& counts) {  // [ranks, experts of each]
  const Tensor sums = counts.sum(1);
  return {sums.data_ptr<std::int64_t>(), sums.data_ptr<std::int64_t>() + sums.size(0)};
}

}  // namespace

Tensor experts_of_ranks(const Tensor& x, const Tensor& chosen, const Tensor& weights, const Tensor& gate_up,
                        const Tensor& down, const Ranks& ranks) {
  const std::int64_t own = gate_up.size(0), num_ranks = ranks.count();
  const Tensor expert = chosen.reshape({-1});  // of each choice
  // Choices by expert, and hence by rank; within an expert in the tokens' order.
  const Tensor order = std::get<1>(expert.sort(/*stable=*/true, /*dim=*/0, /*descending=*/false));
  const Tensor token = order.div(chosen.size(1), "floor");
  const Tensor sent = torch::bincount(expert, {}, num_ranks * own).view({num_ranks, own});
  const Counts one_each(static_cast<std::size_t>(num_ranks), 1);
  const Tensor received = ranks.exchange(sent, one_each, one_each);  // [r, e]: from rank r, for our expert e
  const Counts send = rows_by_rank(sent), receive = rows_by_rank(received);
  const auto held = c10::make_intrusive<Held>(ranks);
  const Tensor inputs = Exchange::apply(x.index_select(0, token), send, receive, held);
  const Tensor input_expert = torch::arange(own).repeat({num_ranks}).repeat_interleave(received.reshape({-1}));
  const Tensor outputs = experts(inputs, input_expert.unsqueeze(1), torch::ones({inputs.size(0), 1}), gate_up, down);
  const Tensor returned = Exchange::apply(outputs, receive, send, held);
  const Tensor weight = weights.reshape({-1}).index_select(0, order).unsqueeze(1);
  return torch::zeros_like(x).index_add(0, token, returned * weight);
}

bool is_of_experts(const std::string& name) {
  return name.find(".mlp.experts.") != std::string::npos;
}

Tensor own_part(const Tensor& whole, const Ranks& ranks) {
  const std::int64_t count = whole.size(0) / ranks.count();
  return whole.narrow(0, ranks.rank() * count, count);
}

Result<Tensor> all_parts(const Tensor& part, const Ranks& ranks) {
  std::vector<Tensor> parts;
  for (int rank = 0; rank < ranks.count(); ++rank) {
    Tensor one = rank == ranks.rank() ? part.detach() : torch::empty(part.sizes());
    QN_RETURN_IF_ERROR(ranks.copy_from(rank, one));
    parts.push_back(one);
  }
  return torch::cat(parts, 0);
}

void keep_own_experts(NetworkWeights& weights, const Ranks& ranks) {
  for_each_weight(weights, [&](const std::string& name, Tensor& value) {
    if (is_of_experts(name)) value = own_part(value, ranks).clone();
  });
}

}  // namespace qnext::train
