#pragma once
// ModelConfig: everything that a checkpoint says about the shape of its network. Three architectures, one description:
// Qwen3-Next (gated attention + Gated DeltaNet + MoE), and its baselines Qwen3 MoE and Qwen3 dense, which are the same
// layers with parts left out. Dimension names: docs/glossary.md.

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "tensor/dtype.h"

namespace qnext {

class Gguf;

// No dimension of this family is near this; below it, products of three fit 64 bits with room.
inline constexpr std::size_t kMaxDimension = std::size_t{1} << 20;
inline constexpr std::size_t kMaxLayers = 4096;
inline constexpr double kDefaultRopeTheta = 1e4;  // of a file that does not say it, in transformers as in llama.cpp

enum class Architecture { kQwen3Next, kQwen3Moe, kQwen3 };
enum class MixerKind { kGatedDeltaNet, kAttention };
enum class FeedForwardKind { kMoe, kDense };

struct YarnConfig {
  double factor = 1;
  double original_context_tokens = 0;
  double beta_fast = 32;
  double beta_slow = 1;
  double attention_factor = 1;  // multiplies cos and sin
};

struct RopeConfig {
  double theta = 1e7;
  std::size_t R = 0;  // rotary dims of each head, even
  std::optional<YarnConfig> yarn;
};

struct LayerConfig {
  MixerKind mixer = MixerKind::kAttention;
  FeedForwardKind feed_forward = FeedForwardKind::kMoe;
};

struct ModelConfig {
  Architecture architecture = Architecture::kQwen3Next;
  std::vector<LayerConfig> layers;
  std::size_t V = 0;
  std::size_t D = 0;
  float eps = 1e-6f;
  bool tied_head = false;
  bool has_mtp = false;  // the checkpoint carries an MTP block
  std::size_t max_context_tokens = 0;

  // attention
  std::size_t Hq = 0, Hkv = 0, Dh = 0;
  bool attention_gate = false;  // q_proj holds query and output gate of each head
  RopeConfig rope;

  // Gated DeltaNet
  std::size_t Hk = 0, Hv = 0, Dk = 0, Dv = 0;
  std::size_t conv_taps = 0;

  // feed-forward
  std::size_t dense_width = 0;
  std::size_t E = 0, A = 0, F = 0;
  std::size_t shared_expert_width = 0;  // 0: none
  bool normalize_routing = true;

  // Norm weights are stored as w - 1 in safetensors (not in GGUF, whose converter adds the 1).
  bool zero_centred_norms() const { return architecture == Architecture::kQwen3Next; }

  std::size_t C() const { return 2 * Hk * Dk + Hv * Dv; }  // conv channels: q, k, v
  std::size_t num_layers() const { return layers.size(); }
  std::size_t num_layers_of(MixerKind mixer) const;

  // Memory of one sequence: bytes a token of K/V (the MTP block's included), and bytes of recurrent and conv state.
  std::size_t kv_bytes_per_token(DType type) const;  // requires that check_kv_type is content
  std::size_t state_bytes() const;
};

std::string_view architecture_name(Architecture architecture);       // "qwen3_next", as in config.json
std::string_view gguf_architecture_name(Architecture architecture);  // "qwen3next"

// Reads a Hugging Face config.json. `file` names it in errors. has_mtp is left false: only the tensors tell. What the
// file leaves open is as in transformers' configuration classes; sizes it must say.
// Both spellings of the rope fields (rope_theta + rope_scaling, and rope_parameters), layer_types or
// full_attention_interval, mlp_only_layers, decoder_sparse_step. Errors: field, expected, found.
Result<ModelConfig> parse_config_json(std::string_view text, const std::string& file);

// Reads the metadata of a GGUF file (and its tensor names, for dense layers and the tied head).
Result<ModelConfig> parse_config_gguf(const Gguf& gguf);

// Every rule that the numbers must keep, so that later code may rely on them: non-zero sizes, heads that divide,
// A <= E, R even and <= Dh, no product of three dimensions near overflow.
Status check_config(const ModelConfig& config, const std::string& file);

}  // namespace qnext
