// The names and layouts of Hugging Face checkpoints (design: model.md section 3).
#include <cmath>

#include "model/tensor_reader.h"

namespace qnext {
namespace {

class SafetensorsLayout {
 public:
  SafetensorsLayout(const ModelConfig& config, TensorReader& reader)
      : config_(config), reader_(reader), norm_offset_(config.zero_centred_norms() ? 1.0f : 0.0f) {}

  Result<LayerWeights> layer(const std::string& prefix, LayerConfig kind) {
    LayerWeights out;
    QN_TRY(out.mixer_norm, norm(prefix + "input_layernorm", config_.D));
    if (kind.mixer == MixerKind::kAttention) {
      QN_TRY(out.mixer, attention(prefix + "self_attn."));
    } else {
      QN_TRY(out.mixer, delta_net(prefix + "linear_attn."));
    }
    QN_TRY(out.ffn_norm, norm(prefix + "post_attention_layernorm", config_.D));
    if (kind.feed_forward == FeedForwardKind::kMoe) {
      QN_TRY(out.ffn, moe(prefix + "mlp."));
    } else {
      QN_TRY(out.ffn, dense(prefix + "mlp.", config_.dense_width));
    }
    return out;
  }

  Result<MtpWeights> mtp() {
    MtpWeights out;
    QN_TRY(out.fc, reader_.matrix("mtp.fc.weight", config_.D, 2 * config_.D));
    QN_TRY(out.embedding_norm, norm("mtp.pre_fc_norm_embedding", config_.D));
    QN_TRY(out.hidden_norm, norm("mtp.pre_fc_norm_hidden", config_.D));
    const FeedForwardKind feed_forward = config_.E > 0 ? FeedForwardKind::kMoe : FeedForwardKind::kDense;
    QN_TRY(out.layer, layer("mtp.layers.0.", {MixerKind::kAttention, feed_forward}));
    QN_TRY(out.norm, norm("mtp.norm", config_.D));
    return out;
  }

  Result<Vector> norm(const std::string& name, std::size_t width) {
    return reader_.vector(name + ".weight", {width}, norm_offset_);
  }

 private:
  Result<AttentionWeights> attention(const std::string& prefix) {
    AttentionWeights out;
    const std::size_t q_rows = config_.Hq * config_.Dh * (config_.attention_gate ? 2 : 1);
    QN_TRY(out.q, reader_.matrix(prefix + "q_proj.weight", q_rows, config_.D));
    QN_TRY(out.k, reader_.matrix(prefix + "k_proj.weight", config_.Hkv * config_.Dh, config_.D));
    QN_TRY(out.v, reader_.matrix(prefix + "v_proj.weight", config_.Hkv * config_.Dh, config_.D));
    QN_TRY(out.out, reader_.matrix(prefix + "o_proj.weight", config_.D, config_.Hq * config_.Dh));
    QN_TRY(out.q_norm, norm(prefix + "q_norm", config_.Dh));
    QN_TRY(out.k_norm, norm(prefix + "k_norm", config_.Dh));
    return out;
  }

  Result<DeltaNetWeights> delta_net(const std::string& prefix) {
    DeltaNetWeights out;
    const std::size_t value_width = config_.Hv * config_.Dv;
    QN_TRY(const Weight qkvz, reader_.matrix(prefix + "in_proj_qkvz.weight", config_.C() + value_width, config_.D));
    QN_TRY(out.qkv, reader_.gather_rows(qkvz, qkv_row_order(config_)));
    QN_TRY(out.z, reader_.gather_rows(qkvz, z_row_order(config_)));
    QN_TRY(const Weight ba, reader_.matrix(prefix + "in_proj_ba.weight", 2 * config_.Hv, config_.D));
    QN_TRY(out.ba, reader_.gather_rows(ba, ba_row_order(config_)));
    QN_TRY(out.out, reader_.matrix(prefix + "out_proj.weight", config_.D, value_width));
    QN_TRY(const Vector conv, reader_.vector(prefix + "conv1d.weight", {config_.C(), 1, config_.conv_taps}));
    out.conv = transposed(conv, config_.C(), config_.conv_taps);
    QN_TRY(out.neg_exp_a, reader_.vector(prefix + "A_log", {config_.Hv}));
    for (float& value : out.neg_exp_a) {
      const float decay = -std::exp(value);
      if (!std::isfinite(decay)) {
        return error("{}: expected a logarithm of at most 88, found {}", reader_.where(prefix + "A_log"), value);
      }
      value = decay;
    }
    QN_TRY(out.dt_bias, reader_.vector(prefix + "dt_bias", {config_.Hv}));
    QN_TRY(out.norm, reader_.vector(prefix + "norm.weight", {config_.Dv}));
    return out;
  }

  Result<DenseWeights> dense(const std::string& prefix, std::size_t width) {
    DenseWeights out;
    QN_TRY(out.gate, reader_.matrix(prefix + "gate_proj.weight", width, config_.D));
    QN_TRY(out.up, reader_.matrix(prefix + "up_proj.weight", width, config_.D));
    QN_TRY(out.down, reader_.matrix(prefix + "down_proj.weight", config_.D, width));
    return out;
  }

  Result<MoeWeights> moe(const std::string& prefix) {
    MoeWeights out;
    QN_TRY(out.router, reader_.matrix(prefix + "gate.weight", config_.E, config_.D));
    for (std::size_t expert_idx = 0; expert_idx < config_.E; ++expert_idx) {
      QN_TRY(DenseWeights expert, dense(fmt::format("{}experts.{}.", prefix, expert_idx), config_.F));
      out.gate.push_back(expert.gate);
      out.up.push_back(expert.up);
      out.down.push_back(expert.down);
    }
    if (config_.shared_expert_width > 0) {
      QN_TRY(out.shared, dense(prefix + "shared_expert.", config_.shared_expert_width));
      QN_TRY(out.shared_gate, reader_.matrix(prefix + "shared_expert_gate.weight", 1, config_.D));
    }
    return out;
  }

  const ModelConfig& config_;
  TensorReader& reader_;
  float norm_offset_;
};

}  // namespace

Result<ModelWeights> load_safetensors_weights(ModelConfig config, Safetensors file) {
  ModelWeights out;
  out.file.emplace<Safetensors>(std::move(file));
  const auto& checkpoint = std::get<Safetensors>(out.file);
  TensorReader reader(checkpoint.table(), checkpoint.file_names(), out.owned);
  config.has_mtp = reader.has("mtp.fc.weight");
  QN_RETURN_IF_ERROR(check_config(config, checkpoint.file_names().front()));
  SafetensorsLayout layout(config, reader);

  QN_TRY(out.embedding, reader.matrix("model.embed_tokens.weight", config.V, config.D));
  for (std::size_t layer_idx = 0; layer_idx < config.num_layers(); ++layer_idx) {
    QN_TRY(LayerWeights layer, layout.layer(fmt::format("model.layers.{}.", layer_idx), config.layers[layer_idx]));
    out.layers.push_back(std::move(layer));
  }
  QN_TRY(out.final_norm, layout.norm("model.norm", config.D));
  if (config.tied_head) {
    out.head = out.embedding;
    reader.ignore("lm_head.weight");  // some exporters write the tied copy too
  } else {
    QN_TRY(out.head, reader.matrix("lm_head.weight", config.V, config.D));
  }
  if (config.has_mtp) {
    QN_TRY(out.mtp, layout.mtp());
  }
  QN_RETURN_IF_ERROR(reader.expect_all_taken());
  out.parameter_bytes = reader.matrix_bytes();
  out.config = std::move(config);
  return out;
}

}  // namespace qnext
