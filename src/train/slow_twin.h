#pragma once
// The ops of ops.h once more, from their equations, in plain ATen on any floating type, so that autograd derives the
// gradients. Only tests include it.

#include <cmath>

#include "train/ops.h"

namespace qnext::train::slow {

inline Tensor zero_centred_norm(const Tensor& x, const Tensor& w, double eps) {
  return x * torch::rsqrt(x.pow(2).mean(-1, true) + eps) * (1 + w);
}

inline Tensor gated_norm(const Tensor& x, const Tensor& z, const Tensor& w, double eps) {
  return x * torch::rsqrt(x.pow(2).mean(-1, true) + eps) * w * z * torch::sigmoid(z);
}

inline Tensor l2_norm(const Tensor& x, double scale) {
  return scale * x * torch::rsqrt(x.pow(2).sum(-1, true) + 1e-6);
}

inline Tensor rows(const Tensor& x, std::int64_t begin, std::int64_t end) {
  return x.slice(0, begin, end);
}

// f for each document by itself.
template <class Function>
Tensor by_document(const Bounds& bounds, Function f) {
  std::vector<Tensor> parts;
  for (std::size_t i = 0; i + 1 < bounds.size(); ++i) parts.push_back(f(bounds[i], bounds[i + 1]));
  return torch::cat(parts, 0);
}

inline Tensor rope(const Tensor& x, const Bounds& bounds, std::int64_t R, double theta) {
  return by_document(bounds, [&](std::int64_t begin, std::int64_t end) {
    const Tensor frequencies = torch::pow(theta, -torch::arange(0, R, 2, x.options()) / static_cast<double>(R));
    const Tensor angle = torch::outer(torch::arange(end - begin, x.options()), frequencies).unsqueeze(1);
    const Tensor part = rows(x, begin, end);
    const Tensor a = part.slice(2, 0, R / 2), b = part.slice(2, R / 2, R);
    return torch::cat({a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin(), part.slice(2, R)}, 2);
  });
}

inline ConvOutputs conv_silu(const Tensor& qkvz, const Tensor& w, const Bounds& bounds, const DeltaNetHeads& heads) {
  const std::int64_t T = qkvz.size(0), values = heads.Hv / heads.Hk * heads.Dv, keys = heads.Hk * heads.Dk;
  const auto groups = qkvz.view({T, heads.Hk, -1}).split_with_sizes({heads.Dk, heads.Dk, values, values}, 2);
  const Tensor mixed =
      torch::cat({groups[0].reshape({T, keys}), groups[1].reshape({T, keys}), groups[2].reshape({T, -1})}, 1);
  const Tensor out = by_document(bounds, [&](std::int64_t begin, std::int64_t end) {
    const Tensor padded = torch::constant_pad_nd(rows(mixed, begin, end).t(), {w.size(2) - 1, 0});
    const Tensor y = torch::conv1d(padded.unsqueeze(0), w, Tensor(), torch::IntArrayRef{1}, torch::IntArrayRef{0},
                                   torch::IntArrayRef{1}, w.size(0))
                         .squeeze(0)
                         .t();
    return y * torch::sigmoid(y);
  });
  return {out.slice(1, 0, keys).reshape({T, heads.Hk, heads.Dk}),
          out.slice(1, keys, 2 * keys).reshape({T, heads.Hk, heads.Dk}),
          out.slice(1, 2 * keys).reshape({T, heads.Hv, heads.Dv}), groups[3].reshape({T, heads.Hv, heads.Dv})};
}

// The recurrence, token by token.
inline Tensor delta_rule(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& g, const Tensor& beta,
                         const Bounds& bounds) {
  const std::int64_t r = v.size(1) / k.size(1);
  const Tensor queries = q.repeat_interleave(r, 1), keys = k.repeat_interleave(r, 1);
  return by_document(bounds, [&](std::int64_t begin, std::int64_t end) {
    Tensor state = torch::zeros({v.size(1), k.size(2), v.size(2)}, v.options());
    std::vector<Tensor> out;
    for (std::int64_t t = begin; t < end; ++t) {
      state = state * g[t].exp().view({-1, 1, 1});
      const Tensor write = beta[t].unsqueeze(1) * (v[t] - torch::einsum("hkv,hk->hv", {state, keys[t]}));
      state = state + torch::einsum("hk,hv->hkv", {keys[t], write});
      out.push_back(torch::einsum("hkv,hk->hv", {state, queries[t]}));
    }
    return torch::stack(out, 0);
  });
}

inline Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, const Bounds& bounds) {
  const std::int64_t r = q.size(1) / k.size(1);
  const Tensor keys = k.repeat_interleave(r, 1), values = v.repeat_interleave(r, 1);
  return by_document(bounds, [&](std::int64_t begin, std::int64_t end) {
    Tensor scores = torch::einsum("qhd,khd->hqk", {rows(q, begin, end), rows(keys, begin, end)}) / std::sqrt(q.size(2));
    const Tensor later = torch::ones({end - begin, end - begin}, torch::kBool).triu(1);
    scores = scores.masked_fill(later, -INFINITY);
    return torch::einsum("hqk,khd->qhd", {scores.softmax(-1), rows(values, begin, end)});
  });
}

inline Routed route(const Tensor& logits, std::int64_t A, const Bounds& parts) {
  const auto [top, all_chosen] = logits.topk(A, -1);
  const Tensor chosen = all_chosen, probabilities = logits.softmax(-1);
  const Tensor counts = by_document(parts, [&](std::int64_t begin, std::int64_t end) {
    return torch::bincount(rows(chosen, begin, end).reshape({-1}), {}, logits.size(1)).unsqueeze(0);
  });
  const Tensor sums = by_document(
      parts, [&](std::int64_t begin, std::int64_t end) { return rows(probabilities, begin, end).sum(0, true); });
  return {chosen, top.softmax(-1), {counts.to(torch::kFloat32), sums, logits.logsumexp(-1).square().sum()}};
}

inline Tensor experts(const Tensor& x, const Tensor& chosen, const Tensor& weights, const Tensor& gate_up,
                      const Tensor& down) {
  std::vector<Tensor> out;
  for (std::int64_t t = 0; t < x.size(0); ++t) {
    Tensor sum = torch::zeros({x.size(1)}, x.options());
    for (std::int64_t a = 0; a < chosen.size(1); ++a) {
      const std::int64_t expert = chosen[t][a].item<std::int64_t>();
      const auto inner = torch::mv(gate_up[expert], x[t]).chunk(2);
      sum = sum + weights[t][a] * torch::mv(down[expert], inner[0] * torch::sigmoid(inner[0]) * inner[1]);
    }
    out.push_back(sum);
  }
  return torch::stack(out, 0);
}

inline Tensor head_loss(const Tensor& h, const Tensor& w, const Tensor& labels, const Tensor& weights) {
  const Tensor losses = -torch::log_softmax(torch::mm(h, w.t()), 1).gather(1, labels.unsqueeze(1)).squeeze(1);
  return (losses * weights).sum();
}

}  // namespace qnext::train::slow
