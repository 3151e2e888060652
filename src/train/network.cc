#include "train/network.h"

#include <cmath>

#include "train/expert_parallel.h"
#include "train/recompute.h"

namespace qnext::train {
namespace {

Status check_trainable(const ModelConfig& config) {
  if (config.architecture != Architecture::kQwen3Next) {
    return error("the trainer trains model_type \"qwen3_next\", found \"{}\"", architecture_name(config.architecture));
  }
  for (const LayerConfig& layer : config.layers) {
    if (layer.feed_forward != FeedForwardKind::kMoe) {
      return error("the trainer trains MoE layers only: expected decoder_sparse_step 1 and mlp_only_layers []");
    }
  }
  if (config.shared_expert_width == 0) return error("shared_expert_intermediate_size: expected at least 1, found 0");
  if (config.tied_head) return error("tie_word_embeddings: expected false (the family's heads are untied), found true");
  if (config.rope.yarn) return error("rope_scaling: expected null (YaRN is for running, after training), found yarn");
  if (!config.normalize_routing) return error("norm_topk_prob: expected true, found false");
  return success();
}

}  // namespace

std::vector<NamedWeight> named_weights(const NetworkWeights& weights) {
  std::vector<NamedWeight> out;
  for_each_weight(weights, [&](const std::string& name, const Tensor& value) { out.push_back({name, value}); });
  return out;
}

double ops_per_token(const NetworkWeights& weights, const ModelConfig& config, std::int64_t mtp_steps) {
  double met = 0;
  for_each_weight(weights, [&](const std::string& name, const Tensor& value) {
    if (value.dim() < 2 || name.ends_with("embed_tokens.weight") || name.ends_with("conv1d.weight")) return;
    const double share = is_of_experts(name) ? static_cast<double>(config.A) / static_cast<double>(value.size(0)) : 1.0;
    const auto passes = static_cast<double>(name.starts_with("mtp.")      ? mtp_steps
                                            : name.starts_with("lm_head") ? 1 + mtp_steps
                                                                          : 1);
    met += static_cast<double>(value.numel()) * share * passes;
  });
  return 6 * met;
}

Result<Network> Network::make(const ModelConfig& config, NetworkWeights weights) {
  QN_RETURN_IF_ERROR(check_trainable(config));
  for_each_weight(weights, [](const std::string&, Tensor& value) { value.requires_grad_(true); });
  return Network(config, std::move(weights));
}

TrunkOutput Network::trunk(const Tensor& tokens, const Bounds& bounds, const ForwardOptions& options) const {
  TrunkOutput out;
  out.routers.resize(weights_.layers.size());
  Tensor x = torch::embedding(weights_.embed_tokens, tokens);  // [T, D]
  for (std::size_t i = 0; i < weights_.layers.size(); ++i) {
    RouterLoad& router = out.routers[i];
    const LayerWeights& weights = weights_.layers[i];
    if (!options.recompute) {
      x = layer(weights, x, bounds, options, router);
      continue;
    }
    const auto run = [this, &weights, bounds, options](const Tensor& input) {
      RouterLoad load;
      const Tensor result = layer(weights, input, bounds, options, load);
      return std::vector<Tensor>{result, load.counts, load.probabilities, load.z};
    };
    const std::vector<Tensor> results = recomputed(run, x);
    x = results[0];
    router = {results[1], results[2], results[3]};
  }
  out.hidden = zero_centred_norm(x, weights_.norm, config_.eps);
  return out;
}

Tensor Network::layer(const LayerWeights& weights, const Tensor& x, const Bounds& bounds, const ForwardOptions& options,
                      RouterLoad& router) const {
  const NormedStream in = normed_stream(x, weights.input_norm, config_.eps);
  const auto* attention = std::get_if<AttentionWeights>(&weights.mixer);
  const Tensor mixed = attention != nullptr
                           ? gated_attention(*attention, in.normed, bounds, options.output_gate)
                           : gated_delta_net(std::get<DeltaNetWeights>(weights.mixer), in.normed, bounds);
  const NormedStream between = normed_stream({in.stream, mixed}, weights.post_norm, config_.eps);
  const MoeOutput out = moe(weights.moe, between.normed, bounds, options);
  router = out.load;
  return sum_of({between.stream, out.routed, out.shared});
}

Tensor Network::gated_attention(const AttentionWeights& w, const Tensor& x, const Bounds& bounds,
                                bool output_gate) const {
  const std::int64_t T = x.size(0), Dh = signed_size(config_.Dh), R = signed_size(config_.rope.R);
  const std::vector<Tensor> projected = project_each(x, {w.q_proj, w.k_proj, w.v_proj});
  const auto q_and_gate = projected[0].view({T, -1, 2, Dh}).unbind(2);  // [T, Hq, Dh] each
  Tensor q = zero_centred_norm(q_and_gate[0], w.q_norm, config_.eps);
  Tensor k = zero_centred_norm(projected[1].view({T, -1, Dh}), w.k_norm, config_.eps);  // [T, Hkv, Dh]
  const Tensor v = projected[2].view({T, -1, Dh});
  const RopeAngles angles = rope_angles(bounds, R, config_.rope.theta);
  q = rope(q, angles);
  k = rope(k, angles);
  Tensor o = attention(q, k, v, bounds);  // [T, Hq, Dh]
  if (output_gate) o = o * torch::sigmoid(q_and_gate[1]);
  return project(o.reshape({T, -1}), w.o_proj);
}

Tensor Network::gated_delta_net(const DeltaNetWeights& w, const Tensor& x, const Bounds& bounds) const {
  const DeltaNetHeads heads{signed_size(config_.Hk), signed_size(config_.Hv), signed_size(config_.Dk),
                            signed_size(config_.Dv)};
  const std::int64_t T = x.size(0);
  const std::vector<Tensor> projected = project_each(x, {w.in_proj_qkvz, w.in_proj_ba});
  const ConvOutputs mixed = conv_silu(projected[0], w.conv1d, bounds, heads);
  const auto b_and_a = projected[1].view({T, heads.Hk, 2, heads.Hv / heads.Hk}).unbind(2);
  const Tensor beta = torch::sigmoid(b_and_a[0]).reshape({T, heads.Hv});
  const Tensor g = -torch::exp(w.A_log) * torch::softplus(b_and_a[1].reshape({T, heads.Hv}) + w.dt_bias);
  const Tensor q = l2_norm(mixed.q, 1.0 / std::sqrt(static_cast<double>(heads.Dk)));
  const Tensor o = delta_rule(q, l2_norm(mixed.k, 1), mixed.v, g, beta, bounds);  // [T, Hv, Dv]
  return project(gated_norm(o, mixed.z, w.norm, config_.eps).view({T, -1}), w.out_proj);
}

MoeOutput Network::moe(const MoeWeights& w, const Tensor& x, const Bounds& bounds,
                       const ForwardOptions& options) const {
  const std::vector<Tensor> to = branches(x, 3);
  const std::vector<Tensor> logits = project_each(to[0], {w.gate, w.shared_expert_gate});  // [T, E], [T, 1]
  const auto [chosen, weights, load] =
      route(logits[0], signed_size(config_.A), options.load_by_document ? bounds : Bounds{0, x.size(0)});
  const Ranks* const ranks = options.expert_ranks;
  const Tensor routed = ranks == nullptr
                            ? experts(to[1], chosen, weights, w.gate_up, w.down)
                            : experts_of_ranks(to[1], chosen, weights, w.gate_up, w.down, *ranks);  // [T, D]
  const Tensor shared_weight = torch::sigmoid(logits[1]);
  const Tensor shared =
      experts(to[2], torch::zeros_like(shared_weight, torch::kInt64), shared_weight, w.shared_gate_up, w.shared_down);
  return {routed, shared, load};
}

Tensor Network::mtp_step(const Tensor& next_tokens, const Tensor& hidden, const Bounds& bounds,
                         const ForwardOptions& options, RouterLoad& router) const {
  const MtpWeights& w = *weights_.mtp;
  const Tensor embedding = torch::embedding(weights_.embed_tokens, next_tokens);
  const Tensor both = torch::cat({zero_centred_norm(embedding, w.embedding_norm, config_.eps),
                                  zero_centred_norm(hidden, w.hidden_norm, config_.eps)},
                                 1);  // [T, 2 D]
  const Tensor y = layer(w.layer, project(both, w.fc), bounds, options, router);
  return zero_centred_norm(y, w.norm, config_.eps);
}

}  // namespace qnext::train
