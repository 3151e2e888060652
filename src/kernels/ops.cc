#include "kernels/ops.h"

namespace qnext {
namespace {

// Below this much work a fork (about 1 us) costs more than a second thread saves.
constexpr std::size_t kFlopsWorthAFork = 20'000;
constexpr std::size_t kFlopsAnElement = 16;  // of a gate or a norm, roughly: an exp and a few multiplies

// Output rows of a matrix are dealt out in multiples of what the register tiles take.
constexpr std::size_t kMatmulGrain = 8;
constexpr std::size_t kChannelGrain = 64;
constexpr std::size_t kAttendTileTokens = 16;

}  // namespace

View<float> make_scratch(Arena& scratch, std::initializer_list<std::size_t> dims) {
  std::size_t count = 1;
  for (std::size_t extent : dims) count *= extent;
  return {scratch.allocate<float>(count), dims};
}

void Ops::split(std::size_t total, std::size_t grain, std::size_t num_flops, FunctionRef<void(Range)> work) const {
  if (num_flops < kFlopsWorthAFork || total <= grain) return work({0, total});
  pool_.run([&](std::size_t part_idx) {
    const Range range = split_range(total, grain, part_idx, pool_.num_threads());
    if (!range.empty()) work(range);
  });
}

View<float> Ops::embed(Arena& tmp, std::span<const TokenId> token_ids, const Weight& embedding) const {
  View<float> out = make_scratch(tmp, {token_ids.size(), embedding.cols});
  table_.decode_rows(out, token_ids, embedding);
  return out;
}

View<ActivationBlock> Ops::quantise(Arena& tmp, View<const float> x) const {
  const std::size_t num_blocks = x.dim(1) / kActivationBlock;
  View<ActivationBlock> out(tmp.allocate<ActivationBlock>(x.dim(0) * num_blocks), {x.dim(0), num_blocks});
  split(x.dim(0), 1, x.num_elements(), [&](Range rows) { table_.packed->quantise(out, x, rows); });
  return out;
}

void Ops::product(Arena& tmp, View<float> out, View<const float> x, const Weight& w, Write write) const {
  QN_CHECK(x.rank() == 2 && x.dim(1) == w.cols, "x has {} columns, the weight {}", x.dim(1), w.cols);
  QN_CHECK(out.dim(0) == x.dim(0) && out.dim(1) == w.rows, "out [{}, {}], rows {} x {}", out.dim(0), out.dim(1),
           x.dim(0), w.rows);
  const std::size_t num_flops = 2 * x.dim(0) * w.rows * w.cols;
  if (w.packed != nullptr) {
    const View<ActivationBlock> blocks = quantise(tmp, x);
    return split(w.rows, kPackedGrain, num_flops,
                 [&](Range outputs) { table_.packed->matmul(out, blocks, w, outputs, write); });
  }
  split(w.rows, kMatmulGrain, num_flops, [&](Range outputs) { table_.matmul(out, x, w, outputs, write); });
}

View<float> Ops::matmul(Arena& tmp, View<const float> x, const Weight& w) const {
  View<float> out = make_scratch(tmp, {x.dim(0), w.rows});
  product(tmp, out, x, w, Write::kStore);
  return out;
}

void Ops::matmul_add(Arena& tmp, View<float> out, View<const float> x, const Weight& w) const {
  product(tmp, out, x, w, Write::kAdd);
}

View<float> Ops::rms_norm(Arena& tmp, View<const float> x, std::span<const float> weight, float eps) const {
  QN_CHECK(x.rank() == 2 && x.dim(1) == weight.size(), "x has {} columns, the norm {}", x.dim(1), weight.size());
  View<float> out = make_scratch(tmp, {x.dim(0), x.dim(1)});
  split(x.dim(0), 1, x.num_elements() * kFlopsAnElement,
        [&](Range rows) { table_.rms_norm(out, x, weight, eps, rows); });
  return out;
}

void Ops::rms_norm_inplace(View<float> x, std::span<const float> weight, float eps) const {
  QN_CHECK(x.dim(x.rank() - 1) == weight.size(), "width {}, the norm {}", x.dim(x.rank() - 1), weight.size());
  split(x.dim(0), 1, x.num_elements() * kFlopsAnElement, [&](Range rows) { table_.rms_norm(x, x, weight, eps, rows); });
}

void Ops::rms_norm_gated_inplace(View<float> x, View<const float> gate, std::span<const float> weight,
                                 float eps) const {
  QN_CHECK(x.rank() == 3 && x.dim(2) == weight.size(), "width {}, the norm {}", x.dim(2), weight.size());
  split(x.dim(0), 1, x.num_elements() * kFlopsAnElement,
        [&](Range rows) { table_.rms_norm_gated(x, x, gate, weight, eps, rows); });
}

void Ops::l2_norm_inplace(View<float> x, float scale, float eps) const {
  split(x.dim(0), 1, x.num_elements() * kFlopsAnElement,
        [&](Range rows) { table_.l2_norm_inplace(x, scale, eps, rows); });
}

void Ops::rope_inplace(View<float> x, View<const float> cos, View<const float> sin) const {
  QN_CHECK(cos.dim(0) == x.dim(0) && 2 * cos.dim(1) <= x.dim(2), "cos [{}, {}] for x [{}, .., {}]", cos.dim(0),
           cos.dim(1), x.dim(0), x.dim(2));
  split(x.dim(0), 1, x.num_elements() * kFlopsAnElement, [&](Range rows) { table_.rope_inplace(x, cos, sin, rows); });
}

void Ops::silu_mul_inplace(View<float> gate, View<const float> up) const {
  split(gate.dim(0), 1, gate.num_elements() * kFlopsAnElement,
        [&](Range rows) { table_.silu_mul(gate, gate, up, rows); });
}

void Ops::sigmoid_gate_inplace(View<float> x, View<const float> gate) const {
  split(x.dim(0), 1, x.num_elements() * kFlopsAnElement,
        [&](Range rows) { table_.sigmoid_gate_inplace(x, gate, rows); });
}

void Ops::add_gated(View<float> out, View<const float> x, View<const float> gate) const {
  split(out.dim(0), 1, out.num_elements() * kFlopsAnElement, [&](Range rows) { table_.add_gated(out, x, gate, rows); });
}

void Ops::causal_conv_silu(View<float> out, View<float> history, View<const float> x, View<const float> weight) const {
  QN_CHECK(history.dim(0) + 1 == weight.dim(0), "history {} for {} taps", history.dim(0), weight.dim(0));
  QN_CHECK(x.dim(1) == weight.dim(1), "{} channels, the weight has {}", x.dim(1), weight.dim(1));
  split(x.dim(1), kChannelGrain, x.num_elements() * kFlopsAnElement,
        [&](Range channels) { table_.causal_conv_silu(out, history, x, weight, channels); });
}

void Ops::delta_gates(View<float> log_decay, View<float> beta, View<const float> a, View<const float> b,
                      std::span<const float> neg_exp_a, std::span<const float> dt_bias) const {
  split(a.dim(0), 1, a.num_elements() * 2 * kFlopsAnElement,
        [&](Range rows) { table_.delta_gates(log_decay, beta, a, b, neg_exp_a, dt_bias, rows); });
}

void Ops::delta_rule(View<float> out, View<float> state, const DeltaRuleInputs& in) const {
  const std::size_t num_tokens = out.dim(0);
  QN_CHECK(state.dim(0) % in.k.dim(1) == 0, "Hv {} Hk {}", state.dim(0), in.k.dim(1));
  QN_CHECK(state.dim(1) == in.k.dim(2) && state.dim(2) == out.dim(2), "state [.., {}, {}], Dk {} Dv {}", state.dim(1),
           state.dim(2), in.k.dim(2), out.dim(2));
  const auto run = [&](DeltaRule kernel, Range tokens, Range heads) {
    if (tokens.empty()) return;
    const auto of = [&](auto view) { return view.slice(0, tokens.begin, tokens.end); };
    kernel(of(out), state,
           {.q = of(in.q), .k = of(in.k), .v = of(in.v), .log_decay = of(in.log_decay), .beta = of(in.beta)}, heads);
  };
  const std::size_t num_chunked = num_tokens / kDeltaChunk * kDeltaChunk;
  split(state.dim(0), 1, 7 * num_tokens * state.num_elements(), [&](Range heads) {
    run(table_.delta_rule_chunk, {0, num_chunked}, heads);
    run(table_.delta_rule_step, {num_chunked, num_tokens}, heads);
  });
}

View<float> Ops::attend(Arena& tmp, View<const float> q, std::span<const AttendSpan> spans, float scale) const {
  View<float> out = make_scratch(tmp, {q.dim(0), q.dim(1), q.dim(2)});
  struct Task {
    const AttendSpan* span;
    std::size_t kv_head_idx;
    Range tokens;  // of the span
  };
  std::size_t num_tasks = 0;
  for (const AttendSpan& span : spans)
    num_tasks += span.kv.num_kv_heads * ceil_div(span.rows.count(), kAttendTileTokens);
  Task* tasks = tmp.allocate<Task>(num_tasks);
  std::size_t task_count = 0;
  for (const AttendSpan& span : spans) {
    for (std::size_t begin = 0; begin < span.rows.count(); begin += kAttendTileTokens) {
      const Range tokens{begin, std::min(begin + kAttendTileTokens, span.rows.count())};
      for (std::size_t head_idx = 0; head_idx < span.kv.num_kv_heads; ++head_idx) {
        tasks[task_count++] = {&span, head_idx, tokens};
      }
    }
  }
  pool_.for_each(num_tasks, [&](std::size_t task_idx) {
    // Last tiles first: they see the longest context, so the short ones fill the end of the fork.
    const Task& task = tasks[num_tasks - 1 - task_idx];
    const Range rows = task.span->rows;
    table_.attend(out.slice(0, rows.begin, rows.end), q.slice(0, rows.begin, rows.end), task.span->kv,
                  task.span->first_position, scale, task.kv_head_idx, task.tokens);
  });
  return out;
}

void Ops::route_top_k(View<std::uint32_t> expert_ids, View<float> weights, View<const float> logits,
                      bool normalize) const {
  split(logits.dim(0), 1, logits.num_elements() * kFlopsAnElement,
        [&](Range tokens) { table_.route_top_k(expert_ids, weights, logits, normalize, tokens); });
}

void Ops::add_experts(Arena& tmp, View<float> out, View<const float> x, const Routing& routing,
                      const ExpertWeights& experts) const {
  const std::size_t num_pairs = routing.pair_token.size();
  const std::size_t expert_width = experts.gate.front().rows;
  QN_CHECK(x.dim(1) == experts.gate.front().cols, "x has {} columns, the experts {}", x.dim(1),
           experts.gate.front().cols);
  if (experts.gate.front().packed != nullptr && experts.up.front().packed != nullptr &&
      experts.down.front().packed != nullptr) {
    return add_packed_experts(tmp, out, x, routing, experts);
  }
  View<float> hidden = make_scratch(tmp, {num_pairs, expert_width});
  split(expert_width, kMatmulGrain, 4 * num_pairs * expert_width * x.dim(1),
        [&](Range columns) { table_.expert_hidden(hidden, x, routing, experts, columns); });
  split(out.dim(1), kMatmulGrain, 2 * num_pairs * expert_width * out.dim(1),
        [&](Range columns) { table_.expert_output(out, hidden, routing, experts, columns); });
}

void Ops::add_packed_experts(Arena& tmp, View<float> out, View<const float> x, const Routing& routing,
                             const ExpertWeights& experts) const {
  const PackedProducts& packed = *table_.packed;
  const std::size_t num_pairs = routing.pair_token.size();
  const std::size_t expert_width = experts.gate.front().rows;
  const std::size_t num_flops = 2 * num_pairs * expert_width * x.dim(1);
  const View<ActivationBlock> x_blocks = quantise(tmp, x);
  View<float> gate = make_scratch(tmp, {num_pairs, expert_width});
  View<float> up = make_scratch(tmp, {num_pairs, expert_width});
  View<ActivationBlock> hidden(tmp.allocate<ActivationBlock>(num_pairs * expert_width / kActivationBlock),
                               {num_pairs, expert_width / kActivationBlock});
  split(expert_width, kPackedGrain, 2 * num_flops, [&](Range columns) {
    packed.expert_rows(gate, x_blocks, routing, experts.gate, columns);
    packed.expert_rows(up, x_blocks, routing, experts.up, columns);
  });
  split(num_pairs, 1, gate.num_elements() * kFlopsAnElement, [&](Range pairs) {
    table_.silu_mul(gate, gate, up, pairs);
    packed.quantise(hidden, gate, pairs);
  });
  split(out.dim(1), kPackedGrain, num_flops,
        [&](Range columns) { packed.expert_output(out, hidden, routing, experts.down, columns); });
}

}  // namespace qnext
