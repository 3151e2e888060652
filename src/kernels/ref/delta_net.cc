#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/ref/ref_kernels.h"

namespace qnext {
namespace {

double sigmoid(double x) {
  return 1.0 / (1.0 + std::exp(-x));
}
double softplus(double x) {
  return x > 20.0 ? x : std::log1p(std::exp(x));
}

void causal_conv_silu(View<float> out, View<float> history, View<const float> x, View<const float> weight,
                      Range channels) {
  const std::size_t num_past = history.dim(0);
  const auto input = [&](std::size_t row_idx, std::size_t c) {  // of history followed by x
    return row_idx < num_past ? history(row_idx, c) : x(row_idx - num_past, c);
  };
  for (std::size_t t = 0; t < x.dim(0); ++t) {
    for (std::size_t c = channels.begin; c < channels.end; ++c) {
      double sum = 0.0;
      for (std::size_t j = 0; j <= num_past; ++j) sum += static_cast<double>(weight(j, c)) * input(t + j, c);
      out(t, c) = static_cast<float>(sum * sigmoid(sum));
    }
  }
  for (std::size_t i = 0; i < num_past; ++i) {  // ascending: with T < J - 1 a row moves down before it is overwritten
    for (std::size_t c = channels.begin; c < channels.end; ++c) history(i, c) = input(x.dim(0) + i, c);
  }
}

void delta_gates(View<float> log_decay, View<float> beta, View<const float> a, View<const float> b,
                 std::span<const float> neg_exp_a, std::span<const float> dt_bias, Range rows) {
  for (std::size_t t = rows.begin; t < rows.end; ++t) {
    for (std::size_t h = 0; h < a.dim(1); ++h) {
      const float x = a(t, h) + dt_bias[h];  // in f32, as checkpoints were trained
      log_decay(t, h) = static_cast<float>(neg_exp_a[h] * softplus(x));
      beta(t, h) = static_cast<float>(sigmoid(b(t, h)));
    }
  }
}

void delta_rule_step(View<float> out, View<float> state, const DeltaRuleInputs& in, Range heads) {
  const std::size_t key_width = in.k.dim(2);
  const std::size_t heads_a_key = state.dim(0) / in.k.dim(1);
  for (std::size_t h = heads.begin; h < heads.end; ++h) {
    for (std::size_t t = 0; t < out.dim(0); ++t) {
      const float* q = in.q.row(t, h / heads_a_key);
      const float* k = in.k.row(t, h / heads_a_key);
      const double decay = std::exp(static_cast<double>(in.log_decay(t, h)));
      for (std::size_t c = 0; c < out.dim(2); ++c) {
        double recalled = 0.0;
        for (std::size_t i = 0; i < key_width; ++i) recalled += k[i] * decay * state(h, i, c);
        const double surprise = in.beta(t, h) * (in.v(t, h, c) - recalled);
        double read = 0.0;
        for (std::size_t i = 0; i < key_width; ++i) {
          const auto updated = static_cast<float>(decay * state(h, i, c) + k[i] * surprise);
          state(h, i, c) = updated;
          read += static_cast<double>(q[i]) * updated;
        }
        out(t, h, c) = static_cast<float>(read);
      }
    }
  }
}

double dot(const float* a, const float* b, std::size_t count) {
  double sum = 0.0;
  for (std::size_t i = 0; i < count; ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

constexpr float kForgotten = -1e4f;  // exp() of this is 0, and differences of infinities are not needed

// Tokens [begin, end) of head h against the state that enters the chunk. With G the running sum of log_decay in the
// chunk and D_ij = exp(G_i - G_j) <= 1, and u the rows that the tokens write:
//   u_i  = beta_i * (v_i - exp(G_i) k_i.S) - sum_{j < i} beta_i D_ij (k_i . k_j) u_j       (a triangular system)
//   o_i  = exp(G_i) q_i.S + sum_{j <= i} D_ij (q_i . k_j) u_j
//   S   <- exp(G_last) S + sum_j exp(G_last - G_j) outer(k_j, u_j)
void delta_rule_one_chunk(View<float> out, View<float> state, const DeltaRuleInputs& in, std::size_t h, Range tokens) {
  const std::size_t key_width = in.k.dim(2);
  const std::size_t value_width = out.dim(2);
  const std::size_t key_head = h / (state.dim(0) / in.k.dim(1));
  std::vector<double> log_sum(tokens.count());
  std::vector<double> u(tokens.count() * value_width);
  for (std::size_t i = 0; i < tokens.count(); ++i) {
    const std::size_t t = tokens.begin + i;
    log_sum[i] = (i == 0 ? 0.0 : log_sum[i - 1]) + std::max(in.log_decay(t, h), kForgotten);
    const double decay = std::exp(log_sum[i]);
    const float* q = in.q.row(t, key_head);
    const float* k = in.k.row(t, key_head);
    for (std::size_t c = 0; c < value_width; ++c) {
      double recalled = 0.0;
      for (std::size_t d = 0; d < key_width; ++d) recalled += static_cast<double>(k[d]) * state(h, d, c);
      u[i * value_width + c] = in.beta(t, h) * (in.v(t, h, c) - decay * recalled);
    }
    for (std::size_t j = 0; j < i; ++j) {
      const double known =
          in.beta(t, h) * std::exp(log_sum[i] - log_sum[j]) * dot(k, in.k.row(tokens.begin + j, key_head), key_width);
      for (std::size_t c = 0; c < value_width; ++c) u[i * value_width + c] -= known * u[j * value_width + c];
    }
    std::vector<double> read(value_width, 0.0);
    for (std::size_t d = 0; d < key_width; ++d) {
      for (std::size_t c = 0; c < value_width; ++c) read[c] += decay * q[d] * state(h, d, c);
    }
    for (std::size_t j = 0; j <= i; ++j) {
      const double share = std::exp(log_sum[i] - log_sum[j]) * dot(q, in.k.row(tokens.begin + j, key_head), key_width);
      for (std::size_t c = 0; c < value_width; ++c) read[c] += share * u[j * value_width + c];
    }
    for (std::size_t c = 0; c < value_width; ++c) out(t, h, c) = static_cast<float>(read[c]);
  }
  for (std::size_t d = 0; d < key_width; ++d) {
    for (std::size_t c = 0; c < value_width; ++c) {
      double updated = std::exp(log_sum.back()) * state(h, d, c);
      for (std::size_t j = 0; j < tokens.count(); ++j) {
        updated += std::exp(log_sum.back() - log_sum[j]) * in.k(tokens.begin + j, key_head, d) * u[j * value_width + c];
      }
      state(h, d, c) = static_cast<float>(updated);
    }
  }
}

void delta_rule_chunk(View<float> out, View<float> state, const DeltaRuleInputs& in, Range heads) {
  for (std::size_t h = heads.begin; h < heads.end; ++h) {
    for (std::size_t begin = 0; begin < out.dim(0); begin += kDeltaChunk) {
      delta_rule_one_chunk(out, state, in, h, {begin, std::min(begin + kDeltaChunk, out.dim(0))});
    }
  }
}

}  // namespace

void add_delta_net(KernelTable& table) {
  table.causal_conv_silu = causal_conv_silu;
  table.delta_gates = delta_gates;
  table.delta_rule_step = delta_rule_step;
  table.delta_rule_chunk = delta_rule_chunk;
}

}  // namespace qnext
