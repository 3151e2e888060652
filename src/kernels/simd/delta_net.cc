#include "kernels/simd/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/simd/delta_net.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <cmath>
#include <cstring>

#include "kernels/simd/math-inl.h"
#include "kernels/simd/simd_kernels.h"

HWY_BEFORE_NAMESPACE();
namespace qnext {
namespace HWY_NAMESPACE {
namespace {

void causal_conv_silu(View<float> out, View<float> history, View<const float> x, View<const float> weight,
                      Range channels) {
  const std::size_t num_past = history.dim(0);
  const auto input = [&](std::size_t row_idx) {  // of history followed by x
    return row_idx < num_past ? history.row(row_idx) : x.row(row_idx - num_past);
  };
  for (std::size_t t = 0; t < x.dim(0); ++t) {
    for_each_vector(channels, [&](auto d, std::size_t c) HWY_ATTR {
      auto sum = hn::Mul(hn::LoadU(d, weight.row(0) + c), hn::LoadU(d, input(t) + c));
      for (std::size_t j = 1; j <= num_past; ++j) {
        sum = hn::MulAdd(hn::LoadU(d, weight.row(j) + c), hn::LoadU(d, input(t + j) + c), sum);
      }
      hn::StoreU(silu(d, sum), d, out.row(t) + c);
    });
  }
  for (std::size_t i = 0; i < num_past; ++i) {  // ascending: with T < J - 1 a row moves down before it is overwritten
    std::memcpy(history.row(i) + channels.begin, input(x.dim(0) + i) + channels.begin,
                channels.count() * sizeof(float));
  }
}

void delta_gates(View<float> log_decay, View<float> beta, View<const float> a, View<const float> b,
                 std::span<const float> neg_exp_a, std::span<const float> dt_bias, Range rows) {
  for (std::size_t t = rows.begin; t < rows.end; ++t) {
    for_each_vector({0, a.dim(1)}, [&](auto d, std::size_t h) HWY_ATTR {
      const auto step = softplus(d, hn::Add(hn::LoadU(d, a.row(t) + h), hn::LoadU(d, dt_bias.data() + h)));
      hn::StoreU(hn::Mul(hn::LoadU(d, neg_exp_a.data() + h), step), d, log_decay.row(t) + h);
      hn::StoreU(sigmoid(d, hn::LoadU(d, b.row(t) + h)), d, beta.row(t) + h);
    });
  }
}

struct HeadTokens {  // one value head's inputs
  const DeltaRuleInputs& in;
  std::size_t value_head;
  std::size_t key_head;
  std::size_t num_tokens;
  std::size_t key_width;
};

// Columns [column, column + kVecs * lanes) of one head's state, all tokens: columns of S never meet, so a tile of them
// stays in L1 from token to token. Two walks down the rows a token: one recalls k.S, one decays, writes and reads.
template <std::size_t kVecs, class D>
HWY_INLINE void step_columns(D d, float* HWY_RESTRICT state, std::size_t state_stride, View<float> out,
                             const HeadTokens& head, std::size_t column) {
  using V = hn::Vec<D>;
  const std::size_t lanes = hn::Lanes(d);
  for (std::size_t t = 0; t < head.num_tokens; ++t) {
    const float* HWY_RESTRICT q = head.in.q.row(t, head.key_head);
    const float* HWY_RESTRICT k = head.in.k.row(t, head.key_head);
    const V decay = hn::Set(d, std::exp(head.in.log_decay(t, head.value_head)));
    const V beta = hn::Set(d, head.in.beta(t, head.value_head));

    V recalled[kVecs];
    HWY_UNROLL(8)
    for (std::size_t v = 0; v < kVecs; ++v) recalled[v] = hn::Zero(d);
    for (std::size_t i = 0; i < head.key_width; ++i) {
      const V key = hn::Set(d, k[i]);
      HWY_UNROLL(8)
      for (std::size_t v = 0; v < kVecs; ++v) {
        recalled[v] = hn::MulAdd(key, hn::LoadU(d, state + i * state_stride + v * lanes), recalled[v]);
      }
    }

    const float* value = head.in.v.row(t, head.value_head) + column;
    V surprise[kVecs];
    V read[kVecs];
    HWY_UNROLL(8)
    for (std::size_t v = 0; v < kVecs; ++v) {
      surprise[v] = hn::Mul(beta, hn::NegMulAdd(decay, recalled[v], hn::LoadU(d, value + v * lanes)));
      read[v] = hn::Zero(d);
    }
    for (std::size_t i = 0; i < head.key_width; ++i) {
      const V key = hn::Set(d, k[i]);
      const V query = hn::Set(d, q[i]);
      float* row = state + i * state_stride;
      HWY_UNROLL(8)
      for (std::size_t v = 0; v < kVecs; ++v) {
        const V kept = hn::Mul(decay, hn::LoadU(d, row + v * lanes));
        const V updated = hn::MulAdd(key, surprise[v], kept);
        hn::StoreU(updated, d, row + v * lanes);
        read[v] = hn::MulAdd(query, updated, read[v]);
      }
    }
    float* out_row = out.row(t, head.value_head) + column;
    HWY_UNROLL(8)
    for (std::size_t v = 0; v < kVecs; ++v) hn::StoreU(read[v], d, out_row + v * lanes);
  }
}

void delta_rule_step(View<float> out, View<float> state, const DeltaRuleInputs& in, Range heads) {
  constexpr std::size_t kTileVecs = 4;
  const hn::ScalableTag<float> d;
  const hn::CappedTag<float, 1> one_lane;
  const std::size_t lanes = hn::Lanes(d);
  const std::size_t heads_a_key = state.dim(0) / in.k.dim(1);
  const std::size_t value_width = out.dim(2);
  for (std::size_t h = heads.begin; h < heads.end; ++h) {
    const HeadTokens head = {
        .in = in, .value_head = h, .key_head = h / heads_a_key, .num_tokens = out.dim(0), .key_width = in.k.dim(2)};
    float* head_state = state.row(h);
    const std::size_t stride = state.stride(1);
    std::size_t c = 0;
    for (; c + kTileVecs * lanes <= value_width; c += kTileVecs * lanes) {
      step_columns<kTileVecs>(d, head_state + c, stride, out, head, c);
    }
    for (; c + lanes <= value_width; c += lanes) step_columns<1>(d, head_state + c, stride, out, head, c);
    for (; c < value_width; ++c) step_columns<1>(one_lane, head_state + c, stride, out, head, c);
  }
}

}  // namespace

void AddDeltaNet(KernelTable& table) {
  table.causal_conv_silu = causal_conv_silu;
  table.delta_gates = delta_gates;
  table.delta_rule_step = delta_rule_step;
}

}  // namespace HWY_NAMESPACE
}  // namespace qnext
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qnext {

HWY_EXPORT(AddDeltaNet);
void add_simd_delta_net(KernelTable& table) {
  HWY_DYNAMIC_DISPATCH(AddDeltaNet)(table);
}

}  // namespace qnext
#endif
