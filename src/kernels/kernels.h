#pragma once
// The kernels: one pointer an op. The comments here are the contracts; ref/ is their specification in plain C++
// (float inputs, double sums), simd/ the same in Highway for every ISA, and tests run every table against ref.
//
// All kernels: no allocation, no locks, no threads of their own; they write only the part that their Range names, so
// that disjoint ranges may run at once (kernels/ops.h does that). Views need no alignment; the last axis is dense.
// Outputs must not alias inputs unless the name ends in _inplace.
//
// One result whoever else is in the batch: what a kernel computes for a token depends on that token's own inputs and
// on nothing else, summed in one order, whatever T is and however the work is split. (delta_rule_chunk alone differs
// from delta_rule_step by rounding.)
//
// Dimensions are the glossary's (docs/glossary.md): T D Hq Hkv Hk Hv Dh Dk Dv E A F C.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "base/units.h"
#include "tensor/view.h"
#include "tensor/weight.h"

namespace qnext {

enum class Write { kStore, kAdd };  // out = ..., or out += ...

// ---- Matrices ------------------------------------------------------------------------------------------------------

// decode_rows: out[i, :] = w[row_ids[i], :], converted to f32.          out : [I, K]   w : [N, K], any type
// Exact: every type's values are representable in f32, computed in block_formats.h's order.
using DecodeRows = void (*)(View<float> out, std::span<const TokenId> row_ids, const Weight& w);

// matmul: out[t, o] (=|+=) sum_k x[t, k] * w[o, k]      for o in `outputs`.
//   out : [T, N]   x : [T, K]   w : [N, K], any weight type, decoded on the fly
// Cost     T = 1: reads w once, in order; bandwidth bound. T large: 2*T*N*K flops, decoding amortised over T.
// Accuracy f32 products and sums: |out - ref| <= K * 2^-24 * sum_k |x_k w_k| (at most; lanes sum pairwise).
// Order    blocks of kDotBlock columns, each reduced on its own, added in turn: the same for every T.
inline constexpr std::size_t kDotBlock = 2048;
using Matmul = void (*)(View<float> out, View<const float> x, const Weight& w, Range outputs, Write write);

// ---- Mixture of experts (docs/glossary.md: E experts, A active a token, F expert width) --------------------------

struct ExpertWeights {
  std::span<const Weight> gate;  // [E] of [F, D]
  std::span<const Weight> up;    // [E] of [F, D]
  std::span<const Weight> down;  // [E] of [D, F]
};

// (token, expert) pairs sorted by expert, then by token: pair i with expert_begin[e] <= i < expert_begin[e + 1] sends
// token pair_token[i] to expert e with weight pair_weight[i].
struct Routing {
  std::span<const std::uint32_t> expert_begin;  // [E + 1]
  std::span<const std::uint32_t> pair_token;    // [T * A]
  std::span<const float> pair_weight;           // [T * A]
};

// route_top_k: p = softmax(logits[t]); the A largest, largest first, ties to the lower index; weights p, divided by
// their sum when `normalize`.       expert_ids : [T, A]   weights : [T, A]   logits : [T, E]   for t in `tokens`
using RouteTopK = void (*)(View<std::uint32_t> expert_ids, View<float> weights, View<const float> logits,
                           bool normalize, Range tokens);

// expert_hidden: hidden[i, f] = silu(gate_e[f] . x_t) * (up_e[f] . x_t) for each pair i = (t, e), f in `columns`.
//   hidden : [T * A, F]   x : [T, D]
// Cost     reads rows `columns` of gate and up once for each expert that has tokens.   Accuracy: as matmul, then silu.
using ExpertHidden = void (*)(View<float> hidden, View<const float> x, const Routing& routing,
                              const ExpertWeights& experts, Range columns);

// expert_output: out[t, c] += weight_i * (down_e[c] . hidden_i), pairs in ascending expert order, c in `columns`.
//   out : [T, D]   hidden : [T * A, F]
using ExpertOutput = void (*)(View<float> out, View<const float> hidden, const Routing& routing,
                              const ExpertWeights& experts, Range columns);

// ---- Rows: norms, gates, positions -------------------------------------------------------------------------------

// rms_norm: out[r] = x[r] * rsqrt(mean(x[r]^2) + eps) * weight.     out, x : [.., W]   weight : [W] f32, effective
// (zero-centred checkpoints store w - 1; the loader adds the 1). Rank 2 or 3 (per head); `rows` ranges over axis 0.
// `out` may be `x` itself.
using RmsNorm = void (*)(View<float> out, View<const float> x, std::span<const float> weight, float eps, Range rows);

// rms_norm_gated: out[t, h] = rms_norm(x[t, h]) * silu(gate[t, h]).      out, x, gate : [T, H, W]; `out` may be `x`.
using RmsNormGated = void (*)(View<float> out, View<const float> x, View<const float> gate,
                              std::span<const float> weight, float eps, Range rows);

// l2_norm_inplace: x[t, h] *= scale * rsqrt(sum(x[t, h]^2) + eps).       x : [T, H, W]
using L2NormInplace = void (*)(View<float> x, float scale, float eps, Range rows);

// rope_inplace: rotate-half RoPE on the first R of W dims: for i < R/2, (x[i], x[i + R/2]) is turned by angle i.
//   x : [T, H, W]   cos, sin : [T, R/2], already times YaRN's attention factor
using RopeInplace = void (*)(View<float> x, View<const float> cos, View<const float> sin, Range rows);

// silu_mul: out = silu(gate) * up.                  out, gate, up : [T, W]; `out` may be `gate`.
using SiluMul = void (*)(View<float> out, View<const float> gate, View<const float> up, Range rows);

// sigmoid_gate_inplace: x[t, h] *= sigmoid(gate[t, h]).     x, gate : [T, H, W]
using SigmoidGateInplace = void (*)(View<float> x, View<const float> gate, Range rows);

// add_gated: out[t] += sigmoid(gate[t, 0]) * x[t].          out, x : [T, D]   gate : [T, 1]
using AddGated = void (*)(View<float> out, View<const float> x, View<const float> gate, Range rows);

// ---- Gated DeltaNet ----------------------------------------------------------------------------------------------

// causal_conv_silu: depthwise causal convolution over time, then SiLU, for channels in `channels`.
//   out[t, c] = silu(sum_j weight[j, c] * in[t - (J-1) + j, c]),  in = history followed by x
//   out, x : [T, C]   history : [J-1, C], oldest first, replaced by the last J-1 inputs   weight : [J, C], J >= 2
// Accuracy J products in f32, in tap order, oldest first.
using CausalConvSilu = void (*)(View<float> out, View<float> history, View<const float> x, View<const float> weight,
                                Range channels);

// delta_gates: log_decay = neg_exp_a * softplus(a + dt_bias) (<= 0);  beta = sigmoid(b).
//   log_decay, beta, a, b : [T, Hv]   neg_exp_a, dt_bias : [Hv]
// softplus as the reference has it: x itself above 20.
using DeltaGates = void (*)(View<float> log_decay, View<float> beta, View<const float> a, View<const float> b,
                            std::span<const float> neg_exp_a, std::span<const float> dt_bias, Range rows);

struct DeltaRuleInputs {
  View<const float> q;          // [T, Hk, Dk] L2-normalised, already / sqrt(Dk)
  View<const float> k;          // [T, Hk, Dk] L2-normalised
  View<const float> v;          // [T, Hv, Dv]
  View<const float> log_decay;  // [T, Hv] g <= 0
  View<const float> beta;       // [T, Hv] in (0, 1)
};

// delta_rule_step: the gated delta rule, token after token, for value heads in `heads`; state updated in place.
//   S   <- exp(g) * S                 decay         state : [Hv, Dk, Dv] f32
//   u    = beta * (v - k.S)           surprise
//   S   <- S + outer(k, u)            write
//   out  = q.S                        read          out   : [T, Hv, Dv]
// Heads    value head h uses key head h / (Hv/Hk). Requires Hv % Hk == 0.
// Cost     reads and writes S once a token: 2*Hv*Dk*Dv*4 bytes; bandwidth bound at T = 1.
// Accuracy f32 state in every table; |out - ref| <= 1e-5 * max|ref| after 4,096 chained steps.
// Source   Yang et al. 2024 (arXiv 2412.06464), eq. 10.
//
// delta_rule_chunk: the same function of the same inputs, in chunks of kDeltaChunk tokens as small matrix products
// (the WY form, arXiv 2412.06464 section 3.3). Any T; a ragged last chunk is its own size.
// Cost     per head and token about 2*Dk*Dv*3 + kDeltaChunk*(2*Dk + 2*Dv) flops; S is read and written once a chunk.
// Accuracy |out - delta_rule_step's| <= 1e-5 * max|out|; log-decays sum in f64, all else in f32.
inline constexpr std::size_t kDeltaChunk = 64;
using DeltaRule = void (*)(View<float> out, View<float> state, const DeltaRuleInputs& in, Range heads);

// ---- Attention ---------------------------------------------------------------------------------------------------

// One layer's K/V of one sequence: position p lies in page pages[p / page_tokens] at row p % page_tokens.
// A page of this layer is keys [Hkv, page_tokens, Dh] at `keys + page * page_stride_bytes`; values likewise.
struct KvPages {
  std::byte* keys = nullptr;
  std::byte* values = nullptr;
  std::size_t page_stride_bytes = 0;
  std::size_t page_tokens = 0;
  std::span<const PageId> pages;
  DType type = DType::kF32;  // kF32, kBF16 (round to nearest even), kQ8_0 or kI16 (head_dim % 32 == 0)
  std::size_t num_kv_heads = 0;
  std::size_t head_dim = 0;  // at most kMaxI16Width in kI16
};

// kI16: a vector x is 16-bit codes and one f32 scale, x[i] ~ scale * codes[i]; a page's scales [Hkv, page_tokens] lie
// behind its codes. Scales are the smallest for which sums of products stay within 32 bits, in whatever order:
//   key    its codes' length (2-norm) is at most kI16Length, each code at most 32767: so are a query's, for q . k
//   value  each code is at most kI16Value: of a block of positions, weights' codes sum to kI16WeightSum at most
// The length's squares are summed in f32, in 16 sums of columns i % 16, then those in order. A vector without a value
// of at least kI16Zero is zeros (scale 0); one whose squares sum to no finite number has scale NaN, codes 0.
inline constexpr float kI16Length = 46300;
inline constexpr float kI16Value = 11585;
inline constexpr float kI16WeightSum = 184000;
inline constexpr float kI16Zero = 0x1p-50f;
inline constexpr std::size_t kMaxI16Width = 512;

// What the keys, or the values, of num_vectors vectors take in a page.
inline std::size_t kv_bytes(DType type, std::size_t num_vectors, std::size_t head_dim) {
  const std::size_t scale_bytes = type == DType::kI16 ? num_vectors * sizeof(float) : 0;
  return dtype_bytes(type, num_vectors * head_dim) + scale_bytes;
}

// store_kv: writes keys and values [T, Hkv, Dh] at positions first_position + [0, T), converted to kv.type. Each vector
// is blocks of its own: writing one leaves the others as they are. A q8_0 block is what encode_blocks makes, but that
// one which holds a NaN or an infinity is NaN as a whole. The same bytes in every table.
using StoreKv = void (*)(const KvPages& kv, View<const float> keys, View<const float> values,
                         std::size_t first_position);

// attend: out[t, h] = sum_p softmax_p(scale * q[t, h] . K[p, h']) V[p, h'],  p in [0, first_position + t],
// h' = h / (Hq/Hkv), for t in `tokens` and every query head of K/V head `kv_head_idx`.
//   out, q : [T, Hq, Dh]
// Cost     reads K and V of that head once a tile of tokens; 4*Dh flops a (query head, position).
// Accuracy online softmax over blocks of positions cut at multiples of kAttendBlock from 0, so the order of sums
//          depends on the position alone; |out - ref| <= 4 * Dh * 2^-24 * max|V|.
//          kI16: tables round queries and weights to 16 bits as well, and multiply integers, exactly (ref does
//          neither): |out - ref| <= (2^-9 + scale * max|q|_2 * max|k|_2 * sqrt(Dh) * 2^-15) * max|V|; its root mean
//          square, and that of what keys and values lose, is 2e-4 of out's.
inline constexpr std::size_t kAttendBlock = 64;
using Attend = void (*)(View<float> out, View<const float> q, const KvPages& kv, std::size_t first_position,
                        float scale, std::size_t kv_head_idx, Range tokens);

// ---- Products of packed weights ----
// Tables for CPUs with fast integer products pack the weights of some formats when a model is loaded, and multiply
// activations that were rounded to 16 bits by their codes, exactly, in integers. Weights keep every bit.

// 32 activations of a token: x[c] ~ scale * codes[c]. A block that holds a NaN or an infinity has scale NaN.
struct ActivationBlock {
  std::int16_t codes[32];     // largest magnitude 32767; rounded to nearest even
  float scale;                // largest |x| / 32767, rounded
  float sum;                  // scale * sum of codes
  std::int32_t minus_sum[2];  // -sum of codes [0, 16), [16, 32): for weights whose codes are stored with an offset
};
inline constexpr std::size_t kActivationBlock = 32;

//   packs          whether weights of this type and width get packed. The products below take no others.
//   packed_bytes   of a matrix of these rows: as much for each group, a multiple of 64
//   pack           packs groups of kPackGrain rows (the last may be short), for groups in `groups`, the first to `out`
//   quantise       x [T, K] -> blocks [T, K / 32]
//   matmul         as Matmul of kernels.h, with w.packed; `outputs` begins at a multiple of kPackGrain
//   expert_rows    out[i, o] = w_e[o] . x_t for each pair i = (t, e), o in `outputs`        out : [T * A, N]
//   expert_output  as ExpertOutput
//   peak           runs `rounds` of the multiply-adds that products are made of, on registers alone, and returns the
//                  operations (two each) that it ran: the roof of a product, for measurements
// Cost     as matmul: T = 1 streams w.packed once, in order; T large: 2*T*N*K int16 operations.
// Accuracy |out - ref| <= sum_blocks 2^-16 * max|x| * sum |w| (rounding x) + K * 2^-23 * sum_k |x_k w_k|.
// Order    blocks of 32 columns: exact integers, scaled and added in turn, in f32; the same for every T.
struct PackedProducts {
  bool (*packs)(const Weight& w);
  std::size_t (*packed_bytes)(const Weight& w);
  void (*pack)(std::byte* out, const Weight& w, Range groups);
  void (*quantise)(View<ActivationBlock> out, View<const float> x, Range rows);
  void (*matmul)(View<float> out, View<const ActivationBlock> x, const Weight& w, Range outputs, Write write);
  void (*expert_rows)(View<float> out, View<const ActivationBlock> x, const Routing& routing,
                      std::span<const Weight> experts, Range outputs);
  void (*expert_output)(View<float> out, View<const ActivationBlock> hidden, const Routing& routing,
                        std::span<const Weight> experts, Range outputs);
  std::size_t (*peak)(std::size_t rounds);
};
inline constexpr std::size_t kPackGrain = 16;
inline constexpr int kPackedLayoutVersion = 1;  // grows whenever a table packs otherwise: caches know theirs

// ---- The table ---------------------------------------------------------------------------------------------------

struct KernelTable {
  std::string_view name;  // "ref", or the instruction set: "sse4", "avx2", "avx512", "vnni", "amx", "neon"

  DecodeRows decode_rows;
  Matmul matmul;
  RouteTopK route_top_k;
  ExpertHidden expert_hidden;
  ExpertOutput expert_output;
  RmsNorm rms_norm;
  RmsNormGated rms_norm_gated;
  L2NormInplace l2_norm_inplace;
  RopeInplace rope_inplace;
  SiluMul silu_mul;
  SigmoidGateInplace sigmoid_gate_inplace;
  AddGated add_gated;
  CausalConvSilu causal_conv_silu;
  DeltaGates delta_gates;
  DeltaRule delta_rule_step;
  DeltaRule delta_rule_chunk;
  StoreKv store_kv;
  Attend attend;

  const PackedProducts* packed = nullptr;  // null: this table reads weights as files have them
};

}  // namespace qnext
