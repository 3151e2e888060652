#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "kernels/ref/ref_kernels.h"
#include "tensor/block_formats.h"

namespace qnext {
namespace {

// A NaN, which only broken weights give, is never chosen before a number.
float order_key(float logit) {
  return std::isnan(logit) ? -std::numeric_limits<float>::infinity() : logit;
}

void route_top_k(View<std::uint32_t> expert_ids, View<float> weights, View<const float> logits, bool normalize,
                 Range tokens) {
  const std::size_t num_experts = logits.dim(1);
  const std::size_t num_active = expert_ids.dim(1);
  std::vector<double> p(num_experts);
  std::vector<std::uint32_t> order(num_experts);
  for (std::size_t t = tokens.begin; t < tokens.end; ++t) {
    const float* row = logits.row(t);
    // By logit rather than by probability, in which different logits may round to one. Ties keep their order.
    std::iota(order.begin(), order.end(), 0u);
    std::stable_sort(order.begin(), order.end(),
                     [row](std::uint32_t a, std::uint32_t b) { return order_key(row[a]) > order_key(row[b]); });
    const double max = row[order[0]];
    double total = 0;
    for (std::size_t e = 0; e < num_experts; ++e) total += p[e] = std::exp(static_cast<double>(row[e]) - max);
    double active_total = 0;
    for (std::size_t i = 0; i < num_active; ++i) active_total += p[order[i]];
    for (std::size_t i = 0; i < num_active; ++i) {
      expert_ids(t, i) = order[i];
      weights(t, i) = static_cast<float>(p[order[i]] / (normalize ? active_total : total));
    }
  }
}

double dot(const std::vector<float>& weights, const float* x) {
  double sum = 0;
  for (std::size_t k = 0; k < weights.size(); ++k) sum += static_cast<double>(weights[k]) * static_cast<double>(x[k]);
  return sum;
}

double silu(double value) {
  return value / (1 + std::exp(-value));
}

void expert_hidden(View<float> hidden, View<const float> x, const Routing& routing, const ExpertWeights& experts,
                   Range columns) {
  std::vector<float> gate(x.dim(1));
  std::vector<float> up(x.dim(1));
  for (std::size_t e = 0; e < experts.gate.size(); ++e) {
    if (routing.expert_begin[e] == routing.expert_begin[e + 1]) continue;
    for (std::size_t f = columns.begin; f < columns.end; ++f) {
      decode_row(gate.data(), experts.gate[e], f);
      decode_row(up.data(), experts.up[e], f);
      for (std::size_t i = routing.expert_begin[e]; i < routing.expert_begin[e + 1]; ++i) {
        const float* token = x.row(routing.pair_token[i]);
        hidden(i, f) = static_cast<float>(silu(dot(gate, token)) * dot(up, token));
      }
    }
  }
}

void expert_output(View<float> out, View<const float> hidden, const Routing& routing, const ExpertWeights& experts,
                   Range columns) {
  std::vector<float> down(hidden.dim(1));
  for (std::size_t e = 0; e < experts.down.size(); ++e) {
    if (routing.expert_begin[e] == routing.expert_begin[e + 1]) continue;
    for (std::size_t c = columns.begin; c < columns.end; ++c) {
      decode_row(down.data(), experts.down[e], c);
      for (std::size_t i = routing.expert_begin[e]; i < routing.expert_begin[e + 1]; ++i) {
        const double sum = dot(down, hidden.row(i));
        out(routing.pair_token[i], c) += static_cast<float>(static_cast<double>(routing.pair_weight[i]) * sum);
      }
    }
  }
}

}  // namespace

void add_experts(KernelTable& table) {
  table.route_top_k = route_top_k;
  table.expert_hidden = expert_hidden;
  table.expert_output = expert_output;
}

}  // namespace qnext
