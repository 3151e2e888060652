// Causal attention, 64 queries at a time against all the keys that they see; probabilities are recomputed in backward.
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

constexpr std::int64_t kQueries = 64;

// d_scores <- scale * p * (d_p - shift)
QN_EVERY_ISA void softmax_backward(float* d_p, const float* p, float shift, float scale, std::int64_t count) {
#pragma omp simd
  for (std::int64_t i = 0; i < count; ++i) d_p[i] = scale * p[i] * (d_p[i] - shift);
}

// A block of queries of one document, and the keys from the document's begin that its last query sees.
struct Block {
  std::int64_t begin = 0, end = 0, keys_begin = 0;
  std::int64_t queries() const { return end - begin; }
  std::int64_t keys() const { return end - keys_begin; }
  std::int64_t seen_by(std::int64_t query) const { return begin + query + 1 - keys_begin; }
};

template <class Visit>
void for_each_query_block(std::int64_t begin, std::int64_t end, Visit visit) {
  for (std::int64_t t = begin; t < end; t += kQueries) visit(Block{t, std::min(t + kQueries, end), begin});
}

float scale_of(const Tensor& q) {
  return 1.0f / std::sqrt(static_cast<float>(q.size(2)));
}

struct Attention : torch::autograd::Function<Attention> {
  static Tensor forward(AutogradContext* context, const Tensor& q, const Tensor& k, const Tensor& v,
                        const Bounds& bounds) {
    const PartTimer timer(Part::kAttention);
    const std::int64_t Hq = q.size(1), r = Hq / k.size(1), num_documents = std::ssize(bounds) - 1;
    Tensor out = torch::empty_like(q);
    const Tensor log_sums = torch::empty({Hq, q.size(0)});
    for_each_task(num_documents * Hq, [&](std::int64_t task) {
      const auto document = static_cast<std::size_t>(task / Hq);
      const std::int64_t head = task % Hq;
      const ConstMatrix queries = head_matrix(q, head), keys = head_matrix(k, head / r),
                        values = head_matrix(v, head / r);
      const Matrix result = head_matrix(out, head);
      std::vector<float> memory(static_cast<std::size_t>(kQueries * (bounds[document + 1] - bounds[document])));
      for_each_query_block(bounds[document], bounds[document + 1], [&](const Block& block) {
        const Matrix p{memory.data(), block.queries(), block.keys(), block.keys()};
        multiply_nt(p, queries.row_range(block.begin, block.end), keys.row_range(block.keys_begin, block.end),
                    Into::kReplace, scale_of(q));
        for (std::int64_t i = 0; i < block.queries(); ++i) {
          const std::int64_t seen = block.seen_by(i);
          const float top = largest(p.row(i), seen);
          const float sum = exp_inplace(p.row(i), top, seen);
          scale_inplace(p.row(i), 1.0f / sum, seen);
          std::fill(p.row(i) + seen, p.row(i) + block.keys(), 0.0f);
          log_sums.data_ptr<float>()[head * q.size(0) + block.begin + i] = top + std::log(sum);
        }
        multiply(result.row_range(block.begin, block.end), p, values.row_range(block.keys_begin, block.end));
      });
    });
    context->save_for_backward({q, k, v, out, log_sums});
    context->saved_data["bounds"] = bounds;
    return out;
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const PartTimer timer(Part::kAttention);
    const auto saved = context->get_saved_variables();
    const Bounds bounds = context->saved_data["bounds"].toIntVector();
    const std::int64_t Hkv = saved[1].size(1), num_documents = std::ssize(bounds) - 1;
    const Tensor d_out = gradients[0].contiguous();
    variable_list d_inputs = {torch::empty_like(saved[0]), torch::zeros_like(saved[1]), torch::zeros_like(saved[2])};
    for_each_task(num_documents * Hkv, [&](std::int64_t task) {  // keys' gradients come from all of their query heads
      const auto document = static_cast<std::size_t>(task / Hkv);
      backward_head(saved, d_out, d_inputs, bounds[document], bounds[document + 1], task % Hkv);
    });
    return {d_inputs[0], d_inputs[1], d_inputs[2], no_gradient()};
  }

  static void backward_head(const variable_list& saved, const Tensor& d_out, const variable_list& d_inputs,
                            std::int64_t begin, std::int64_t end, std::int64_t key_head) {
    const Tensor &q = saved[0], &log_sums = saved[4];
    const std::int64_t r = q.size(1) / saved[1].size(1);
    const ConstMatrix keys = head_matrix(saved[1], key_head), values = head_matrix(saved[2], key_head);
    const Matrix d_keys = head_matrix(d_inputs[1], key_head), d_values = head_matrix(d_inputs[2], key_head);
    std::vector<float> memory(static_cast<std::size_t>(2 * kQueries * (end - begin)));
    for (std::int64_t head = key_head * r; head < (key_head + 1) * r; ++head) {
      const ConstMatrix queries = head_matrix(q, head), out = head_matrix(saved[3], head),
                        d_result = head_matrix(d_out, head);
      for_each_query_block(begin, end, [&](const Block& block) {
        const Matrix p{memory.data(), block.queries(), block.keys(), block.keys()};
        const Matrix d_p{memory.data() + kQueries * (end - begin), block.queries(), block.keys(), block.keys()};
        const ConstMatrix block_queries = queries.row_range(block.begin, block.end);
        const ConstMatrix block_keys = keys.row_range(block.keys_begin, block.end);
        const ConstMatrix block_d_out = d_result.row_range(block.begin, block.end);
        multiply_nt(p, block_queries, block_keys, Into::kReplace, scale_of(q));
        multiply_nt(d_p, block_d_out, values.row_range(block.keys_begin, block.end));
        for (std::int64_t i = 0; i < block.queries(); ++i) {
          const std::int64_t seen = block.seen_by(i);
          exp_inplace(p.row(i), log_sums.data_ptr<float>()[head * q.size(0) + block.begin + i], seen);
          const float shift = dot(block_d_out.row(i), out.row(block.begin + i), out.cols);
          softmax_backward(d_p.row(i), p.row(i), shift, scale_of(q), seen);
          std::fill(p.row(i) + seen, p.row(i) + block.keys(), 0.0f);
          std::fill(d_p.row(i) + seen, d_p.row(i) + block.keys(), 0.0f);
        }
        multiply(head_matrix(d_inputs[0], head).row_range(block.begin, block.end), d_p, block_keys);
        multiply_tn(d_keys.row_range(block.keys_begin, block.end), d_p, block_queries, Into::kAdd);
        multiply_tn(d_values.row_range(block.keys_begin, block.end), p, block_d_out, Into::kAdd);
      });
    }
  }
};

}  // namespace

Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, const Bounds& bounds) {
  return Attention::apply(q.contiguous(), k.contiguous(), v.contiguous(), bounds);
}

}  // namespace qnext::train
