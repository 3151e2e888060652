#include <cmath>

#include "model/layers.h"

namespace qnext {
namespace {

// Each sequence's new keys and values go to its pages; what comes back is what its queries may see.
std::span<const AttendSpan> append_to_cache(View<const float> key, View<const float> value, std::size_t kv_layer_idx,
                                            const Step& s) {
  const std::size_t num_spans = s.batch.spans.size();
  auto* spans = s.tmp.allocate<AttendSpan>(num_spans);
  for (std::size_t i = 0; i < num_spans; ++i) {
    const SequenceSpan& span = s.batch.spans[i];
    const KvPages kv = s.caches.kv.layer(kv_layer_idx, span.kv_pages);
    QN_CHECK((span.first_position + span.rows.count()) <= kv.pages.size() * kv.page_tokens,
             "{} pages for positions up to {}", kv.pages.size(), span.first_position + span.rows.count());
    s.k.table().store_kv(kv, key.slice(0, span.rows.begin, span.rows.end),
                         value.slice(0, span.rows.begin, span.rows.end), span.first_position);
    spans[i] = {.rows = span.rows, .first_position = span.first_position, .kv = kv};
  }
  return {spans, num_spans};
}

}  // namespace

RopeTables make_rope_tables(Arena& scratch, const Batch& batch, const RopeFrequencies& rope) {
  const std::size_t half = rope.inverse.size();
  RopeTables out{make_scratch(scratch, {batch.token_ids.size(), half}),
                 make_scratch(scratch, {batch.token_ids.size(), half})};
  for (const SequenceSpan& span : batch.spans) {
    for (std::size_t row = span.rows.begin; row < span.rows.end; ++row) {
      const auto position = static_cast<float>(span.first_position + row - span.rows.begin);
      for (std::size_t i = 0; i < half; ++i) {
        const float angle = position * rope.inverse[i];  // rounded to f32, as the reference has it
        out.cos(row, i) = static_cast<float>(std::cos(static_cast<double>(angle))) * rope.factor;
        out.sin(row, i) = static_cast<float>(std::sin(static_cast<double>(angle))) * rope.factor;
      }
    }
  }
  return out;
}

void add_attention(View<float> x, const Vector& norm, const AttentionWeights& w, std::size_t kv_layer_idx,
                   const Step& s) {
  const ModelConfig& cfg = s.cfg;
  View<float> h = s.k.rms_norm(s.tmp, x, norm, cfg.eps);                  // [T, D]
  View<float> q_and_gate = s.k.matmul(s.tmp, h, w.q).split_last(cfg.Hq);  // [T, Hq, Dh or 2*Dh]
  View<float> q = q_and_gate.slice(2, 0, cfg.Dh);                         // [T, Hq, Dh]
  View<float> key = s.k.matmul(s.tmp, h, w.k).split_last(cfg.Hkv);        // [T, Hkv, Dh]
  View<float> value = s.k.matmul(s.tmp, h, w.v).split_last(cfg.Hkv);      // [T, Hkv, Dh]
  s.k.rms_norm_inplace(q, w.q_norm, cfg.eps);                             // per head
  s.k.rms_norm_inplace(key, w.k_norm, cfg.eps);
  s.k.rope_inplace(q, s.rope.cos, s.rope.sin);  // first R of Dh only
  s.k.rope_inplace(key, s.rope.cos, s.rope.sin);
  const std::span<const AttendSpan> spans = append_to_cache(key, value, kv_layer_idx, s);
  const float scale = 1.0f / std::sqrt(static_cast<float>(cfg.Dh));
  View<float> o = s.k.attend(s.tmp, q, spans, scale);  // [T, Hq, Dh]
  if (cfg.attention_gate) s.k.sigmoid_gate_inplace(o, q_and_gate.slice(2, cfg.Dh, 2 * cfg.Dh));
  s.k.matmul_add(s.tmp, x, o.merge_last(), w.out);  // [T, D] +=
}

}  // namespace qnext
