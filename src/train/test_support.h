#pragma once
// What tests of training share.

namespace qnext::train {

// Four layers, one of attention; every part of the family's network.
inline constexpr const char* kTestModel = R"("model": {
  "model_type": "qwen3_next", "vocab_size": 40, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 4,
  "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 256, "rms_norm_eps": 1e-6,
  "tie_word_embeddings": false, "rope_theta": 10000.0, "partial_rotary_factor": 0.25, "full_attention_interval": 4,
  "linear_conv_kernel_dim": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2,
  "linear_num_value_heads": 4, "decoder_sparse_step": 1, "mlp_only_layers": [], "num_experts": 8, "num_experts_per_tok": 2,
  "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16, "norm_topk_prob": true})";

}  // namespace qnext::train
