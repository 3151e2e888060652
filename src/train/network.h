#pragma once
// The network as it is trained: weights as float32 tensors under the released checkpoints' names, and its forward pass,
// through which autograd finds the gradients. What it computes is model/'s network, to rounding (train/golden_test.cc).
// Shapes and equations: Qwen3-Next's model card and transformers' modular_qwen3_next.py; docs/training.md.

#include "train/torch_core.h"

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "base/result.h"
#include "model/config.h"
#include "train/ops.h"

namespace qnext::train {

class Ranks;

// A dimension of the config as ATen counts.
inline std::int64_t signed_size(std::size_t number) {
  return static_cast<std::int64_t>(number);
}

struct AttentionWeights {
  Tensor q_proj;                  // [Hq 2 Dh, D]: query and output gate of each head
  Tensor k_proj, v_proj, o_proj;  // [Hkv Dh, D], [Hkv Dh, D], [D, Hq Dh]
  Tensor q_norm, k_norm;          // [Dh]
};

struct DeltaNetWeights {
  Tensor in_proj_qkvz, in_proj_ba;  // [Hk (2 Dk + 2 r Dv), D], [Hk 2 r, D]
  Tensor conv1d;                    // [C, 1, taps]
  Tensor A_log, dt_bias;            // [Hv]
  Tensor norm;                      // [Dv], plain
  Tensor out_proj;                  // [D, Hv Dv]
};

struct MoeWeights {
  Tensor gate;                         // [E, D]: the router
  Tensor gate_up, down;                // [E, 2 F, D] (gate first), [E, D, F]
  Tensor shared_gate_up, shared_down;  // [1, 2 Fs, D], [1, D, Fs]
  Tensor shared_expert_gate;           // [1, D]
};

struct LayerWeights {
  Tensor input_norm, post_norm;  // [D]
  std::variant<AttentionWeights, DeltaNetWeights> mixer;
  MoeWeights moe;
};

struct MtpWeights {
  Tensor fc;                                 // [D, 2 D]
  Tensor embedding_norm, hidden_norm, norm;  // [D]
  LayerWeights layer;                        // attention
};

struct NetworkWeights {
  Tensor embed_tokens, lm_head;  // [V, D]
  std::vector<LayerWeights> layers;
  Tensor norm;  // [D]
  std::optional<MtpWeights> mtp;
};

// Calls visit(name, tensor) for every weight, in the order of the network; stacked experts are one tensor,
// "model.layers.0.mlp.experts.gate_up_proj".
template <class Weights, class Visit>
void for_each_weight(Weights& weights, Visit visit);

struct ForwardOptions {
  bool recompute = false;               // keep only each layer's input for backward, and run the layer again there
  bool output_gate = true;              // false: the ablation without attention's output gate
  bool load_by_document = false;        // routers' loads are counted by document; false: of all tokens together
  const Ranks* expert_ranks = nullptr;  // those that the experts are spread over; null: all are here
};

struct MoeOutput {
  Tensor routed, shared;  // [T, D], to be added up
  RouterLoad load;
};

struct TrunkOutput {
  Tensor hidden;                    // [T, D], after the final norm
  std::vector<RouterLoad> routers;  // one a layer
};

class Network {
 public:
  // Errors: what the trainer does not train (dense layers, tied heads, YaRN, plain-norm architectures), by field.
  static Result<Network> make(const ModelConfig& config, NetworkWeights weights);

  const ModelConfig& config() const { return config_; }
  NetworkWeights& weights() { return weights_; }
  const NetworkWeights& weights() const { return weights_; }

  // tokens: [T] int64, in [0, V).
  TrunkOutput trunk(const Tensor& tokens, const Bounds& bounds, const ForwardOptions& options) const;

  // One step of the MTP block: its hidden state [T, D] after its norm, which predicts token t + 2 where next_tokens
  // holds token t + 1 and `hidden` is the trunk's, and a token more for every step that `hidden` comes from this
  // function.
  Tensor mtp_step(const Tensor& next_tokens, const Tensor& hidden, const Bounds& bounds, const ForwardOptions& options,
                  RouterLoad& router) const;

 private:
  Network(ModelConfig config, NetworkWeights weights) : config_(std::move(config)), weights_(std::move(weights)) {}
  Tensor layer(const LayerWeights& weights, const Tensor& x, const Bounds& bounds, const ForwardOptions& options,
               RouterLoad& router) const;
  Tensor gated_attention(const AttentionWeights& w, const Tensor& x, const Bounds& bounds, bool output_gate) const;
  Tensor gated_delta_net(const DeltaNetWeights& w, const Tensor& x, const Bounds& bounds) const;
  MoeOutput moe(const MoeWeights& w, const Tensor& x, const Bounds& bounds, const ForwardOptions& options) const;

  ModelConfig config_;
  NetworkWeights weights_;
};

// Every weight, and every named weight, as lists.
struct NamedWeight {
  std::string name;
  Tensor value;
};
std::vector<NamedWeight> named_weights(const NetworkWeights& weights);

// Operations (2 a multiply-add) of training on one token: the products with the weights that it meets, forward and
// twice that in backward, with `mtp_steps` passes of the MTP block and its head. The products inside of attention and
// the delta rule are left out, and what recompute does again.
double ops_per_token(const NetworkWeights& weights, const ModelConfig& config, std::int64_t mtp_steps);

// ---- implementation of the template ----

template <class Layer, class Visit>
void for_each_layer_weight(Layer& layer, const std::string& prefix, Visit visit) {
  visit(prefix + "input_layernorm.weight", layer.input_norm);
  if (auto* attention = std::get_if<AttentionWeights>(&layer.mixer)) {
    const std::string mixer = prefix + "self_attn.";
    visit(mixer + "q_proj.weight", attention->q_proj);
    visit(mixer + "k_proj.weight", attention->k_proj);
    visit(mixer + "v_proj.weight", attention->v_proj);
    visit(mixer + "o_proj.weight", attention->o_proj);
    visit(mixer + "q_norm.weight", attention->q_norm);
    visit(mixer + "k_norm.weight", attention->k_norm);
  } else {
    auto& delta_net = std::get<DeltaNetWeights>(layer.mixer);
    const std::string mixer = prefix + "linear_attn.";
    visit(mixer + "in_proj_qkvz.weight", delta_net.in_proj_qkvz);
    visit(mixer + "in_proj_ba.weight", delta_net.in_proj_ba);
    visit(mixer + "conv1d.weight", delta_net.conv1d);
    visit(mixer + "A_log", delta_net.A_log);
    visit(mixer + "dt_bias", delta_net.dt_bias);
    visit(mixer + "norm.weight", delta_net.norm);
    visit(mixer + "out_proj.weight", delta_net.out_proj);
  }
  visit(prefix + "post_attention_layernorm.weight", layer.post_norm);
  visit(prefix + "mlp.gate.weight", layer.moe.gate);
  visit(prefix + "mlp.experts.gate_up_proj", layer.moe.gate_up);
  visit(prefix + "mlp.experts.down_proj", layer.moe.down);
  visit(prefix + "mlp.shared_expert.gate_up_proj", layer.moe.shared_gate_up);
  visit(prefix + "mlp.shared_expert.down_proj", layer.moe.shared_down);
  visit(prefix + "mlp.shared_expert_gate.weight", layer.moe.shared_expert_gate);
}

template <class Weights, class Visit>
void for_each_weight(Weights& weights, Visit visit) {
  visit("model.embed_tokens.weight", weights.embed_tokens);
  for (std::size_t i = 0; i < weights.layers.size(); ++i) {
    for_each_layer_weight(weights.layers[i], "model.layers." + std::to_string(i) + ".", visit);
  }
  visit("model.norm.weight", weights.norm);
  visit("lm_head.weight", weights.lm_head);
  if (!weights.mtp) return;
  visit("mtp.fc.weight", weights.mtp->fc);
  visit("mtp.pre_fc_norm_embedding.weight", weights.mtp->embedding_norm);
  visit("mtp.pre_fc_norm_hidden.weight", weights.mtp->hidden_norm);
  for_each_layer_weight(weights.mtp->layer, "mtp.layers.0.", visit);
  visit("mtp.norm.weight", weights.mtp->norm);
}

}  // namespace qnext::train
