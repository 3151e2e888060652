#include "eval/work_count.h"

#include <algorithm>
#include <cmath>

namespace qnext {
namespace {

// Sums the work of one step over `T` rows.
class Counter {
 public:
  Counter(const ModelConfig& cfg, std::size_t T) : cfg_(cfg), T_(T) {}

  // A matrix that `num_rows` of the step's rows meet.
  void matrix(const Weight& w, std::size_t num_rows) {
    if (num_rows == 0) return;
    work.weight_bytes += w.bytes();
    work.ops += 2 * num_rows * w.rows * w.cols;
  }
  void matrix(const Weight& w) { matrix(w, T_); }

  void dense(const DenseWeights& w) {
    matrix(w.gate);
    matrix(w.up);
    matrix(w.down);
  }

  void moe(const MoeWeights& w) {
    matrix(w.router);
    if (w.shared) {
      dense(*w.shared);
      matrix(w.shared_gate);
    }
    std::uint64_t expert_bytes = 0;
    for (const auto* experts : {&w.gate, &w.up, &w.down}) {
      for (const Weight& expert : *experts) expert_bytes += expert.bytes();
    }
    work.weight_bytes += static_cast<std::uint64_t>(static_cast<double>(expert_bytes) * share_of_experts());
    work.ops += 2 * T_ * cfg_.A * 3 * cfg_.F * cfg_.D;
  }

  Work work;

 private:
  // Of E experts, the expected share that T tokens visit when all are equally likely.
  double share_of_experts() const {
    const double a_token = static_cast<double>(cfg_.A) / static_cast<double>(cfg_.E);
    return 1.0 - std::pow(1.0 - a_token, static_cast<double>(T_));
  }

  const ModelConfig& cfg_;
  std::size_t T_;
};

// Positions that the tokens of a sequence look back on, themselves included: sum of depth + 1 .. depth + num_tokens.
std::uint64_t attended_positions(const StepShape& shape) {
  return shape.num_tokens * shape.depth + shape.num_tokens * (shape.num_tokens + 1) / 2;
}

void add_attention(Counter& counter, const AttentionWeights& w, const ModelConfig& cfg, const StepShape& shape) {
  for (const Weight* matrix : {&w.q, &w.k, &w.v, &w.out}) counter.matrix(*matrix);
  const std::uint64_t position_bytes = 2 * kv_bytes(shape.kv_type, cfg.Hkv, cfg.Dh);
  counter.work.kv_bytes += shape.num_sequences * (shape.depth + 2 * shape.num_tokens) * position_bytes;
  counter.work.ops += shape.num_sequences * attended_positions(shape) * 4 * cfg.Hq * cfg.Dh;
}

void add_delta_net(Counter& counter, const DeltaNetWeights& w, const ModelConfig& cfg, const StepShape& shape) {
  for (const Weight* matrix : {&w.qkv, &w.z, &w.ba, &w.out}) counter.matrix(*matrix);
  const std::uint64_t state_floats = cfg.Hv * cfg.Dk * cfg.Dv + (cfg.conv_taps - 1) * cfg.C();
  counter.work.state_bytes += shape.num_sequences * 2 * state_floats * sizeof(float);
  const std::uint64_t num_rows = shape.num_sequences * shape.num_tokens;
  counter.work.ops += num_rows * (7 * cfg.Hv * cfg.Dk * cfg.Dv + 2 * cfg.conv_taps * cfg.C());
}

std::uint64_t attention_parameters(const ModelConfig& cfg) {
  const std::uint64_t query_rows = cfg.Hq * cfg.Dh * (cfg.attention_gate ? 2 : 1);
  return cfg.D * (query_rows + 2 * cfg.Hkv * cfg.Dh + cfg.Hq * cfg.Dh) + 2 * cfg.Dh;
}

std::uint64_t delta_net_parameters(const ModelConfig& cfg) {
  return cfg.D * (cfg.C() + 2 * cfg.Hv * cfg.Dv + 2 * cfg.Hv) + cfg.conv_taps * cfg.C() + 2 * cfg.Hv + cfg.Dv;
}

std::uint64_t shared_expert_parameters(const ModelConfig& cfg) {
  return cfg.shared_expert_width == 0 ? 0 : 3 * cfg.D * cfg.shared_expert_width + cfg.D;
}

}  // namespace

std::uint64_t ParameterCount::total() const {
  return embedding + head + attention + delta_net + router + experts + shared_expert + dense + norms + mtp;
}

std::uint64_t ParameterCount::active(const ModelConfig& config) const {
  const std::uint64_t active_experts = config.E == 0 ? 0 : experts / config.E * config.A;
  const std::uint64_t head_read = config.V * config.D;
  return head_read + attention + delta_net + router + active_experts + shared_expert + dense + norms + config.D;
}

ParameterCount count_parameters(const ModelConfig& cfg) {
  ParameterCount out;
  out.embedding = cfg.V * cfg.D;
  out.head = cfg.tied_head ? 0 : cfg.V * cfg.D;
  out.norms = cfg.D;
  const std::uint64_t moe_layer = cfg.E * cfg.D + cfg.E * 3 * cfg.F * cfg.D + shared_expert_parameters(cfg);
  for (const LayerConfig& layer : cfg.layers) {
    (layer.mixer == MixerKind::kAttention ? out.attention : out.delta_net) +=
        layer.mixer == MixerKind::kAttention ? attention_parameters(cfg) : delta_net_parameters(cfg);
    out.norms += 2 * cfg.D;
    if (layer.feed_forward == FeedForwardKind::kDense) {
      out.dense += 3 * cfg.D * cfg.dense_width;
    } else {
      out.router += cfg.E * cfg.D;
      out.experts += cfg.E * 3 * cfg.F * cfg.D;
      out.shared_expert += shared_expert_parameters(cfg);
    }
  }
  // fc, an attention layer with experts, and five norms.
  if (cfg.has_mtp) out.mtp = 2 * cfg.D * cfg.D + attention_parameters(cfg) + moe_layer + 5 * cfg.D;
  return out;
}

Work& Work::operator+=(const Work& other) {
  weight_bytes += other.weight_bytes;
  kv_bytes += other.kv_bytes;
  state_bytes += other.state_bytes;
  ops += other.ops;
  return *this;
}

Work count_work(const ModelWeights& weights, const StepShape& shape) {
  const ModelConfig& cfg = weights.config;
  const std::size_t T = shape.num_sequences * shape.num_tokens;
  Counter counter(cfg, T);
  counter.work.weight_bytes += T * weights.embedding.row_bytes;
  counter.matrix(weights.head, shape.num_logit_rows);
  const std::size_t num_layers = shape.num_layers != 0 ? shape.num_layers : weights.layers.size();
  for (std::size_t layer_idx = 0; layer_idx < num_layers; ++layer_idx) {
    const LayerWeights& layer = weights.layers[layer_idx % weights.layers.size()];
    if (const auto* attention = std::get_if<AttentionWeights>(&layer.mixer)) {
      add_attention(counter, *attention, cfg, shape);
    } else {
      add_delta_net(counter, std::get<DeltaNetWeights>(layer.mixer), cfg, shape);
    }
    if (const auto* moe = std::get_if<MoeWeights>(&layer.ffn)) {
      counter.moe(*moe);
    } else {
      counter.dense(std::get<DenseWeights>(layer.ffn));
    }
  }
  return counter.work;
}

Work count_prefill_work(const ModelWeights& weights, const PrefillShape& shape) {
  Work total;
  for (std::size_t begin = 0; begin < shape.num_tokens; begin += shape.chunk_tokens) {
    const std::size_t num_tokens = std::min(shape.chunk_tokens, shape.num_tokens - begin);
    const bool last = begin + num_tokens == shape.num_tokens;
    total += count_work(weights, {.num_sequences = 1,
                                  .num_tokens = num_tokens,
                                  .depth = shape.depth + begin,
                                  .num_logit_rows = last ? std::size_t{1} : 0,
                                  .kv_type = shape.kv_type});
  }
  return total;
}

SequenceBytes count_sequence_bytes(const ModelConfig& config, std::size_t num_tokens, DType kv_type) {
  return {.kv_bytes = static_cast<std::uint64_t>(num_tokens) * config.kv_bytes_per_token(kv_type),
          .state_bytes = config.state_bytes()};
}

}  // namespace qnext
