#pragma once
// The network's parameters, one struct a part, in the form that the kernels read: matrices stay in the mapped file, in
// its element type; small vectors become f32, with norm weights effective (the 1 of zero-centred norms added).
// Whatever the file's layout, here it is one: q | k | v | z | b | a each ungrouped, experts one matrix each.

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "base/result.h"
#include "model/config.h"
#include "tensor/checked_file.h"
#include "tensor/gguf.h"
#include "tensor/safetensors.h"
#include "tensor/weight.h"

namespace qnext {

using Vector = std::vector<float>;

struct AttentionWeights {
  Weight q;               // [Hq * 2 * Dh, D] per head: query, then output gate;  without gate [Hq * Dh, D]
  Weight k, v;            // [Hkv * Dh, D]
  Weight out;             // [D, Hq * Dh]
  Vector q_norm, k_norm;  // [Dh]
};

struct DeltaNetWeights {
  Weight qkv;        // [C, D]: rows of all q heads, all k heads, all v heads
  Weight z;          // [Hv * Dv, D] output gate
  Weight ba;         // [2 * Hv, D]: b of all value heads, then a
  Weight out;        // [D, Hv * Dv]
  Vector conv;       // [taps, C], oldest tap first
  Vector neg_exp_a;  // [Hv] -exp(A_log)
  Vector dt_bias;    // [Hv]
  Vector norm;       // [Dv] plain
};

struct DenseWeights {
  Weight gate, up;  // [width, D]
  Weight down;      // [D, width]
};

struct MoeWeights {
  Weight router;                       // [E, D]
  std::vector<Weight> gate, up;        // [E] of [F, D]
  std::vector<Weight> down;            // [E] of [D, F]
  std::optional<DenseWeights> shared;  // the expert that every token visits
  Weight shared_gate;                  // [1, D], when there is a shared expert
};

struct LayerWeights {
  Vector mixer_norm;  // [D] input_layernorm
  std::variant<DeltaNetWeights, AttentionWeights> mixer;
  Vector ffn_norm;  // [D] post_attention_layernorm
  std::variant<MoeWeights, DenseWeights> ffn;
};

struct MtpWeights {
  Vector embedding_norm, hidden_norm;  // [D] each
  Weight fc;                           // [D, 2 * D]: embedding first, then hidden
  LayerWeights layer;                  // an attention layer
  Vector norm;                         // [D]
};

// Matrix bytes that exist in no file as the kernels want them (reordered rows), kept beside the mapping.
class OwnedBytes {
 public:
  std::byte* allocate(std::size_t num_bytes) { return blocks_.emplace_back(new std::byte[num_bytes]).get(); }

 private:
  std::deque<std::unique_ptr<std::byte[]>> blocks_;
};

struct ModelWeights {
  ModelConfig config;
  Weight embedding;  // [V, D]
  Weight head;       // [V, D]; the embedding itself when tied
  std::vector<LayerWeights> layers;
  Vector final_norm;  // [D]
  std::optional<MtpWeights> mtp;

  std::variant<std::monostate, Safetensors, Gguf> file;  // keeps the mapping alive
  std::optional<CheckedFile> packed_file;                // likewise; see pack_weights.h
  OwnedBytes owned;
  std::size_t parameter_bytes = 0;  // of all matrices, for reports
};

// An error unless `path` is there and looks like a model: a folder, a .gguf or a .safetensors file.
Status check_model_path(const std::string& path);

// Loads a checkpoint: a directory (config.json + safetensors), or a .gguf file. Reads metadata and small vectors only;
// matrices are mapped. Every tensor's name, type and shape is checked against the config: a missing, extra or
// mis-shaped one is an error that names it, what was expected and what was found.
Result<ModelWeights> load_weights(const std::string& path);

// Every matrix that is multiplied by; the embedding is read row by row, as it lies in the file.
std::vector<Weight*> multiplied_matrices(ModelWeights& weights);

// The mapped files of the checkpoint; none for one that was made in memory.
std::span<const MappedFile> weights_files(const ModelWeights& weights);

// Tells models apart by their config and by samples of their files; what folder they lie in does not matter.
// Cost: some hundred reads of 256 bytes.
std::uint64_t weights_fingerprint(const ModelWeights& weights);

// The two layouts (weights_safetensors.cc, weights_gguf.cc).
Result<ModelWeights> load_safetensors_weights(ModelConfig config, Safetensors file);
Result<ModelWeights> load_gguf_weights(ModelConfig config, Gguf file);

}  // namespace qnext
