// The router: softmax over the experts, the best A of them and their weights, and what the balance terms need, in one
// pass over the rows of logits.
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

constexpr std::int64_t kRouterRows = 128;  // in one task

// Rows of one task, all of one part.
struct RouterBlock {
  std::int64_t part, begin, end;
};

std::vector<RouterBlock> blocks_of(const Bounds& parts) {
  std::vector<RouterBlock> out;
  for (std::size_t part = 0; part + 1 < parts.size(); ++part) {
    for (std::int64_t begin = parts[part]; begin < parts[part + 1]; begin += kRouterRows) {
      out.push_back({static_cast<std::int64_t>(part), begin, std::min(begin + kRouterRows, parts[part + 1])});
    }
  }
  return out;
}

// Sums of the blocks' rows by part: [blocks, E] to [parts, E].
Tensor sum_by_part(const Tensor& rows, const std::vector<RouterBlock>& blocks) {
  std::vector<Tensor> out;
  for (std::size_t begin = 0, end = 0; begin < blocks.size(); begin = end) {
    while (end < blocks.size() && blocks[end].part == blocks[begin].part) ++end;
    out.push_back(rows.slice(0, static_cast<std::int64_t>(begin), static_cast<std::int64_t>(end)).sum(0));
  }
  return torch::stack(out);
}

// The `count` largest of x, the largest first, of equal ones the first.
void choose_largest(std::int64_t* chosen, float* best, std::int64_t count, const float* x, std::int64_t width) {
  std::int64_t found = 0;
  for (std::int64_t i = 0; i < width; ++i) {
    if (found == count && !(x[i] > best[count - 1])) continue;
    std::int64_t at = found < count ? found++ : count - 1;
    for (; at > 0 && x[i] > best[at - 1]; --at) {
      best[at] = best[at - 1];
      chosen[at] = chosen[at - 1];
    }
    best[at] = x[i];
    chosen[at] = i;
  }
}

// x <- softmax(x); returns log sum e^x.
float softmax_inplace(float* x, std::int64_t width) {
  const float most = largest(x, width);
  const float total = exp_inplace(x, most, width);
  scale_inplace(x, 1 / total, width);
  return most + std::log(total);
}

// out += probabilities * (d - along): softmax's backward, where `along` is <probabilities, d>.
QN_EVERY_ISA void add_softmax_backward(float* out, const float* probabilities, const float* d, float along,
                                       std::int64_t width) {
#pragma omp simd
  for (std::int64_t i = 0; i < width; ++i) out[i] += probabilities[i] * (d[i] - along);
}

struct Route : torch::autograd::Function<Route> {
  static variable_list forward(AutogradContext* context, const Tensor& logits, std::int64_t A, const Bounds& parts) {
    const PartTimer timer(Part::kExperts);
    const std::int64_t T = logits.size(0), E = logits.size(1);
    const std::vector<RouterBlock> blocks = blocks_of(parts);
    const Tensor probabilities = logits.clone(), log_sums = torch::empty({T});
    const Tensor chosen = torch::empty({T, A}, torch::kInt64), weights = torch::empty({T, A});
    const Tensor counts = torch::zeros({std::ssize(blocks), E}), sums = torch::zeros_like(counts);
    const Tensor squares = torch::zeros({std::ssize(blocks)});
    const Matrix rows = matrix(probabilities), weight_rows = matrix(weights);
    const Matrix count_rows = matrix(counts), sum_rows = matrix(sums);
    std::int64_t* const choices = chosen.data_ptr<std::int64_t>();
    float *const log_sum = log_sums.data_ptr<float>(), *const square = squares.data_ptr<float>();
    for_each_task(std::ssize(blocks), [&](std::int64_t block) {
      const RouterBlock& range = blocks[static_cast<std::size_t>(block)];
      for (std::int64_t t = range.begin; t < range.end; ++t) {
        choose_largest(choices + t * A, weight_rows.row(t), A, rows.row(t), E);
        softmax_inplace(weight_rows.row(t), A);
        log_sum[t] = softmax_inplace(rows.row(t), E);
        add_scaled(sum_rows.row(block), rows.row(t), 1, E);
        for (std::int64_t a = 0; a < A; ++a) count_rows.row(block)[choices[t * A + a]] += 1;
        square[block] += log_sum[t] * log_sum[t];
      }
    });
    context->save_for_backward({probabilities, log_sums, chosen, weights});
    context->saved_data["parts"] = parts;
    const Tensor all_counts = sum_by_part(counts, blocks);
    context->mark_non_differentiable({chosen, all_counts});
    return {chosen, weights, all_counts, sum_by_part(sums, blocks), squares.sum()};
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const PartTimer timer(Part::kExperts);
    const auto saved = context->get_saved_variables();
    const Tensor d_weights = gradients[1].contiguous(), d_sums = gradients[3].contiguous();
    const float d_squares = gradients[4].item<float>();
    const std::int64_t A = saved[2].size(1), E = saved[0].size(1);
    const Tensor d_logits = torch::zeros_like(saved[0]);
    const Matrix probabilities = matrix(saved[0]), weights = matrix(saved[3]);
    const Matrix d_weight_rows = matrix(d_weights), d_rows = matrix(d_logits);
    const Matrix d_sum_rows = matrix(d_sums);
    const float* const log_sum = saved[1].data_ptr<float>();
    const std::int64_t* const choices = saved[2].data_ptr<std::int64_t>();
    const std::vector<RouterBlock> blocks = blocks_of(context->saved_data["parts"].toIntVector());
    for_each_task(std::ssize(blocks), [&](std::int64_t block) {
      const RouterBlock& range = blocks[static_cast<std::size_t>(block)];
      const float* const d_sum = d_sum_rows.row(range.part);
      for (std::int64_t t = range.begin; t < range.end; ++t) {
        float* const d_row = d_rows.row(t);
        // d(lse^2) = 2 lse p, so that it only moves what is subtracted.
        const float along = dot(probabilities.row(t), d_sum, E) - 2 * log_sum[t] * d_squares;
        add_softmax_backward(d_row, probabilities.row(t), d_sum, along, E);
        const float chosen_along = dot(weights.row(t), d_weight_rows.row(t), A);
        for (std::int64_t a = 0; a < A; ++a) {
          d_row[choices[t * A + a]] += weights.row(t)[a] * (d_weight_rows.row(t)[a] - chosen_along);
        }
      }
    });
    return {d_logits, no_gradient(), no_gradient()};
  }
};

}  // namespace

Routed route(const Tensor& logits, std::int64_t A, const Bounds& parts) {
  const variable_list out = Route::apply(logits.contiguous(), A, parts);
  return {out[0], out[1], {out[2], out[3], out[4]}};
}

}  // namespace qnext::train
