// The gated delta rule in chunks. With M = I + L, L = strict_tril(beta_i k_i.k_j e^(G_i - G_j)), G the log-decay summed
// from the chunk's begin and S the state before it, the chunk's writes (one row a token) are
//     W = M^-1 R,   R_i = beta_i (v_i - e^(G_i) S^T k_i)
// its outputs and the state after it
//     O = e^G (Q S) + P W,   P = tril(q_i.k_j e^(G_i - G_j))
//     S+ = e^(G_last) S + (e^(G_last - G) K)^T W.
// Backward differentiates these lines one by one: dR = M^-T dW, dL = -strict_tril(dR W^T).
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

constexpr std::int64_t kChunk = 64;

// Chunks of every document, one after the other: chunk c's state before it is states[c].
struct Chunk {
  std::int64_t begin = 0, end = 0;
  bool first = false;  // of its document
};

struct Plan {
  explicit Plan(const Bounds& bounds) {
    for (std::size_t document = 0; document + 1 < bounds.size(); ++document) {
      first_of.push_back(chunks.size());
      for (std::int64_t t = bounds[document]; t < bounds[document + 1]; t += kChunk) {
        chunks.push_back({t, std::min(t + kChunk, bounds[document + 1]), t == bounds[document]});
      }
    }
    first_of.push_back(chunks.size());
  }
  std::vector<Chunk> chunks;
  std::vector<std::size_t> first_of;  // of each document, and last their number

  std::int64_t num_documents() const { return static_cast<std::int64_t>(first_of.size()) - 1; }
};

// A small matrix of one task.
class Scratch {
 public:
  Scratch(std::int64_t rows, std::int64_t cols) : cols_(cols), data_(static_cast<std::size_t>(rows * cols)) {}
  Matrix rows(std::int64_t count) { return {data_.data(), count, cols_, cols_}; }
  Matrix square(std::int64_t count) { return {data_.data(), count, count, cols_}; }
  ConstMatrix square(std::int64_t count) const { return {data_.data(), count, count, cols_}; }

 private:
  std::int64_t cols_;
  std::vector<float> data_;
};

// Decays of a chunk of one value head: from its begin to i, from i to its end, and from j to i.
struct Decays {
  std::int64_t count = 0;
  float to[kChunk], rest[kChunk], sums[kChunk];
  float whole = 1;
  Scratch between{kChunk, kChunk};  // e^(G_i - G_j) where j <= i, else 0

  void fill(const Tensor& g, std::int64_t head, const Chunk& chunk) {
    count = chunk.end - chunk.begin;
    const std::int64_t num_heads = g.size(1);
    const float* values = g.data_ptr<float>() + chunk.begin * num_heads + head;
    float sum = 0;
    for (std::int64_t i = 0; i < count; ++i) sums[i] = sum += values[i * num_heads];
    whole = std::exp(sum);
    const Matrix matrix = between.square(count);
    for (std::int64_t i = 0; i < count; ++i) {
      to[i] = std::exp(sums[i]);
      rest[i] = std::exp(sum - sums[i]);
      row(matrix.row(i), i);
      std::fill(matrix.row(i) + i + 1, matrix.row(i) + count, 0.0f);
    }
  }

 private:
  QN_EVERY_ISA void row(float* out, std::int64_t i) const {
    const float from = sums[i];
#pragma omp simd
    for (std::int64_t j = 0; j <= i; ++j) out[j] = exp_in_loop(from - sums[j]);
  }
};

QN_EVERY_ISA void multiply_rows(float* out, const float* a, const float* b, float scale, std::int64_t width) {
#pragma omp simd
  for (std::int64_t i = 0; i < width; ++i) out[i] = scale * a[i] * b[i];
}

// out = factor * (v - decay * read): a row of R.
QN_EVERY_ISA void surprise_row(float* out, const float* v, const float* read, float factor, float decay,
                               std::int64_t width) {
#pragma omp simd
  for (std::int64_t i = 0; i < width; ++i) out[i] = factor * (v[i] - decay * read[i]);
}

// The tensors of one call, and what a chunk of a head is of each.
struct Inputs {
  Tensor q, k, v, g, beta;
  std::int64_t r() const { return v.size(1) / k.size(1); }
  float beta_at(std::int64_t t, std::int64_t head) const { return beta.data_ptr<float>()[t * beta.size(1) + head]; }
};

Matrix chunk_of(const Tensor& tensor, std::int64_t head, const Chunk& chunk) {
  return head_matrix(tensor, head).row_range(chunk.begin, chunk.end);
}

// states[chunk, head]: [Dk, Dv].
Matrix state_before(const Tensor& states, std::size_t chunk_idx, std::int64_t head) {
  const std::int64_t num_heads = states.size(1), rows = states.size(2), cols = states.size(3);
  const std::int64_t position = static_cast<std::int64_t>(chunk_idx) * num_heads + head;
  return {states.data_ptr<float>() + position * rows * cols, rows, cols, cols};
}

// What forward and backward both need of a chunk of one value head.
struct ChunkProducts {
  ChunkProducts(std::int64_t Dk, std::int64_t Dv)
      : lower(kChunk, kChunk), mixing(kChunk, kChunk), read(kChunk, Dv), carried(kChunk, Dk) {}

  // `keys` = K K^T and `queries` = Q K^T of the key head.
  void fill(const Inputs& in, const Tensor& states, std::size_t chunk_idx, const Chunk& chunk, std::int64_t head,
            ConstMatrix keys, ConstMatrix queries) {
    decays.fill(in.g, head, chunk);
    const std::int64_t count = decays.count;
    const ConstMatrix k = chunk_of(in.k, head / in.r(), chunk);
    for (std::int64_t i = 0; i < count; ++i) {
      const float* decay = decays.between.square(count).row(i);
      multiply_rows(lower.square(count).row(i), keys.row(i), decay, in.beta_at(chunk.begin + i, head), count);
      multiply_rows(mixing.square(count).row(i), queries.row(i), decay, 1, count);
      scaled(carried.rows(count).row(i), k.row(i), decays.rest[i], k.cols);
    }
    multiply(read.rows(count), k, state_before(states, chunk_idx, head));
  }

  Decays decays;
  Scratch lower;    // L; its diagonal and above are not read
  Scratch mixing;   // P
  Scratch read;     // K S
  Scratch carried;  // e^(G_last - G) K
};

void forward_chunk(const Inputs& in, const Chunk& chunk, std::int64_t head, ChunkProducts& products, Matrix state,
                   Matrix writes, Matrix out) {
  const Decays& decays = products.decays;
  const std::int64_t count = decays.count;
  const ConstMatrix v = chunk_of(in.v, head, chunk), q = chunk_of(in.q, head / in.r(), chunk);
  for (std::int64_t i = 0; i < count; ++i) {
    surprise_row(writes.row(i), v.row(i), products.read.rows(count).row(i), in.beta_at(chunk.begin + i, head),
                 decays.to[i], v.cols);
  }
  solve_unit_lower_inplace(writes, products.lower.square(count));
  multiply(out, q, state);
  for (std::int64_t i = 0; i < count; ++i) scaled(out.row(i), out.row(i), decays.to[i], out.cols);
  multiply(out, products.mixing.square(count), writes, Into::kAdd);
}

// One key head of one document: its value heads, chunk after chunk.
void forward_head(const Inputs& in, const Plan& plan, std::int64_t document, std::int64_t key_head,
                  const Tensor& states, const Tensor& writes, const Tensor& out) {
  const std::int64_t Dk = in.k.size(2), Dv = in.v.size(2);
  ChunkProducts products(Dk, Dv);
  Scratch keys(kChunk, kChunk), queries(kChunk, kChunk), last_state(Dk, Dv);
  const std::size_t end = plan.first_of[static_cast<std::size_t>(document) + 1];
  for (std::size_t chunk_idx = plan.first_of[static_cast<std::size_t>(document)]; chunk_idx < end; ++chunk_idx) {
    const Chunk& chunk = plan.chunks[chunk_idx];
    const std::int64_t count = chunk.end - chunk.begin;
    const ConstMatrix k = chunk_of(in.k, key_head, chunk), q = chunk_of(in.q, key_head, chunk);
    multiply_nt(keys.square(count), k, k);
    multiply_nt(queries.square(count), q, k);
    for (std::int64_t head = key_head * in.r(); head < (key_head + 1) * in.r(); ++head) {
      const Matrix state = state_before(states, chunk_idx, head);
      if (chunk.first) std::fill_n(state.data, Dk * Dv, 0.0f);
      products.fill(in, states, chunk_idx, chunk, head, keys.square(count), queries.square(count));
      const Matrix chunk_writes = chunk_of(writes, head, chunk);
      forward_chunk(in, chunk, head, products, state, chunk_writes, chunk_of(out, head, chunk));
      if (chunk_idx + 1 == end) continue;
      const Matrix next = state_before(states, chunk_idx + 1, head);
      scaled(next.data, state.data, products.decays.whole, Dk * Dv);
      multiply_tn(next, products.carried.rows(count), chunk_writes, Into::kAdd);
    }
  }
}

// Scratch of backward, and the gradients that flow from chunk to chunk.
struct BackwardScratch {
  BackwardScratch(std::int64_t Dk, std::int64_t Dv, std::int64_t r)
      : d_state(r * Dk, Dv),
        d_writes(kChunk, Dv),
        d_read(kChunk, Dv),
        query_read(kChunk, Dv),
        d_out_decayed(kChunk, Dv),
        d_carried(kChunk, Dk),
        d_lower(kChunk, kChunk),
        d_mixing(kChunk, kChunk),
        d_keys(kChunk, kChunk),
        d_queries(kChunk, kChunk) {}
  Scratch d_state;  // of the state after the chunk, for each value head of the key head
  Scratch d_writes, d_read, query_read, d_out_decayed, d_carried, d_lower, d_mixing, d_keys, d_queries;
};

// The gradient of the decays between two tokens of the chunk, given as the gradient times the value, whose row sums
// raise G_i and column sums lower G_j.
void add_pair_gradient(float* d_sums, ConstMatrix pair) {
  for (std::int64_t i = 0; i < pair.rows; ++i) {
    d_sums[i] += sum(pair.row(i), i + 1);
    add_scaled(d_sums, pair.row(i), -1, i + 1);
  }
}

struct Gradients {
  Tensor q, k, v, g, beta;
};

// What the chunk's state transition and outputs give: d_writes, d_mixing, and their parts of dq, dk and the decays.
void backward_reads(const Inputs& in, const Chunk& chunk, std::int64_t head, ChunkProducts& products,
                    BackwardScratch& tmp, ConstMatrix state, Matrix d_state, ConstMatrix writes, ConstMatrix d_out,
                    Gradients& out, float* d_sums) {
  const Decays& decays = products.decays;
  const std::int64_t count = decays.count, key_head = head / in.r();
  const ConstMatrix q = chunk_of(in.q, key_head, chunk), k = chunk_of(in.k, key_head, chunk);
  const Matrix d_k = chunk_of(out.k, key_head, chunk);
  const Matrix d_writes = tmp.d_writes.rows(count), d_carried = tmp.d_carried.rows(count);
  multiply_tn(d_writes, products.mixing.square(count), d_out);
  multiply(d_writes, products.carried.rows(count), d_state, Into::kAdd);
  multiply_nt(d_carried, writes, d_state);
  float d_last = decays.whole * dot(state.data, d_state.data, state.rows * state.cols);
  for (std::int64_t i = 0; i < count; ++i) {
    const float raised = dot(d_carried.row(i), products.carried.rows(count).row(i), k.cols);
    add_scaled(d_k.row(i), d_carried.row(i), decays.rest[i], k.cols);
    d_last += raised;
    d_sums[i] -= raised;
  }
  d_sums[count - 1] += d_last;
  multiply_nt(tmp.d_mixing.square(count), d_out, writes);
  const Matrix read = tmp.query_read.rows(count), decayed = tmp.d_out_decayed.rows(count);
  multiply(read, q, state);
  for (std::int64_t i = 0; i < count; ++i) {
    scaled(decayed.row(i), d_out.row(i), decays.to[i], d_out.cols);
    d_sums[i] += dot(decayed.row(i), read.row(i), read.cols);
  }
  multiply_nt(chunk_of(out.q, key_head, chunk), decayed, state, Into::kAdd);
  scaled(d_state.data, d_state.data, decays.whole, d_state.rows * d_state.cols);
  multiply_tn(d_state, q, decayed, Into::kAdd);
}

// From d_writes through the solve to v, beta, the keys' products and the state that was read.
void backward_writes(const Inputs& in, const Chunk& chunk, std::int64_t head, ChunkProducts& products,
                     BackwardScratch& tmp, ConstMatrix keys, ConstMatrix state, Matrix d_state, ConstMatrix writes,
                     Gradients& out, float* d_sums) {
  const Decays& decays = products.decays;
  const std::int64_t count = decays.count, key_head = head / in.r();
  const ConstMatrix v = chunk_of(in.v, head, chunk), k = chunk_of(in.k, key_head, chunk);
  const Matrix d_v = chunk_of(out.v, head, chunk), d_surprise = tmp.d_writes.rows(count);
  const Matrix d_read = tmp.d_read.rows(count), d_lower = tmp.d_lower.square(count), read = products.read.rows(count);
  solve_unit_lower_transposed_inplace(d_surprise, products.lower.square(count));
  multiply_nt(d_lower, d_surprise, writes, Into::kReplace, -1);
  for (std::int64_t i = 0; i < count; ++i) {
    const float beta = in.beta_at(chunk.begin + i, head);
    const float along_read = decays.to[i] * dot(d_surprise.row(i), read.row(i), v.cols);
    float d_beta = dot(d_surprise.row(i), v.row(i), v.cols) - along_read;
    d_sums[i] -= beta * along_read;
    scaled(d_v.row(i), d_surprise.row(i), beta, v.cols);
    scaled(d_read.row(i), d_surprise.row(i), -beta * decays.to[i], v.cols);
    std::fill(d_lower.row(i) + i, d_lower.row(i) + count, 0.0f);
    const float* decay = decays.between.square(count).row(i);
    for (std::int64_t j = 0; j < i; ++j) d_beta += d_lower.row(i)[j] * keys.row(i)[j] * decay[j];
    multiply_rows(tmp.d_keys.square(count).row(i), d_lower.row(i), decay, beta, count);
    multiply_rows(d_lower.row(i), d_lower.row(i), products.lower.square(count).row(i), 1, i);
    out.beta.data_ptr<float>()[(chunk.begin + i) * in.beta.size(1) + head] = d_beta;
  }
  add_pair_gradient(d_sums, d_lower);
  const Matrix d_k = chunk_of(out.k, key_head, chunk);
  multiply_nt(d_k, d_read, state, Into::kAdd);
  multiply_tn(d_state, k, d_read, Into::kAdd);
  multiply(d_k, tmp.d_keys.square(count), k, Into::kAdd);
  multiply_tn(d_k, tmp.d_keys.square(count), k, Into::kAdd);
}

// From d_mixing to q and k.
void backward_mixing(const Inputs& in, const Chunk& chunk, std::int64_t head, ChunkProducts& products,
                     BackwardScratch& tmp, Gradients& out, float* d_sums) {
  const Decays& decays = products.decays;
  const std::int64_t count = decays.count, key_head = head / in.r();
  const Matrix d_mixing = tmp.d_mixing.square(count), d_queries = tmp.d_queries.square(count);
  for (std::int64_t i = 0; i < count; ++i) {
    multiply_rows(d_queries.row(i), d_mixing.row(i), decays.between.square(count).row(i), 1, count);
    multiply_rows(d_mixing.row(i), d_mixing.row(i), products.mixing.square(count).row(i), 1, count);
  }
  add_pair_gradient(d_sums, d_mixing);
  multiply(chunk_of(out.q, key_head, chunk), d_queries, chunk_of(in.k, key_head, chunk), Into::kAdd);
  multiply_tn(chunk_of(out.k, key_head, chunk), d_queries, chunk_of(in.q, key_head, chunk), Into::kAdd);
}

void backward_head(const Inputs& in, const Plan& plan, std::int64_t document, std::int64_t key_head,
                   const Tensor& states, const Tensor& writes, const Tensor& d_out, Gradients& out) {
  const std::int64_t Dk = in.k.size(2), Dv = in.v.size(2), r = in.r();
  ChunkProducts products(Dk, Dv);
  BackwardScratch tmp(Dk, Dv, r);
  Scratch keys(kChunk, kChunk), queries(kChunk, kChunk);
  const std::size_t first = plan.first_of[static_cast<std::size_t>(document)];
  for (std::size_t chunk_idx = plan.first_of[static_cast<std::size_t>(document) + 1]; chunk_idx-- > first;) {
    const Chunk& chunk = plan.chunks[chunk_idx];
    const std::int64_t count = chunk.end - chunk.begin;
    const ConstMatrix k = chunk_of(in.k, key_head, chunk), q = chunk_of(in.q, key_head, chunk);
    multiply_nt(keys.square(count), k, k);
    multiply_nt(queries.square(count), q, k);
    for (std::int64_t head = key_head * r; head < (key_head + 1) * r; ++head) {
      const Matrix d_state =
          tmp.d_state.rows(r * Dk).row_range((head - key_head * r) * Dk, (head - key_head * r + 1) * Dk);
      const ConstMatrix state = state_before(states, chunk_idx, head), chunk_writes = chunk_of(writes, head, chunk);
      float d_sums[kChunk] = {};
      products.fill(in, states, chunk_idx, chunk, head, keys.square(count), queries.square(count));
      backward_reads(in, chunk, head, products, tmp, state, d_state, chunk_writes, chunk_of(d_out, head, chunk), out,
                     d_sums);
      backward_writes(in, chunk, head, products, tmp, keys.square(count), state, d_state, chunk_writes, out, d_sums);
      backward_mixing(in, chunk, head, products, tmp, out, d_sums);
      float d_g = 0;  // G_i holds g of every token up to i
      for (std::int64_t i = count; i-- > 0;) {
        out.g.data_ptr<float>()[(chunk.begin + i) * in.g.size(1) + head] = d_g += d_sums[i];
      }
    }
  }
}

struct DeltaRule : torch::autograd::Function<DeltaRule> {
  static Tensor forward(AutogradContext* context, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& g,
                        const Tensor& beta, const Bounds& bounds) {
    const PartTimer timer(Part::kDeltaRule);
    const Inputs in{q, k, v, g, beta};
    const Plan plan(bounds);
    const auto num_chunks = static_cast<std::int64_t>(plan.chunks.size());
    const std::int64_t Hk = k.size(1);
    Tensor out = torch::empty_like(v), writes = torch::empty_like(v);
    const Tensor states = torch::empty({num_chunks, v.size(1), k.size(2), v.size(2)});
    for_each_task(plan.num_documents() * Hk,
                  [&](std::int64_t task) { forward_head(in, plan, task / Hk, task % Hk, states, writes, out); });
    context->save_for_backward({q, k, v, g, beta, states, writes});
    context->saved_data["bounds"] = bounds;
    return out;
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const PartTimer timer(Part::kDeltaRule);
    const auto saved = context->get_saved_variables();
    const Inputs in{saved[0], saved[1], saved[2], saved[3], saved[4]};
    const Plan plan(context->saved_data["bounds"].toIntVector());
    const std::int64_t Hk = in.k.size(1);
    const Tensor d_out = gradients[0].contiguous();
    Gradients out{torch::zeros_like(in.q), torch::zeros_like(in.k), torch::empty_like(in.v), torch::empty_like(in.g),
                  torch::empty_like(in.beta)};
    for_each_task(plan.num_documents() * Hk, [&](std::int64_t task) {
      backward_head(in, plan, task / Hk, task % Hk, saved[5], saved[6], d_out, out);
    });
    return {out.q, out.k, out.v, out.g, out.beta, no_gradient()};
  }
};

}  // namespace

Tensor delta_rule(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& g, const Tensor& beta,
                  const Bounds& bounds) {
  return DeltaRule::apply(q.contiguous(), k.contiguous(), v.contiguous(), g.contiguous(), beta.contiguous(), bounds);
}

}  // namespace qnext::train
