#pragma once
// Qwen3Next: the network, stateless and const after load. It also runs the baselines (Qwen3 MoE, Qwen3 dense), which
// are the same layers with parts left out (config.h).

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/arena.h"
#include "base/result.h"
#include "kernels/ops.h"
#include "model/batch.h"
#include "model/caches.h"
#include "model/config.h"
#include "model/pack_weights.h"
#include "model/rope.h"
#include "model/weights.h"

namespace qnext {

// Called with each named intermediate while a step runs; for tests, `compare` and study. Names: "hidden" (residual
// stream before layer layer_idx; after the final norm for layer_idx == num_layers), "router.experts" and
// "router.weights" ([T, A], expert numbers as floats), "mtp.hidden".
using Probe = std::function<void(std::string_view name, std::size_t layer_idx, View<const float> values)>;

class Qwen3Next {
 public:
  // Loads a checkpoint: a directory with config.json and safetensors, or a .gguf file (weights.h).
  static Result<std::unique_ptr<const Qwen3Next>> load(const std::string& path);
  // And packs its weights for the table of `ops`, which alone may run the model then.
  static Result<std::unique_ptr<const Qwen3Next>> load(const std::string& path, const Ops& ops,
                                                       const PackOptions& options);
  explicit Qwen3Next(ModelWeights weights);

  const ModelConfig& config() const { return weights_.config; }
  const ModelWeights& weights() const { return weights_; }

  // Runs every layer over the batch, reading and advancing the sequences' caches.
  // Returns the hidden states after the final norm, [T, D], in `scratch`.
  // Requires: token ids below V, spans covering the batch, pages covering the positions.
  View<float> forward(const Ops& ops, Arena& scratch, const Batch& batch, const Caches& caches,
                      const Probe* probe = nullptr) const;

  // Logits of hidden states: [T, V] = hidden [T, D] @ head^T.
  View<float> logits(const Ops& ops, Arena& scratch, View<const float> hidden) const;

  // The MTP block: at row t, batch.token_ids holds the token *after* the row's position and `hidden` the trunk's output
  // at the position (or this block's own, when chained). Returns [T, D], after mtp.norm; logits() of it predict the
  // second token after the position. Keeps its own K/V, in the last layer of caches.kv. Requires config().has_mtp.
  View<float> forward_mtp(const Ops& ops, Arena& scratch, const Batch& batch, View<const float> hidden,
                          const Caches& caches, const Probe* probe = nullptr) const;

 private:
  ModelWeights weights_;
  RopeFrequencies rope_;
};

}  // namespace qnext
