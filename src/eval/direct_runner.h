#pragma once
// DirectRunner: token lists straight into the network, without an engine between. For comparisons and measurements,
// which must know exactly what each step computes.

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/arena.h"
#include "base/result.h"
#include "kernels/ops.h"
#include "model/caches.h"
#include "model/model.h"

namespace qnext {

struct DirectRunnerConfig {
  std::size_t num_sequences = 1;
  std::size_t max_tokens = 0;  // positions of each sequence
  DType kv_type = DType::kF32;
};

class DirectRunner {
 public:
  // The model and the ops must outlive the runner. Errors: not enough memory for the caches; says what would fit.
  static Result<std::unique_ptr<DirectRunner>> make(const Qwen3Next& model, const Ops& ops,
                                                    const DirectRunnerConfig& config);

  // One step: the next num_tokens = token_ids.count / num_sequences tokens of every sequence, sequence by sequence.
  // Returns the hidden states after the final norm, [num_sequences * num_tokens, D], valid until the next step.
  // Requires token ids below V and position() + num_tokens <= max_tokens.
  View<float> step(std::span<const TokenId> token_ids, const Probe* probe = nullptr);

  // Logits [T, V] of hidden states [T, D]; valid until the next step.
  View<float> logits(View<const float> hidden);

  // Moves every sequence to `position` as if that many tokens had gone through: K/V and states are filled with
  // bounded random numbers, drawn from `seed`. What a step costs depends on their count, not on their values.
  void fill_synthetic(std::size_t position, std::uint64_t seed);

  void reset();  // every sequence empty again

  std::size_t position() const { return position_; }  // tokens that each sequence holds
  const Qwen3Next& model() const { return model_; }

 private:
  DirectRunner(const Qwen3Next& model, const Ops& ops, const DirectRunnerConfig& config);

  const Qwen3Next& model_;
  const Ops& ops_;
  DirectRunnerConfig config_;
  std::size_t pages_per_sequence_ = 0;
  std::size_t position_ = 0;
  std::vector<PageId> pages_;  // sequence by sequence
  Arena memory_;               // of the caches
  Caches caches_;
  Arena scratch_;
  std::optional<Arena::Scope> step_scope_;
};

}  // namespace qnext
