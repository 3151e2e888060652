#include <cmath>

#include "model/layers.h"

namespace qnext {
namespace {

constexpr float kL2NormEps = 1e-6f;

// The channels of the conv's output, apart.
struct Qkv {
  View<float> q, k;  // [T, Hk, Dk]
  View<float> v;     // [T, Hv, Dv]
};

Qkv split_channels(View<float> mixed, const ModelConfig& cfg) {
  const std::size_t key_width = cfg.Hk * cfg.Dk;
  return {.q = mixed.slice(1, 0, key_width).split_last(cfg.Hk),
          .k = mixed.slice(1, key_width, 2 * key_width).split_last(cfg.Hk),
          .v = mixed.slice(1, 2 * key_width, cfg.C()).split_last(cfg.Hv)};
}

// Runs `advance(rows)` over a sequence's rows: all at once, but for a stop at each row whose state must be kept.
void for_each_piece(const SequenceSpan& span, std::size_t delta_layer_idx, const StateStore& states,
                    FunctionRef<void(Range)> advance) {
  if (span.checkpoint) {
    const std::size_t cut = span.rows.begin + span.checkpoint->num_rows;
    QN_CHECK(span.window_slots.empty() && cut > span.rows.begin && cut <= span.rows.end,
             "a checkpoint after {} of {} rows, {} window slots", span.checkpoint->num_rows, span.rows.count(),
             span.window_slots.size());
    advance({span.rows.begin, cut});
    states.copy_layer(span.checkpoint->slot, span.state_slot, delta_layer_idx);
    if (cut < span.rows.end) advance({cut, span.rows.end});
    return;
  }
  if (span.window_slots.empty()) return advance(span.rows);
  QN_CHECK(span.window_slots.size() + 1 == span.rows.count(), "{} window slots for {} rows", span.window_slots.size(),
           span.rows.count());
  for (std::size_t row = span.rows.begin; row < span.rows.end; ++row) {
    advance({row, row + 1});
    if (row + 1 == span.rows.end) break;
    states.copy_layer(span.window_slots[row - span.rows.begin], span.state_slot, delta_layer_idx);
  }
}

}  // namespace

void add_gated_delta_net(View<float> x, const Vector& norm, const DeltaNetWeights& w, std::size_t delta_layer_idx,
                         const Step& s) {
  const ModelConfig& cfg = s.cfg;
  const std::size_t T = x.dim(0);
  View<float> h = s.k.rms_norm(s.tmp, x, norm, cfg.eps);         // [T, D]
  View<float> mixed = s.k.matmul(s.tmp, h, w.qkv);               // [T, C]
  View<float> z = s.k.matmul(s.tmp, h, w.z).split_last(cfg.Hv);  // [T, Hv, Dv]
  View<float> ba = s.k.matmul(s.tmp, h, w.ba);                   // [T, 2*Hv]
  View<float> log_decay = make_scratch(s.tmp, {T, cfg.Hv});
  View<float> beta = make_scratch(s.tmp, {T, cfg.Hv});
  s.k.delta_gates(log_decay, beta, ba.slice(1, cfg.Hv, 2 * cfg.Hv), ba.slice(1, 0, cfg.Hv), w.neg_exp_a, w.dt_bias);

  const View<const float> taps(w.conv.data(), {cfg.conv_taps, cfg.C()});
  View<float> convolved = make_scratch(s.tmp, {T, cfg.C()});
  const Qkv qkv = split_channels(convolved, cfg);
  View<float> o = make_scratch(s.tmp, {T, cfg.Hv, cfg.Dv});
  for (const SequenceSpan& span : s.batch.spans) {
    View<float> history = s.caches.state.conv_history(span.state_slot, delta_layer_idx);
    View<float> state = s.caches.state.recurrent(span.state_slot, delta_layer_idx);
    for_each_piece(span, delta_layer_idx, s.caches.state, [&](Range rows) {
      const auto of = [&](auto view) { return view.slice(0, rows.begin, rows.end); };
      s.k.causal_conv_silu(of(convolved), history, of(mixed), taps);
      s.k.l2_norm_inplace(of(qkv.q), 1.0f / std::sqrt(static_cast<float>(cfg.Dk)), kL2NormEps);
      s.k.l2_norm_inplace(of(qkv.k), 1.0f, kL2NormEps);
      s.k.delta_rule(of(o), state,
                     {.q = of(qkv.q), .k = of(qkv.k), .v = of(qkv.v), .log_decay = of(log_decay), .beta = of(beta)});
    });
  }
  s.k.rms_norm_gated_inplace(o, z, w.norm, cfg.eps);  // plain weight, times silu(z)
  s.k.matmul_add(s.tmp, x, o.merge_last(), w.out);    // [T, D] +=
}

}  // namespace qnext
