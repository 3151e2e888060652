#pragma once
// The ops of the network that are more than ATen's: forward and hand-written backward as autograd functions, on float32
// CPU tensors. Several documents lie one after the other in a batch of T tokens; `bounds` says where each begins, and
// nothing (state, conv window, attention) reaches across. Sums run in an order that depends on sizes alone, so results
// are the same for any number of threads. Dimension names: docs/glossary.md. Their specification, in plain ATen:
// train/slow_twin.h.

#include "train/torch_core.h"

#include <cstdint>
#include <vector>

namespace qnext::train {

using torch::Tensor;

// Where documents begin, and last T: {0, 5, 12} are two documents, [0, 5) and [5, 12). Ascending, no document empty.
using Bounds = std::vector<std::int64_t>;

// x wT. x: [T, I], w: [O, I], result: [T, O].
Tensor project(const Tensor& x, const Tensor& w);

// x wT for each of `ws`; x's gradient is added up, and x made ready for the weights' own, once for all.
std::vector<Tensor> project_each(const Tensor& x, at::TensorList ws);

// The sum of tensors of one shape.
Tensor sum_of(at::TensorList terms);

// x, for each of those that read it.
std::vector<Tensor> branches(const Tensor& x, std::int64_t count);

// x rsqrt(mean(x^2) + eps) (1 + w) over the last axis: the zero-centred RMSNorm. x: [..., N], w: [N].
Tensor zero_centred_norm(const Tensor& x, const Tensor& w, double eps);

// The residual stream, the sum of `terms`, [T, D] each and contiguous, and its zero-centred RMSNorm.
struct NormedStream {
  Tensor stream, normed;
};
NormedStream normed_stream(at::TensorList terms, const Tensor& w, double eps);

// x rsqrt(mean(x^2) + eps) w silu(z): the DeltaNet's output norm. x, z: [..., N], w: [N].
Tensor gated_norm(const Tensor& x, const Tensor& z, const Tensor& w, double eps);

// scale x rsqrt(sum(x^2) + 1e-6) over the last axis. x: [..., N].
Tensor l2_norm(const Tensor& x, double scale);

// What each row is rotated by: position * theta^(-2j/R), positions counted from each document's begin.
struct RopeAngles {
  Tensor cosines, sines;  // [T, R / 2]
};
RopeAngles rope_angles(const Bounds& bounds, std::int64_t R, double theta);

// Rotates the first R dims of each head (rotate-half form). x: [T, H, Dh].
Tensor rope(const Tensor& x, const RopeAngles& angles);

struct DeltaNetHeads {
  std::int64_t Hk = 0, Hv = 0, Dk = 0, Dv = 0;
};

struct ConvOutputs {
  Tensor q, k;  // [T, Hk, Dk]
  Tensor v, z;  // [T, Hv, Dv]; z did not go through the conv
};

// Ungroups in_proj_qkvz's result, then the depthwise causal conv and SiLU of q, k and v.
// qkvz: [T, Hk (2 Dk + 2 r Dv)], r = Hv / Hk, a group of [q | k | r v | r z] for each key head. w: [C, 1, taps].
ConvOutputs conv_silu(const Tensor& qkvz, const Tensor& w, const Bounds& bounds, const DeltaNetHeads& heads);

// The gated delta rule in chunks of 64 tokens, each document from a state of zeros.
// q, k: [T, Hk, Dk], L2-normalised, q times 1/sqrt(Dk); v: [T, Hv, Dv]; g (log-decay, <= 0), beta (in (0, 1)): [T, Hv].
// Result [T, Hv, Dv]. Value head h uses key head h / (Hv / Hk).
// Memory  the state before each chunk and the chunk's writes are kept for backward: T Hv (Dk / 64 + 1) Dv floats.
// Source  Yang et al. 2024 (arXiv 2412.06464); the backward differentiates the triangular solve itself instead of its
//         inverse (docs/decisions/0009-training.md).
Tensor delta_rule(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& g, const Tensor& beta,
                  const Bounds& bounds);

// softmax(q kT / sqrt(Dh), causal within the document) v. q: [T, Hq, Dh]; k, v: [T, Hkv, Dh]; result like q.
// Query head h reads key head h / (Hq / Hkv). Memory: one float a row and head is kept for backward.
Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, const Bounds& bounds);

// What a router did in one forward pass, by parts of its tokens.
struct RouterLoad {
  Tensor counts;         // [parts, E] float: tokens sent to each expert
  Tensor probabilities;  // [parts, E]: sum over the tokens of each expert's probability; differentiable
  Tensor z;              // scalar: sum over the tokens of logsumexp(logits)^2; differentiable
};

// The A experts with the largest logits, the largest first, of equal ones the first; softmax over those. logits: [T,
// E]; `parts`: where the parts begin that the load is counted by, and last T.
struct Routed {
  Tensor chosen;   // [T, A] int64
  Tensor weights;  // [T, A]
  RouterLoad load;
};
Routed route(const Tensor& logits, std::int64_t A, const Bounds& parts);

// The experts that `chosen` names, weighted: sum over a of weights[t, a] down_e(silu(gate_e x) * up_e x), e = chosen[t,
// a]. x: [T, D]; chosen: [T, A] int64, in [0, E); weights: [T, A]; gate_up: [E, 2 F, D], gate first; down: [E, D, F].
// Memory: the inner activations, T A 2 F floats, are kept for backward.
Tensor experts(const Tensor& x, const Tensor& chosen, const Tensor& weights, const Tensor& gate_up, const Tensor& down);

struct HeadLoss {
  Tensor sum;      // scalar: sum over rows of weights[t] * cross-entropy
  Tensor correct;  // [T] bool: the label had the largest logit; not differentiable
};

// The head and its cross-entropy, 512 rows of logits at a time: [T, V] never exists.
// h: [T, D]; w: [V, D]; labels: [T] int64, in [0, V) (anything where the weight is 0); weights: [T] float. Cost: of the
// rows whose weight is not 0.
HeadLoss head_loss(const Tensor& h, const Tensor& w, const Tensor& labels, const Tensor& weights);

// The cross-entropy of each row's label: [T]. No gradient.
Tensor token_losses(const Tensor& h, const Tensor& w, const Tensor& labels);

}  // namespace qnext::train
