#include "model/layers.h"

namespace qnext {

Result<std::unique_ptr<const Qwen3Next>> Qwen3Next::load(const std::string& path) {
  QN_TRY(ModelWeights weights, load_weights(path));
  return std::make_unique<const Qwen3Next>(std::move(weights));
}

Result<std::unique_ptr<const Qwen3Next>> Qwen3Next::load(const std::string& path, const Ops& ops,
                                                         const PackOptions& options) {
  QN_TRY(ModelWeights weights, load_weights(path));
  QN_RETURN_IF_ERROR(pack_weights(weights, ops, options));
  return std::make_unique<const Qwen3Next>(std::move(weights));
}

Qwen3Next::Qwen3Next(ModelWeights weights)
    : weights_(std::move(weights)), rope_(make_rope_frequencies(weights_.config.rope)) {}

namespace {

void add_layer(View<float> x, const LayerWeights& w, std::size_t layer_idx, std::size_t cache_layer_idx,
               const Step& s) {
  const Arena::Scope scope(s.tmp);
  if (const auto* attention = std::get_if<AttentionWeights>(&w.mixer)) {
    add_attention(x, w.mixer_norm, *attention, cache_layer_idx, s);
  } else {
    add_gated_delta_net(x, w.mixer_norm, std::get<DeltaNetWeights>(w.mixer), cache_layer_idx, s);
  }
  if (const auto* moe = std::get_if<MoeWeights>(&w.ffn)) {
    add_moe(x, w.ffn_norm, *moe, layer_idx, s);
  } else {
    add_dense(x, w.ffn_norm, std::get<DenseWeights>(w.ffn), s);
  }
}

}  // namespace

View<float> Qwen3Next::forward(const Ops& ops, Arena& scratch, const Batch& batch, const Caches& caches,
                               const Probe* probe) const {
  const ModelConfig& cfg = weights_.config;
  View<float> x = ops.embed(scratch, batch.token_ids, weights_.embedding);  // [T, D]
  {
    const Arena::Scope scope(scratch);
    const Step step{ops, scratch, cfg, batch, caches, make_rope_tables(scratch, batch, rope_), probe};
    std::size_t kv_layer_idx = 0;
    std::size_t delta_layer_idx = 0;
    for (std::size_t layer_idx = 0; layer_idx < cfg.num_layers(); ++layer_idx) {
      step.show("hidden", layer_idx, x);
      const bool is_attention = cfg.layers[layer_idx].mixer == MixerKind::kAttention;
      add_layer(x, weights_.layers[layer_idx], layer_idx, is_attention ? kv_layer_idx++ : delta_layer_idx++, step);
    }
    ops.rms_norm_inplace(x, weights_.final_norm, cfg.eps);
    step.show("hidden", cfg.num_layers(), x);
  }
  return x;
}

View<float> Qwen3Next::logits(const Ops& ops, Arena& scratch, View<const float> hidden) const {
  return ops.matmul(scratch, hidden, weights_.head);  // [T, V]
}

View<float> Qwen3Next::forward_mtp(const Ops& ops, Arena& scratch, const Batch& batch, View<const float> hidden,
                                   const Caches& caches, const Probe* probe) const {
  const ModelConfig& cfg = weights_.config;
  const MtpWeights& w = *weights_.mtp;
  const std::size_t T = batch.token_ids.size();
  View<float> y = make_scratch(scratch, {T, cfg.D});
  {
    const Arena::Scope scope(scratch);
    const Step step{ops, scratch, cfg, batch, caches, make_rope_tables(scratch, batch, rope_), probe};
    View<float> e =
        ops.rms_norm(scratch, ops.embed(scratch, batch.token_ids, weights_.embedding), w.embedding_norm, cfg.eps);
    View<float> h = ops.rms_norm(scratch, hidden, w.hidden_norm, cfg.eps);  // [T, D]
    View<float> both = make_scratch(scratch, {T, 2 * cfg.D});               // embedding first
    for (std::size_t t = 0; t < T; ++t) {
      std::copy_n(e.row(t), cfg.D, both.row(t));
      std::copy_n(h.row(t), cfg.D, both.row(t) + cfg.D);
    }
    std::fill_n(y.data(), y.num_elements(), 0.0f);
    ops.matmul_add(scratch, y, both, w.fc);
    add_layer(y, w.layer, cfg.num_layers(), caches.kv.num_kv_layers - 1, step);
    ops.rms_norm_inplace(y, w.norm, cfg.eps);
    step.show("mtp.hidden", 0, y);
  }
  return y;
}

}  // namespace qnext
