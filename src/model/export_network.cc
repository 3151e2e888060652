#include "model/export_network.h"

namespace qnext {
namespace {

class NetworkList {
 public:
  explicit NetworkList(const ModelConfig& config) : config_(config) {}

  std::vector<NetworkTensor> make() {
    if (!config_.tied_head) matrix("output", "lm_head", {config_.V, config_.D}, TensorRole::kEmbedding);
    matrix("token_embd", "model.embed_tokens", {config_.V, config_.D}, TensorRole::kEmbedding);
    for (std::size_t layer_idx = 0; layer_idx < config_.num_layers(); ++layer_idx) {
      layer(fmt::format("blk.{}.", layer_idx), fmt::format("model.layers.{}.", layer_idx), config_.layers[layer_idx]);
    }
    norm("output_norm", "model.norm", config_.D);
    if (config_.has_mtp) mtp(fmt::format("blk.{}.", config_.num_layers()));
    return std::move(out_);
  }

 private:
  void mtp(const std::string& gguf) {
    const std::size_t first_idx = out_.size();
    matrix(gguf + "nextn.eh_proj", "mtp.fc", {config_.D, 2 * config_.D});
    const FeedForwardKind feed_forward = config_.E > 0 ? FeedForwardKind::kMoe : FeedForwardKind::kDense;
    layer(gguf, "mtp.layers.0.", {MixerKind::kAttention, feed_forward});
    norm(gguf + "nextn.shared_head_norm", "mtp.norm", config_.D);
    norm(gguf + "nextn.enorm", "mtp.pre_fc_norm_embedding", config_.D);
    norm(gguf + "nextn.hnorm", "mtp.pre_fc_norm_hidden", config_.D);
    for (std::size_t i = first_idx; i < out_.size(); ++i) {
      if (out_[i].role != TensorRole::kVector) out_[i].role = TensorRole::kMtp;
    }
  }

  void layer(const std::string& gguf, const std::string& hf, LayerConfig kind) {
    norm(gguf + "attn_norm", hf + "input_layernorm", config_.D);
    if (kind.mixer == MixerKind::kGatedDeltaNet) delta_net(gguf, hf + "linear_attn.");
    if (kind.feed_forward == FeedForwardKind::kMoe) {
      moe(gguf, hf + "mlp.");
    } else {
      dense(gguf, "", hf + "mlp.", config_.dense_width);
    }
    // Qwen3-Next calls this norm post_attention_norm, its elder sisters ffn_norm.
    const char* ffn_norm = config_.architecture == Architecture::kQwen3Next ? "post_attention_norm" : "ffn_norm";
    norm(gguf + ffn_norm, hf + "post_attention_layernorm", config_.D);
    if (kind.mixer == MixerKind::kAttention) attention(gguf, hf + "self_attn.");
  }

  void attention(const std::string& gguf, const std::string& hf) {
    const std::size_t q_rows = config_.Hq * config_.Dh * (config_.attention_gate ? 2 : 1);
    const std::size_t kv_rows = config_.Hkv * config_.Dh;
    norm(gguf + "attn_k_norm", hf + "k_norm", config_.Dh);
    matrix(gguf + "attn_k", hf + "k_proj", {kv_rows, config_.D}, TensorRole::kSteering);
    matrix(gguf + "attn_output", hf + "o_proj", {config_.D, config_.Hq * config_.Dh});
    norm(gguf + "attn_q_norm", hf + "q_norm", config_.Dh);
    matrix(gguf + "attn_q", hf + "q_proj", {q_rows, config_.D});
    matrix(gguf + "attn_v", hf + "v_proj", {kv_rows, config_.D}, TensorRole::kSteering);
  }

  void delta_net(const std::string& gguf, const std::string& hf) {
    const std::size_t value_width = config_.Hv * config_.Dv;
    vector(gguf + "ssm_a", hf + "A_log", {config_.Hv}).hf_form = ValueForm::kLog;
    vector(gguf + "ssm_conv1d.weight", hf + "conv1d.weight", {config_.C(), config_.conv_taps}).hf_shape = {
        config_.C(), 1, config_.conv_taps};
    vector(gguf + "ssm_dt.bias", hf + "dt_bias", {config_.Hv});
    matrix(gguf + "ssm_ba", hf + "in_proj_ba", {2 * config_.Hv, config_.D}, TensorRole::kSteering);
    for (const bool is_gate : {false, true}) {
      NetworkTensor& tensor = matrix(gguf + (is_gate ? "attn_gate" : "attn_qkv"), hf + "in_proj_qkvz",
                                     {is_gate ? value_width : config_.C(), config_.D});
      tensor.hf_shape = {config_.C() + value_width, config_.D};
      tensor.relation = is_gate ? TensorRelation::kDeltaGate : TensorRelation::kDeltaQkv;
    }
    vector(gguf + "ssm_norm.weight", hf + "norm.weight", {config_.Dv});  // plain, not zero-centred
    matrix(gguf + "ssm_out", hf + "out_proj", {config_.D, value_width});
  }

  // suffix: "" for a dense layer, "_shexp" for the shared expert.
  void dense(const std::string& gguf, const std::string& suffix, const std::string& hf, std::size_t width) {
    matrix(gguf + "ffn_down" + suffix, hf + "down_proj", {config_.D, width});
    matrix(gguf + "ffn_gate" + suffix, hf + "gate_proj", {width, config_.D});
    matrix(gguf + "ffn_up" + suffix, hf + "up_proj", {width, config_.D});
  }

  void moe(const std::string& gguf, const std::string& hf) {
    experts(gguf + "ffn_down_exps", hf, "down_proj", {config_.D, config_.F});
    experts(gguf + "ffn_gate_exps", hf, "gate_proj", {config_.F, config_.D});
    experts(gguf + "ffn_up_exps", hf, "up_proj", {config_.F, config_.D});
    vector(gguf + "ffn_gate_inp.weight", hf + "gate.weight", {config_.E, config_.D});
    if (config_.shared_expert_width == 0) return;
    dense(gguf, "_shexp", hf + "shared_expert.", config_.shared_expert_width);
    vector(gguf + "ffn_gate_inp_shexp.weight", hf + "shared_expert_gate.weight", {1, config_.D});
  }

  void experts(const std::string& gguf, const std::string& hf, const std::string& part,
               std::vector<std::size_t> shape) {
    NetworkTensor& tensor = matrix(gguf, "", {config_.E, shape[0], shape[1]});
    tensor.hf_name = hf + "experts.";
    tensor.hf_suffix = "." + part + ".weight";
    tensor.hf_shape = std::move(shape);
    tensor.relation = TensorRelation::kExperts;
  }

  void norm(const std::string& gguf, const std::string& hf, std::size_t width) {
    vector(gguf + ".weight", hf + ".weight", {width}).hf_form =
        config_.zero_centred_norms() ? ValueForm::kMinusOne : ValueForm::kPlain;
  }

  NetworkTensor& matrix(const std::string& gguf, const std::string& hf, std::vector<std::size_t> shape,
                        TensorRole role = TensorRole::kOrdinary) {
    NetworkTensor& tensor = vector(gguf + ".weight", hf + ".weight", std::move(shape));
    tensor.role = role;
    return tensor;
  }

  NetworkTensor& vector(std::string gguf, std::string hf, std::vector<std::size_t> shape) {
    NetworkTensor tensor;
    tensor.gguf_name = std::move(gguf);
    tensor.gguf_shape = shape;
    tensor.hf_name = std::move(hf);
    tensor.hf_shape = std::move(shape);
    tensor.role = TensorRole::kVector;
    return out_.emplace_back(std::move(tensor));
  }

  const ModelConfig& config_;
  std::vector<NetworkTensor> out_;
};

}  // namespace

std::string NetworkTensor::expert_name(std::size_t expert_idx) const {
  return fmt::format("{}{}{}", hf_name, expert_idx, hf_suffix);
}

std::vector<NetworkTensor> network_tensors(const ModelConfig& config) {
  return NetworkList(config).make();
}

QkvzGroups::QkvzGroups(const ModelConfig& config)
    : num_groups(config.Hk), key_rows(config.Dk), value_rows(config.Hv / config.Hk * config.Dv) {}

}  // namespace qnext
