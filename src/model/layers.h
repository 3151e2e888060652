#pragma once
// The parts of a layer. Each adds its output to the residual stream x [T, D]; the order of its lines is the paper's.

#include <span>

#include "kernels/ops.h"
#include "model/batch.h"
#include "model/caches.h"
#include "model/model.h"
#include "model/rope.h"
#include "model/weights.h"

namespace qnext {

// What every part of one forward pass shares.
struct Step {
  const Ops& k;
  Arena& tmp;
  const ModelConfig& cfg;
  const Batch& batch;
  const Caches& caches;
  RopeTables rope;
  const Probe* probe = nullptr;

  void show(std::string_view name, std::size_t layer_idx, View<const float> values) const {
    if (probe != nullptr) (*probe)(name, layer_idx, values);
  }
};

// x += attention(norm(x)); with output gate when cfg.attention_gate. K/V go to layer kv_layer_idx of caches.kv.
// Source: Qiu et al. 2025 (arXiv 2505.06708), gate after the attention, per element.
void add_attention(View<float> x, const Vector& norm, const AttentionWeights& w, std::size_t kv_layer_idx,
                   const Step& s);

// x += Gated DeltaNet(norm(x)). State is layer delta_layer_idx of caches.state.
// Source: Yang et al. 2024 (arXiv 2412.06464).
void add_gated_delta_net(View<float> x, const Vector& norm, const DeltaNetWeights& w, std::size_t delta_layer_idx,
                         const Step& s);

// x += sum of the chosen experts + gated shared expert, of norm(x).
void add_moe(View<float> x, const Vector& norm, const MoeWeights& w, std::size_t layer_idx, const Step& s);

// x += down(silu(gate h) * up h), h = norm(x).
void add_dense(View<float> x, const Vector& norm, const DenseWeights& w, const Step& s);

}  // namespace qnext
