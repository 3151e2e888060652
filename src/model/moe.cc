#include "model/layers.h"

namespace qnext {
namespace {

// The (token, expert) pairs in expert order, tokens ascending: each expert's weights are walked once for all its
// tokens.
Routing sort_by_expert(Arena& tmp, View<const std::uint32_t> expert_ids, View<const float> weights, std::size_t E) {
  const std::size_t T = expert_ids.dim(0);
  const std::size_t A = expert_ids.dim(1);
  auto* begin = tmp.allocate<std::uint32_t>(E + 1);
  auto* pair_token = tmp.allocate<std::uint32_t>(T * A);
  auto* pair_weight = tmp.allocate<float>(T * A);
  std::fill_n(begin, E + 1, 0);
  for (std::size_t t = 0; t < T; ++t) {
    for (std::size_t a = 0; a < A; ++a) ++begin[expert_ids(t, a) + 1];
  }
  for (std::size_t e = 0; e < E; ++e) begin[e + 1] += begin[e];
  auto* next = tmp.allocate<std::uint32_t>(E);
  std::copy_n(begin, E, next);
  for (std::size_t t = 0; t < T; ++t) {
    for (std::size_t a = 0; a < A; ++a) {
      const std::uint32_t pair_idx = next[expert_ids(t, a)]++;
      pair_token[pair_idx] = static_cast<std::uint32_t>(t);
      pair_weight[pair_idx] = weights(t, a);
    }
  }
  return {.expert_begin = {begin, E + 1}, .pair_token = {pair_token, T * A}, .pair_weight = {pair_weight, T * A}};
}

void show_routing(View<const std::uint32_t> expert_ids, View<const float> weights, std::size_t layer_idx,
                  const Step& s) {
  if (s.probe == nullptr) return;
  View<float> ids = make_scratch(s.tmp, {expert_ids.dim(0), expert_ids.dim(1)});
  for (std::size_t i = 0; i < expert_ids.num_elements(); ++i) ids.data()[i] = static_cast<float>(expert_ids.data()[i]);
  s.show("router.experts", layer_idx, ids);
  s.show("router.weights", layer_idx, weights);
}

View<float> gate_and_up(View<const float> h, const DenseWeights& w, const Step& s) {
  View<float> gate = s.k.matmul(s.tmp, h, w.gate);  // [T, width]
  View<float> up = s.k.matmul(s.tmp, h, w.up);      // [T, width]
  s.k.silu_mul_inplace(gate, up);
  return gate;
}

}  // namespace

void add_dense(View<float> x, const Vector& norm, const DenseWeights& w, const Step& s) {
  View<float> h = s.k.rms_norm(s.tmp, x, norm, s.cfg.eps);  // [T, D]
  s.k.matmul_add(s.tmp, x, gate_and_up(h, w, s), w.down);
}

void add_moe(View<float> x, const Vector& norm, const MoeWeights& w, std::size_t layer_idx, const Step& s) {
  const std::size_t T = x.dim(0);
  View<float> h = s.k.rms_norm(s.tmp, x, norm, s.cfg.eps);  // [T, D]
  View<float> logits = s.k.matmul(s.tmp, h, w.router);      // [T, E]
  View<std::uint32_t> expert_ids(s.tmp.allocate<std::uint32_t>(T * s.cfg.A), {T, s.cfg.A});
  View<float> weights = make_scratch(s.tmp, {T, s.cfg.A});
  s.k.route_top_k(expert_ids, weights, logits, s.cfg.normalize_routing);
  show_routing(expert_ids, weights, layer_idx, s);
  const Routing routing = sort_by_expert(s.tmp, expert_ids, weights, s.cfg.E);
  s.k.add_experts(s.tmp, x, h, routing, {.gate = w.gate, .up = w.up, .down = w.down});
  if (w.shared) {
    View<float> shared = s.k.matmul(s.tmp, gate_and_up(h, *w.shared, s), w.shared->down);  // [T, D]
    s.k.add_gated(x, shared, s.k.matmul(s.tmp, h, w.shared_gate));
  }
}

}  // namespace qnext
