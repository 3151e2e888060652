// The names and layouts of GGUF files (design: model.md section 3), current ones and the older fused ones.
#include "model/tensor_reader.h"

namespace qnext {
namespace {

class GgufLayout {
 public:
  GgufLayout(const ModelConfig& config, TensorReader& reader) : config_(config), reader_(reader) {}

  Result<LayerWeights> layer(std::size_t block_idx, LayerConfig kind) {
    const std::string prefix = fmt::format("blk.{}.", block_idx);
    LayerWeights out;
    QN_TRY(out.mixer_norm, norm(prefix + "attn_norm", config_.D));
    if (kind.mixer == MixerKind::kAttention) {
      QN_TRY(out.mixer, attention(prefix));
    } else {
      QN_TRY(out.mixer, delta_net(prefix));
    }
    // Qwen3-Next calls this norm post_attention_norm, its elder sisters ffn_norm.
    const bool is_next = config_.architecture == Architecture::kQwen3Next;
    QN_TRY(out.ffn_norm, norm(prefix + (is_next ? "post_attention_norm" : "ffn_norm"), config_.D));
    if (kind.feed_forward == FeedForwardKind::kMoe) {
      QN_TRY(out.ffn, moe(prefix));
    } else {
      QN_TRY(out.ffn, dense(prefix, "", config_.dense_width));
    }
    return out;
  }

  Result<MtpWeights> mtp(std::size_t block_idx) {
    const std::string prefix = fmt::format("blk.{}.nextn.", block_idx);
    MtpWeights out;
    QN_TRY(out.fc, reader_.matrix(prefix + "eh_proj.weight", config_.D, 2 * config_.D));
    QN_TRY(out.embedding_norm, norm(prefix + "enorm", config_.D));
    QN_TRY(out.hidden_norm, norm(prefix + "hnorm", config_.D));
    const FeedForwardKind feed_forward = config_.E > 0 ? FeedForwardKind::kMoe : FeedForwardKind::kDense;
    QN_TRY(out.layer, layer(block_idx, {MixerKind::kAttention, feed_forward}));
    QN_TRY(out.norm, norm(prefix + "shared_head_norm", config_.D));
    return out;
  }

  Result<Vector> norm(const std::string& name, std::size_t width) { return reader_.vector(name + ".weight", {width}); }

 private:
  Result<AttentionWeights> attention(const std::string& prefix) {
    AttentionWeights out;
    const std::size_t q_rows = config_.Hq * config_.Dh * (config_.attention_gate ? 2 : 1);
    QN_TRY(out.q, reader_.matrix(prefix + "attn_q.weight", q_rows, config_.D));
    QN_TRY(out.k, reader_.matrix(prefix + "attn_k.weight", config_.Hkv * config_.Dh, config_.D));
    QN_TRY(out.v, reader_.matrix(prefix + "attn_v.weight", config_.Hkv * config_.Dh, config_.D));
    QN_TRY(out.out, reader_.matrix(prefix + "attn_output.weight", config_.D, config_.Hq * config_.Dh));
    QN_TRY(out.q_norm, norm(prefix + "attn_q_norm", config_.Dh));
    QN_TRY(out.k_norm, norm(prefix + "attn_k_norm", config_.Dh));
    return out;
  }

  Result<DeltaNetWeights> delta_net(const std::string& prefix) {
    DeltaNetWeights out;
    const std::size_t value_width = config_.Hv * config_.Dv;
    if (reader_.has(prefix + "ssm_in.weight")) {  // older files: one matrix, still in groups
      QN_TRY(const Weight qkvz, reader_.matrix(prefix + "ssm_in.weight", config_.C() + value_width, config_.D));
      QN_TRY(out.qkv, reader_.gather_rows(qkvz, qkv_row_order(config_)));
      QN_TRY(out.z, reader_.gather_rows(qkvz, z_row_order(config_)));
    } else {
      QN_TRY(out.qkv, reader_.matrix(prefix + "attn_qkv.weight", config_.C(), config_.D));
      QN_TRY(out.z, reader_.matrix(prefix + "attn_gate.weight", value_width, config_.D));
    }
    QN_TRY(const Weight ba, reader_.matrix(prefix + "ssm_ba.weight", 2 * config_.Hv, config_.D));
    QN_TRY(out.ba, reader_.gather_rows(ba, ba_row_order(config_)));
    QN_TRY(out.out, reader_.matrix(prefix + "ssm_out.weight", config_.D, value_width));
    QN_TRY(const Vector conv, reader_.vector(prefix + "ssm_conv1d.weight", {config_.C(), config_.conv_taps}));
    out.conv = transposed(conv, config_.C(), config_.conv_taps);
    QN_TRY(out.neg_exp_a, reader_.vector(prefix + "ssm_a", {config_.Hv}));
    for (const float value : out.neg_exp_a) {
      if (value > 0)
        return error("{}: expected -exp(A_log), at most 0, found {}", reader_.where(prefix + "ssm_a"), value);
    }
    QN_TRY(out.dt_bias, reader_.vector(prefix + "ssm_dt.bias", {config_.Hv}));
    QN_TRY(out.norm, reader_.vector(prefix + "ssm_norm.weight", {config_.Dv}));
    return out;
  }

  // suffix: "" for a dense layer, "_shexp" for the shared expert.
  Result<DenseWeights> dense(const std::string& prefix, const std::string& suffix, std::size_t width) {
    DenseWeights out;
    QN_TRY(out.gate, reader_.matrix(prefix + "ffn_gate" + suffix + ".weight", width, config_.D));
    QN_TRY(out.up, reader_.matrix(prefix + "ffn_up" + suffix + ".weight", width, config_.D));
    QN_TRY(out.down, reader_.matrix(prefix + "ffn_down" + suffix + ".weight", config_.D, width));
    return out;
  }

  Result<MoeWeights> moe(const std::string& prefix) {
    MoeWeights out;
    QN_TRY(out.router, reader_.matrix(prefix + "ffn_gate_inp.weight", config_.E, config_.D));
    if (reader_.has(prefix + "ffn_gate_up_exps.weight")) {  // gate rows, then up rows, in one tensor
      QN_TRY(const std::vector<Weight> gate_up,
             reader_.stacked(prefix + "ffn_gate_up_exps.weight", config_.E, 2 * config_.F, config_.D));
      for (const Weight& w : gate_up) {
        out.gate.push_back(w.slice_rows(0, config_.F));
        out.up.push_back(w.slice_rows(config_.F, 2 * config_.F));
      }
    } else {
      QN_TRY(out.gate, reader_.stacked(prefix + "ffn_gate_exps.weight", config_.E, config_.F, config_.D));
      QN_TRY(out.up, reader_.stacked(prefix + "ffn_up_exps.weight", config_.E, config_.F, config_.D));
    }
    QN_TRY(out.down, reader_.stacked(prefix + "ffn_down_exps.weight", config_.E, config_.D, config_.F));
    if (config_.shared_expert_width > 0) {
      QN_TRY(out.shared, dense(prefix, "_shexp", config_.shared_expert_width));
      QN_TRY(out.shared_gate, reader_.matrix(prefix + "ffn_gate_inp_shexp.weight", 1, config_.D));
    }
    return out;
  }

  const ModelConfig& config_;
  TensorReader& reader_;
};

}  // namespace

Result<ModelWeights> load_gguf_weights(ModelConfig config, Gguf file) {
  ModelWeights out;
  out.file.emplace<Gguf>(std::move(file));
  const auto& checkpoint = std::get<Gguf>(out.file);
  TensorReader reader(checkpoint.table(), checkpoint.file_names(), out.owned);
  GgufLayout layout(config, reader);

  QN_TRY(out.embedding, reader.matrix("token_embd.weight", config.V, config.D));
  for (std::size_t layer_idx = 0; layer_idx < config.num_layers(); ++layer_idx) {
    QN_TRY(LayerWeights layer, layout.layer(layer_idx, config.layers[layer_idx]));
    out.layers.push_back(std::move(layer));
  }
  QN_TRY(out.final_norm, layout.norm("output_norm", config.D));
  if (config.tied_head) {
    out.head = out.embedding;
  } else {
    QN_TRY(out.head, reader.matrix("output.weight", config.V, config.D));
  }
  if (config.has_mtp) {
    QN_TRY(out.mtp, layout.mtp(config.num_layers()));
  }
  QN_RETURN_IF_ERROR(reader.expect_all_taken());
  out.parameter_bytes = reader.matrix_bytes();
  out.config = std::move(config);
  return out;
}

}  // namespace qnext
