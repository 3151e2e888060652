#include "kernels/simd/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/simd/rows.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <cmath>
#include <limits>

#include "kernels/simd/math-inl.h"
#include "kernels/simd/simd_kernels.h"

HWY_BEFORE_NAMESPACE();
namespace qnext {
namespace HWY_NAMESPACE {
namespace {

// In four chains, which hides the latency of the adds.
float sum_of_squares(const float* x, std::size_t width) {
  const hn::ScalableTag<float> d;
  const std::size_t lanes = hn::Lanes(d);
  auto sum0 = hn::Zero(d), sum1 = hn::Zero(d), sum2 = hn::Zero(d), sum3 = hn::Zero(d);
  const auto add_square = [&](auto sum, std::size_t i) HWY_ATTR {
    const auto value = hn::LoadU(d, x + i);
    return hn::MulAdd(value, value, sum);
  };
  std::size_t i = 0;
  for (; i + 4 * lanes <= width; i += 4 * lanes) {
    sum0 = add_square(sum0, i);
    sum1 = add_square(sum1, i + lanes);
    sum2 = add_square(sum2, i + 2 * lanes);
    sum3 = add_square(sum3, i + 3 * lanes);
  }
  for (; i + lanes <= width; i += lanes) sum0 = add_square(sum0, i);
  float rest = 0.0f;
  for (; i < width; ++i) rest += x[i] * x[i];
  return rest + hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(sum0, sum1), hn::Add(sum2, sum3))));
}

float inverse_rms(const float* x, std::size_t width, float eps) {
  return 1.0f / std::sqrt(sum_of_squares(x, width) / static_cast<float>(width) + eps);
}

void norm_row(float* out, const float* x, std::span<const float> weight, float eps) {
  const float scale = inverse_rms(x, weight.size(), eps);
  for_each_vector({0, weight.size()}, [&](auto d, std::size_t i) HWY_ATTR {
    const auto normal = hn::Mul(hn::LoadU(d, x + i), hn::Set(d, scale));
    hn::StoreU(hn::Mul(normal, hn::LoadU(d, weight.data() + i)), d, out + i);
  });
}

void rms_norm(View<float> out, View<const float> x, std::span<const float> weight, float eps, Range rows) {
  for (std::size_t row_idx = rows.begin; row_idx < rows.end; ++row_idx) {
    if (x.rank() == 2) {
      norm_row(out.row(row_idx), x.row(row_idx), weight, eps);
      continue;
    }
    for (std::size_t head_idx = 0; head_idx < x.dim(1); ++head_idx) {
      norm_row(out.row(row_idx, head_idx), x.row(row_idx, head_idx), weight, eps);
    }
  }
}

void rms_norm_gated(View<float> out, View<const float> x, View<const float> gate, std::span<const float> weight,
                    float eps, Range rows) {
  for (std::size_t t = rows.begin; t < rows.end; ++t) {
    for (std::size_t h = 0; h < x.dim(1); ++h) {
      const float scale = inverse_rms(x.row(t, h), weight.size(), eps);
      for_each_vector({0, weight.size()}, [&](auto d, std::size_t i) HWY_ATTR {
        const auto normal = hn::Mul(hn::LoadU(d, x.row(t, h) + i), hn::Set(d, scale));
        const auto opening = silu(d, hn::LoadU(d, gate.row(t, h) + i));
        hn::StoreU(hn::Mul(hn::Mul(normal, hn::LoadU(d, weight.data() + i)), opening), d, out.row(t, h) + i);
      });
    }
  }
}

void l2_norm_inplace(View<float> x, float scale, float eps, Range rows) {
  for (std::size_t t = rows.begin; t < rows.end; ++t) {
    for (std::size_t h = 0; h < x.dim(1); ++h) {
      float* row = x.row(t, h);
      const float factor = scale / std::sqrt(sum_of_squares(row, x.dim(2)) + eps);
      for_each_vector({0, x.dim(2)}, [&](auto d, std::size_t i) HWY_ATTR {
        hn::StoreU(hn::Mul(hn::LoadU(d, row + i), hn::Set(d, factor)), d, row + i);
      });
    }
  }
}

void rope_inplace(View<float> x, View<const float> cos, View<const float> sin, Range rows) {
  const std::size_t num_angles = cos.dim(1);
  for (std::size_t t = rows.begin; t < rows.end; ++t) {
    for (std::size_t h = 0; h < x.dim(1); ++h) {
      float* lower_half = x.row(t, h);
      float* upper_half = lower_half + num_angles;
      for_each_vector({0, num_angles}, [&](auto d, std::size_t i) HWY_ATTR {
        const auto c = hn::LoadU(d, cos.row(t) + i);
        const auto s = hn::LoadU(d, sin.row(t) + i);
        const auto lower = hn::LoadU(d, lower_half + i);
        const auto upper = hn::LoadU(d, upper_half + i);
        hn::StoreU(hn::NegMulAdd(upper, s, hn::Mul(lower, c)), d, lower_half + i);
        hn::StoreU(hn::MulAdd(lower, s, hn::Mul(upper, c)), d, upper_half + i);
      });
    }
  }
}

void silu_mul(View<float> out, View<const float> gate, View<const float> up, Range rows) {
  for (std::size_t t = rows.begin; t < rows.end; ++t) {
    for_each_vector({0, out.dim(1)}, [&](auto d, std::size_t i) HWY_ATTR {
      const auto opening = silu(d, hn::LoadU(d, gate.row(t) + i));
      hn::StoreU(hn::Mul(opening, hn::LoadU(d, up.row(t) + i)), d, out.row(t) + i);
    });
  }
}

void sigmoid_gate_inplace(View<float> x, View<const float> gate, Range rows) {
  for (std::size_t t = rows.begin; t < rows.end; ++t) {
    for (std::size_t h = 0; h < x.dim(1); ++h) {
      float* row = x.row(t, h);
      for_each_vector({0, x.dim(2)}, [&](auto d, std::size_t i) HWY_ATTR {
        const auto share = sigmoid(d, hn::LoadU(d, gate.row(t, h) + i));
        hn::StoreU(hn::Mul(hn::LoadU(d, row + i), share), d, row + i);
      });
    }
  }
}

void add_gated(View<float> out, View<const float> x, View<const float> gate, Range rows) {
  const hn::CappedTag<float, 1> one_lane;
  for (std::size_t t = rows.begin; t < rows.end; ++t) {
    const float share = hn::GetLane(sigmoid(one_lane, hn::Set(one_lane, gate(t, 0))));
    for_each_vector({0, out.dim(1)}, [&](auto d, std::size_t i) HWY_ATTR {
      const auto sum = hn::MulAdd(hn::Set(d, share), hn::LoadU(d, x.row(t) + i), hn::LoadU(d, out.row(t) + i));
      hn::StoreU(sum, d, out.row(t) + i);
    });
  }
}

// ---- Routing ----

// values[i] = e^(values[i] - max), summed in index order. Vectors and single lanes give the same values.
double exp_and_sum(const float* logits, std::size_t count, float max) {
  double total = 0;
  for_each_vector({0, count}, [&](auto d, std::size_t i) HWY_ATTR {
    alignas(64) float p[hn::MaxLanes(hn::ScalableTag<float>())];
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

}  // namespace

void AddRows(KernelTable& table) {
  table.route_top_k = route_top_k;
  table.rms_norm = rms_norm;
  table.rms_norm_gated = rms_norm_gated;
  table.l2_norm_inplace = l2_norm_inplace;
  table.rope_inplace = rope_inplace;
  table.silu_mul = silu_mul;
  table.sigmoid_gate_inplace = sigmoid_gate_inplace;
  table.add_gated = add_gated;
}

}  // namespace HWY_NAMESPACE
}  // namespace qnext
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qnext {

HWY_EXPORT(AddRows);
void add_simd_rows(KernelTable& table) {
  HWY_DYNAMIC_DISPATCH(AddRows)(table);
}

}  // namespace qnext
#endif
