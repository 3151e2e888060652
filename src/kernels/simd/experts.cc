#include "kernels/simd/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/simd/experts.cc"
#include <hwy/foreach_target.h>

#include <hwy/highway.h>

#include <limits>

#include "kernels/simd/dot-inl.h"
#include "kernels/simd/math-inl.h"
#include "kernels/simd/simd_kernels.h"

HWY_BEFORE_NAMESPACE();
namespace qnext::HWY_NAMESPACE {

// ---- Routing ----

// values[i] = e^(values[i] - max), summed in index order. Vectors and single lanes give the same values.
double exp_and_sum(const float* logits, std::size_t count, float max) {
  double total = 0;
  for_each_vector({0, count}, [&](auto d, std::size_t i) HWY_ATTR {
    alignas(64) float p[kLanes];
    hn::Store(exp(d, hn::Sub(hn::LoadU(d, logits + i), hn::Set(d, max))), d, p);
    for (std::size_t lane = 0; lane < hn::Lanes(d); ++lane) total += p[lane];
  });
  return total;
}

// A NaN, which only broken weights give, is never chosen before a number.
float order_key(float logit) {
  return logit == logit ? logit : -std::numeric_limits<float>::infinity();
}

// ids[0, num_active): the largest logits, largest first, ties to the lower index. By insertion: few are active, and
// most logits fail the first comparison.
void select_top(std::uint32_t* ids, const float* logits, std::size_t num_experts, std::size_t num_active) {
  std::size_t num_chosen = 0;
  for (std::size_t e = 0; e < num_experts; ++e) {
    const float key = order_key(logits[e]);
    if (num_chosen == num_active && !(key > order_key(logits[ids[num_chosen - 1]]))) continue;
    std::size_t at = num_chosen < num_active ? num_chosen++ : num_chosen - 1;
    for (; at > 0 && key > order_key(logits[ids[at - 1]]); --at) ids[at] = ids[at - 1];
    ids[at] = static_cast<std::uint32_t>(e);
  }
}

void route_top_k(View<std::uint32_t> expert_ids, View<float> weights, View<const float> logits, bool normalize,
                 Range tokens) {
  const std::size_t num_active = expert_ids.dim(1);
  for (std::size_t t = tokens.begin; t < tokens.end; ++t) {
    const float* row = logits.row(t);
    std::uint32_t* ids = expert_ids.row(t);
    float* p = weights.row(t);
    select_top(ids, row, logits.dim(1), num_active);
    const float max = row[ids[0]];
    for (std::size_t i = 0; i < num_active; ++i) p[i] = row[ids[i]] - max;
    double total = 0;
    for_each_vector({0, num_active},
                    [&](auto d, std::size_t i) HWY_ATTR { hn::StoreU(exp(d, hn::LoadU(d, p + i)), d, p + i); });
    for (std::size_t i = 0; i < num_active; ++i) total += p[i];
    if (!normalize) total = exp_and_sum(row, logits.dim(1), max);
    for (std::size_t i = 0; i < num_active; ++i) p[i] = static_cast<float>(p[i] / total);
  }
}

// ---- Experts ----

// work(expert_idx, pairs): the pairs of every expert that has some, at most kBlockTokens at a time.
template <class Work>
void for_each_pair_block(const Routing& routing, const Work& work) {
  for (std::size_t e = 0; e + 1 < routing.expert_begin.size(); ++e) {
    const std::size_t end = routing.expert_begin[e + 1];
    for (std::size_t first = routing.expert_begin[e]; first < end; first += kBlockTokens) {
      work(e, Range{first, std::min(first + kBlockTokens, end)});
    }
  }
}

// work(rows): `columns` in parts of a panel.
template <class Work>
void for_each_panel(Range columns, const Work& work) {
  for (std::size_t row = columns.begin; row < columns.end; row += kPanelRows) {
    work(Range{row, std::min(row + kPanelRows, columns.end)});
  }
}

void expert_hidden(View<float> hidden, View<const float> x, const Routing& routing, const ExpertWeights& experts,
                   Range columns) {
  for_each_pair_block(routing, [&](std::size_t e, Range pairs) HWY_ATTR {
    TokenRows tokens;
    for (std::size_t i = pairs.begin; i < pairs.end; ++i) tokens.x[tokens.count++] = x.row(routing.pair_token[i]);
    for_each_panel(columns, [&](Range rows) HWY_ATTR {
      float gate[kPanelRows * kBlockTokens];
      float up[kPanelRows * kBlockTokens];
      dot_panel(gate, experts.gate[e], rows, tokens);
      dot_panel(up, experts.up[e], rows, tokens);
      for_each_vector({0, rows.count() * tokens.count}, [&](auto d, std::size_t i) HWY_ATTR {
        hn::StoreU(hn::Mul(silu(d, hn::LoadU(d, gate + i)), hn::LoadU(d, up + i)), d, gate + i);
      });
      for (std::size_t t = 0; t < tokens.count; ++t) {
        float* out = hidden.row(pairs.begin + t) + rows.begin;
        for (std::size_t r = 0; r < rows.count(); ++r) out[r] = gate[r * tokens.count + t];
      }
    });
  });
}

void expert_output(View<float> out, View<const float> hidden, const Routing& routing, const ExpertWeights& experts,
                   Range columns) {
  for_each_pair_block(routing, [&](std::size_t e, Range pairs) HWY_ATTR {
    TokenRows tokens;
    for (std::size_t i = pairs.begin; i < pairs.end; ++i) tokens.x[tokens.count++] = hidden.row(i);
    for_each_panel(columns, [&](Range rows) HWY_ATTR {
      float sums[kPanelRows * kBlockTokens];
      dot_panel(sums, experts.down[e], rows, tokens);
      for (std::size_t t = 0; t < tokens.count; ++t) {
        const float weight = routing.pair_weight[pairs.begin + t];
        float* out_row = out.row(routing.pair_token[pairs.begin + t]) + rows.begin;
        for (std::size_t r = 0; r < rows.count(); ++r) out_row[r] += weight * sums[r * tokens.count + t];
      }
    });
  });
}

void AddExperts(KernelTable& table) {
  table.route_top_k = route_top_k;
  table.expert_hidden = expert_hidden;
  table.expert_output = expert_output;
}

}  // namespace qnext::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qnext {

HWY_EXPORT(AddExperts);

void add_simd_experts(KernelTable& table) {
  HWY_DYNAMIC_DISPATCH(AddExperts)(table);
}

}  // namespace qnext
#endif
