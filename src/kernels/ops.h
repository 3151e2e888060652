#pragma once
// Ops: a kernel table bound to a thread pool. The model speaks in these: shapes are checked, outputs come from the
// scratch arena, work is split over the pool. What each op computes is in kernels.h.

#include <algorithm>
#include <span>

#include "base/arena.h"
#include "base/thread_pool.h"
#include "kernels/kernels.h"

namespace qnext {

// Uninitialised scratch of this shape.
View<float> make_scratch(Arena& scratch, std::initializer_list<std::size_t> dims);

// Rows of `x` and K/V of one sequence's consecutive tokens in a batch.
struct AttendSpan {
  Range rows;
  std::size_t first_position = 0;
  KvPages kv;
};

// Threads deal out the rows of a packed matrix in multiples of this: split_range(rows, kPackedGrain, part, threads).
inline constexpr std::size_t kPackedGrain = 2 * kPackGrain;

class Ops {
 public:
  Ops(const KernelTable& table, ThreadPool& pool) : table_(table), pool_(pool) {}

  const KernelTable& table() const { return table_; }
  ThreadPool& pool() const { return pool_; }

  View<float> embed(Arena& tmp, std::span<const TokenId> token_ids, const Weight& embedding) const;  // [T, D]
  View<float> matmul(Arena& tmp, View<const float> x, const Weight& w) const;                        // [T, N]
  void matmul_add(Arena& tmp, View<float> out, View<const float> x, const Weight& w) const;

  View<float> rms_norm(Arena& tmp, View<const float> x, std::span<const float> weight, float eps) const;
  void rms_norm_inplace(View<float> x, std::span<const float> weight, float eps) const;
  void rms_norm_gated_inplace(View<float> x, View<const float> gate, std::span<const float> weight, float eps) const;
  void l2_norm_inplace(View<float> x, float scale, float eps) const;
  void rope_inplace(View<float> x, View<const float> cos, View<const float> sin) const;
  void silu_mul_inplace(View<float> gate, View<const float> up) const;  // gate <- silu(gate) * up
  void sigmoid_gate_inplace(View<float> x, View<const float> gate) const;
  void add_gated(View<float> out, View<const float> x, View<const float> gate) const;

  void causal_conv_silu(View<float> out, View<float> history, View<const float> x, View<const float> weight) const;
  void delta_gates(View<float> log_decay, View<float> beta, View<const float> a, View<const float> b,
                   std::span<const float> neg_exp_a, std::span<const float> dt_bias) const;
  // Whole chunks of kDeltaChunk tokens in chunked form, the rest step by step: cutting a sequence at multiples of
  // kDeltaChunk, wherever, gives the same bits.
  void delta_rule(View<float> out, View<float> state, const DeltaRuleInputs& in) const;

  View<float> attend(Arena& tmp, View<const float> q, std::span<const AttendSpan> spans, float scale) const;

  void route_top_k(View<std::uint32_t> expert_ids, View<float> weights, View<const float> logits, bool normalize) const;
  // out += the routed experts' weighted outputs.
  void add_experts(Arena& tmp, View<float> out, View<const float> x, const Routing& routing,
                   const ExpertWeights& experts) const;

 private:
  // work(range) over [0, total) cut into one part a thread at multiples of `grain`; on this thread alone when the whole
  // is so little (num_flops) that a fork would cost more.
  void split(std::size_t total, std::size_t grain, std::size_t num_flops, FunctionRef<void(Range)> work) const;
  void product(Arena& tmp, View<float> out, View<const float> x, const Weight& w, Write write) const;
  void add_packed_experts(Arena& tmp, View<float> out, View<const float> x, const Routing& routing,
                          const ExpertWeights& experts) const;
  View<ActivationBlock> quantise(Arena& tmp, View<const float> x) const;

  const KernelTable& table_;
  ThreadPool& pool_;
};

}  // namespace qnext
