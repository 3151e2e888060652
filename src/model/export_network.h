#pragma once
// The tensors of a network by their names in both worlds, GGUF's and Hugging Face's: what a conversion walks along.
// Source: design model.md section 3; the GGUF names, their order and which of them are always f32 are those of
// llama.cpp's converter (conversion/qwen.py and base.py).

#include <cstddef>
#include <string>
#include <vector>

#include "model/config.h"

namespace qnext {

// How a GGUF tensor relates to the Hugging Face ones.
enum class TensorRelation {
  kSame,       // one to one
  kExperts,    // E matrices stacked: hf_name + expert number + hf_suffix
  kDeltaQkv,   // q, k, v rows of in_proj_qkvz, ungrouped; always followed by its kDeltaGate
  kDeltaGate,  // z rows of in_proj_qkvz, ungrouped
};

// What the tensor does, as far as the choice of its type cares (export_types.h).
enum class TensorRole {
  kVector,     // norms, router, conv, decay, shared gate: always f32 in GGUF
  kEmbedding,  // token_embd, output
  kSteering,   // small matrices that all of a layer hangs on: ssm_ba, attn_k, attn_v
  kMtp,        // matrices of the MTP block
  kOrdinary,
};

// In which form safetensors has the numbers; GGUF has them plain.
enum class ValueForm {
  kPlain,
  kMinusOne,  // w - 1, of a zero-centred norm
  kLog,       // A_log = log(-w), where w = -exp(A_log)
};

struct NetworkTensor {
  std::string gguf_name;
  std::vector<std::size_t> gguf_shape;  // slowest axis first
  std::string hf_name;
  std::string hf_suffix;              // kExperts only
  std::vector<std::size_t> hf_shape;  // of each expert for kExperts; of all of in_proj_qkvz for kDelta*
  TensorRelation relation = TensorRelation::kSame;
  TensorRole role = TensorRole::kOrdinary;
  ValueForm hf_form = ValueForm::kPlain;

  std::string expert_name(std::size_t expert_idx) const;
};

// In the order in which llama.cpp's converter writes them from a checkpoint whose names are sorted: head, embedding,
// blocks (within each by Hugging Face name), final norm, MTP block. `config` must have passed check_config().
std::vector<NetworkTensor> network_tensors(const ModelConfig& config);

// The rows of in_proj_qkvz in the checkpoint's groups: of each key head its q, k, v and z rows.
struct QkvzGroups {
  explicit QkvzGroups(const ModelConfig& config);

  std::size_t num_groups;            // Hk
  std::size_t key_rows, value_rows;  // Dk; Hv / Hk * Dv: q and k have key_rows a group, v and z value_rows
  std::size_t group_rows() const { return 2 * key_rows + 2 * value_rows; }
};

}  // namespace qnext
