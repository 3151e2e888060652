// The head and its cross-entropy. Gradients are computed beside the loss, while a block's logits are at hand, and
// multiplied by the loss's own gradient in backward.
#include <algorithm>
#include <cmath>

#include "train/loops.h"
#include "train/ops.h"
#include "train/part_times.h"
#include "train/tensor_views.h"

namespace qnext::train {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr std::int64_t kRows = 512;  // of logits that exist at a time
constexpr std::int64_t kRowsPerTask = 32;

struct RowLoss {
  float loss = 0;
  bool correct = false;
};

// A row's loss; its logits become their gradients.
RowLoss row_loss_inplace(float* logits, std::int64_t V, std::int64_t label, float weight) {
  const float top = largest(logits, V), own = logits[label];
  const float sum = exp_inplace(logits, top, V);
  scale_inplace(logits, weight / sum, V);
  logits[label] -= weight;
  return {weight * (top + std::log(sum) - own), own == top};
}

// Computes the logits of kRows rows at a time: row_loss(t, logits) of every row t, then of_block(first, last, logits).
void for_each_logits(const Tensor& h, const Tensor& w, FunctionRef<void(std::int64_t t, float* logits)> row_loss,
                     FunctionRef<void(std::int64_t first, std::int64_t last, Matrix logits)> of_block) {
  const std::int64_t T = h.size(0);
  const Tensor logits = torch::empty({std::min(kRows, T), w.size(0)});
  const Factor w_transposed = ready_factor(matrix(w), true);
  for (std::int64_t first = 0; first < T; first += kRows) {
    const std::int64_t last = std::min(first + kRows, T);
    const Matrix rows = matrix(logits).row_range(0, last - first);
    parallel_multiply(rows, matrix(h).row_range(first, last), w_transposed);
    for_each_block(last - first, kRowsPerTask, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) row_loss(first + row, rows.row(row));
    });
    of_block(first, last, rows);
  }
}

struct HeadLossFunction : torch::autograd::Function<HeadLossFunction> {
  static variable_list forward(AutogradContext* context, const Tensor& h, const Tensor& w, const Tensor& labels,
                               const Tensor& weights) {
    const PartTimer timer(Part::kHead);
    const std::int64_t T = h.size(0), V = w.size(0);
    const Tensor losses = torch::empty({T});
    Tensor correct = torch::empty({T}, torch::kBool);
    const Tensor d_h = torch::empty_like(h), d_w = torch::zeros_like(w);
    const Factor w_plain = ready_factor(matrix(w), false);
    for_each_logits(
        h, w,
        [&](std::int64_t t, float* logits) {
          const RowLoss result =
              row_loss_inplace(logits, V, labels.data_ptr<std::int64_t>()[t], weights.data_ptr<float>()[t]);
          losses.data_ptr<float>()[t] = result.loss;
          correct.data_ptr<bool>()[t] = result.correct;
        },
        [&](std::int64_t first, std::int64_t last, Matrix gradients) {
          parallel_multiply(matrix(d_h).row_range(first, last), gradients, w_plain);
          parallel_multiply_tn(matrix(d_w), gradients, ready_factor(matrix(h).row_range(first, last), false),
                               Into::kAdd);
        });
    context->save_for_backward({d_h, d_w});
    context->mark_non_differentiable({correct});
    return {losses.sum(torch::kFloat64).to(torch::kFloat32), correct};
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const PartTimer timer(Part::kHead);
    const auto saved = context->get_saved_variables();
    return {saved[0] * gradients[0], saved[1] * gradients[0], no_gradient(), no_gradient()};
  }
};

}  // namespace

HeadLoss head_loss(const Tensor& h, const Tensor& w, const Tensor& labels, const Tensor& weights) {
  // A position that is not learned has no loss and no gradient: its logits are not computed.
  const Tensor learned = weights.nonzero().squeeze(1);
  const variable_list outputs = HeadLossFunction::apply(h.index_select(0, learned), w, labels.index_select(0, learned),
                                                        weights.index_select(0, learned));
  return {outputs[0], torch::zeros({h.size(0)}, torch::kBool).index_copy(0, learned, outputs[1])};
}

Tensor token_losses(const Tensor& h, const Tensor& w, const Tensor& labels) {
  const PartTimer timer(Part::kHead);
  const Tensor hidden = h.detach().contiguous(), targets = labels.contiguous();
  Tensor losses = torch::empty({h.size(0)});
  for_each_logits(
      hidden, w,
      [&](std::int64_t t, float* logits) {
        const std::int64_t label = targets.data_ptr<std::int64_t>()[t];
        losses.data_ptr<float>()[t] = row_loss_inplace(logits, w.size(0), label, 1).loss;
      },
      [](std::int64_t, std::int64_t, Matrix) {});
  return losses;
}

}  // namespace qnext::train
