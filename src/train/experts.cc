// Routed experts: rows gathered by expert, products over each expert's rows, rows given back in the tokens' order.
#include <algorithm>
#include <numeric>

#include "train/loops.h"
#include "train/ops.h"
#include "train/part_times.h"
#include "train/tensor_views.h"

namespace qnext::train {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr std::int64_t kRowsPerTask = 192;  // of one expert
constexpr std::int64_t kWeightRows = 32;    // of one expert's weight gradient
constexpr std::int64_t kTokensPerTask = 64;

// out = silu(gate) * up, of a row [gate | up].
QN_EVERY_ISA void swiglu(float* out, const float* gate_up, std::int64_t width) {
#pragma omp simd
  for (std::int64_t i = 0; i < width; ++i) out[i] = gate_up[i] * sigmoid_in_loop(gate_up[i]) * gate_up[width + i];
}

// From d_hidden, the gradient of silu(gate) * up times the routing weight, to d_gate_up; hidden <- silu(gate) * up.
QN_EVERY_ISA void swiglu_backward(float* d_gate_up, float* hidden, const float* d_hidden, const float* gate_up,
                                  float weight, std::int64_t width) {
#pragma omp simd
  for (std::int64_t i = 0; i < width; ++i) {
    const float gate = gate_up[i], up = gate_up[width + i];
    const float sigma = sigmoid_in_loop(gate);
    hidden[i] = gate * sigma * up;
    d_gate_up[i] = weight * d_hidden[i] * up * sigma * (1.0f + gate * (1.0f - sigma));
    d_gate_up[width + i] = weight * d_hidden[i] * gate * sigma;
  }
}

// Choices sorted by expert, in the tokens' order within one: row r of the gathered matrices is choice choice_of[r]
// (token choice / A).
struct Routing {
  Routing(const Tensor& chosen, std::int64_t num_experts)
      : A(chosen.size(1)),
        begin_of(static_cast<std::size_t>(num_experts) + 1),
        choice_of(static_cast<std::size_t>(chosen.numel())),
        row_of(choice_of.size()) {
    const std::int64_t* expert = chosen.data_ptr<std::int64_t>();
    for (std::size_t choice = 0; choice < choice_of.size(); ++choice)
      ++begin_of[static_cast<std::size_t>(expert[choice]) + 1];
    std::partial_sum(begin_of.begin(), begin_of.end(), begin_of.begin());
    std::vector<std::int64_t> next(begin_of.begin(), begin_of.end() - 1);
    for (std::size_t choice = 0; choice < choice_of.size(); ++choice) {
      const std::int64_t row = next[static_cast<std::size_t>(expert[choice])]++;
      row_of[choice] = row;
      choice_of[static_cast<std::size_t>(row)] = static_cast<std::int64_t>(choice);
    }
    for (std::int64_t e = 0; e < num_experts; ++e) {
      const std::int64_t end = begin_of[static_cast<std::size_t>(e) + 1];
      for (std::int64_t row = begin_of[static_cast<std::size_t>(e)]; row < end; row += kRowsPerTask) {
        blocks.push_back({e, row, std::min(row + kRowsPerTask, end)});
      }
    }
  }

  struct Block {  // rows [begin, end) are of one expert
    std::int64_t expert = 0, begin = 0, end = 0;
  };

  std::int64_t choice(std::int64_t row) const { return choice_of[static_cast<std::size_t>(row)]; }
  std::int64_t num_rows() const { return std::ssize(choice_of); }

  std::int64_t A;
  std::vector<std::int64_t> begin_of;  // first row of each expert, and last the number of rows
  std::vector<std::int64_t> choice_of, row_of;
  std::vector<Block> blocks;
};

Matrix expert_matrix(const Tensor& weights, std::int64_t expert) {  // [E, rows, cols]
  const std::int64_t rows = weights.size(1), cols = weights.size(2);
  return {weights.data_ptr<float>() + expert * rows * cols, rows, cols, cols};
}

// The weights of all experts, ready to be multiplied by: x wT, or x w.
std::vector<Factor> expert_factors(const Tensor& weights, bool is_transposed) {
  std::vector<Factor> out;
  for (std::int64_t e = 0; e < weights.size(0); ++e) out.emplace_back(expert_matrix(weights, e), is_transposed);
  Factor::make_ready(out);
  return out;
}

// [R, D]: the token's row for each gathered row.
Tensor gathered(const Tensor& x, const Routing& routing) {
  Tensor out = torch::empty({routing.num_rows(), x.size(1)});
  const Matrix rows = matrix(out), tokens = matrix(x);
  for_each_block(rows.rows, kRowsPerTask, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      std::copy_n(tokens.row(routing.choice(row) / routing.A), rows.cols, rows.row(row));
    }
  });
  return out;
}

// [T, D]: the sum of each token's rows, times their routing weights where `weights` is given.
Tensor given_back(const Tensor& rows, const Routing& routing, const float* weights) {
  const std::int64_t T = routing.num_rows() / routing.A;
  Tensor out = torch::zeros({T, rows.size(1)});
  const Matrix tokens = matrix(out), sources = matrix(rows);
  for_each_block(T, kTokensPerTask, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t choice = begin * routing.A; choice < end * routing.A; ++choice) {
      add_scaled(tokens.row(choice / routing.A), sources.row(routing.row_of[static_cast<std::size_t>(choice)]),
                 weights == nullptr ? 1.0f : weights[choice], tokens.cols);
    }
  });
  return out;
}

// out[e] = aT b over the rows of each expert.
void multiply_by_expert(const Tensor& out, const Tensor& a, const Tensor& b, const Routing& routing) {
  const auto rows_of = [&](const Tensor& rows, std::int64_t expert) {
    return ConstMatrix(matrix(rows))
        .row_range(routing.begin_of[static_cast<std::size_t>(expert)],
                   routing.begin_of[static_cast<std::size_t>(expert) + 1]);
  };
  std::vector<Factor> factors;
  for (std::int64_t e = 0; e < out.size(0); ++e) factors.emplace_back(rows_of(b, e), false);
  Factor::make_ready(factors);
  const std::int64_t blocks_per_expert = (out.size(1) + kWeightRows - 1) / kWeightRows;
  for_each_task(out.size(0) * blocks_per_expert, [&](std::int64_t task) {
    const std::int64_t expert = task / blocks_per_expert, begin = task % blocks_per_expert * kWeightRows;
    const std::int64_t end = std::min(begin + kWeightRows, out.size(1));
    factors[static_cast<std::size_t>(expert)].multiply_tn(expert_matrix(out, expert).row_range(begin, end),
                                                          rows_of(a, expert).col_range(begin, end));
  });
}

struct Experts : torch::autograd::Function<Experts> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& chosen, const Tensor& weights,
                        const Tensor& gate_up, const Tensor& down) {
    const PartTimer timer(Part::kExperts);
    const Routing routing(chosen, gate_up.size(0));
    const std::int64_t F = down.size(2);
    const Tensor inputs = gathered(x, routing);
    const Tensor inner = torch::empty({routing.num_rows(), 2 * F});
    const Tensor outputs = torch::empty_like(inputs);
    const std::vector<Factor> gate_ups = expert_factors(gate_up, true), downs = expert_factors(down, true);
    for_each_task(std::ssize(routing.blocks), [&](std::int64_t task) {
      const Routing::Block& block = routing.blocks[static_cast<std::size_t>(task)];
      const auto expert = static_cast<std::size_t>(block.expert);
      const Matrix rows = matrix(inner).row_range(block.begin, block.end);
      gate_ups[expert].multiply(rows, matrix(inputs).row_range(block.begin, block.end));
      std::vector<float> memory(static_cast<std::size_t>(rows.rows * F));
      const Matrix hidden{memory.data(), rows.rows, F, F};
      for (std::int64_t row = 0; row < rows.rows; ++row) swiglu(hidden.row(row), rows.row(row), F);
      downs[expert].multiply(matrix(outputs).row_range(block.begin, block.end), hidden);
    });
    context->save_for_backward({x, chosen, weights, gate_up, down, inner});
    return given_back(outputs, routing, weights.data_ptr<float>());
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const PartTimer timer(Part::kExperts);
    const auto saved = context->get_saved_variables();
    const Tensor &x = saved[0], &chosen = saved[1], &weights = saved[2], &gate_up = saved[3], &down = saved[4];
    const Tensor &inner = saved[5], d_out = gradients[0].contiguous();
    const Routing routing(chosen, gate_up.size(0));
    const std::int64_t F = down.size(2);
    const Tensor d_outputs = gathered(d_out, routing);
    const Tensor hidden = torch::empty({routing.num_rows(), F}), d_inner = torch::empty_like(inner);
    const Tensor d_inputs = torch::empty_like(d_outputs);
    Tensor d_weights = torch::empty_like(weights);
    const std::vector<Factor> gate_ups = expert_factors(gate_up, false), downs = expert_factors(down, false);
    const Matrix d_output_rows = matrix(d_outputs), d_input_rows = matrix(d_inputs);
    const Matrix inner_rows = matrix(inner), d_inner_rows = matrix(d_inner), hidden_rows = matrix(hidden);
    const float* const weight_of = weights.data_ptr<float>();
    float* const d_weight_of = d_weights.data_ptr<float>();
    for_each_task(std::ssize(routing.blocks), [&](std::int64_t task) {
      const Routing::Block& block = routing.blocks[static_cast<std::size_t>(task)];
      const auto expert = static_cast<std::size_t>(block.expert);
      const std::int64_t count = block.end - block.begin;
      std::vector<float> memory(static_cast<std::size_t>(count * F));
      const Matrix d_hidden{memory.data(), count, F, F};
      downs[expert].multiply(d_hidden, d_output_rows.row_range(block.begin, block.end));
      for (std::int64_t row = block.begin; row < block.end; ++row) {
        const std::int64_t choice = routing.choice(row);
        const float* d_row = d_hidden.row(row - block.begin);
        float* hidden_row = hidden_rows.row(row);
        swiglu_backward(d_inner_rows.row(row), hidden_row, d_row, inner_rows.row(row), weight_of[choice], F);
        // <d_out, down h> = <downT d_out, h>: the expert's output need not be kept.
        d_weight_of[choice] = dot(d_row, hidden_row, F);
        scale_inplace(hidden_row, weight_of[choice], F);  // from here on, of the down projection's gradient alone
      }
      gate_ups[expert].multiply(d_input_rows.row_range(block.begin, block.end),
                                d_inner_rows.row_range(block.begin, block.end));
    });
    Tensor d_gate_up = torch::empty_like(gate_up), d_down = torch::empty_like(down);
    multiply_by_expert(d_down, d_outputs, hidden, routing);
    multiply_by_expert(d_gate_up, d_inner, gathered(x, routing), routing);
    return {given_back(d_inputs, routing, nullptr), no_gradient(), d_weights, d_gate_up, d_down};
  }
};

}  // namespace

Tensor experts(const Tensor& x, const Tensor& chosen, const Tensor& weights, const Tensor& gate_up,
               const Tensor& down) {
  return Experts::apply(x.contiguous(), chosen.contiguous(), weights.contiguous(), gate_up, down);
}

}  // namespace qnext::train
