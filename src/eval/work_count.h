#pragma once
// What a step must at least read and compute: the yardstick that `bench` holds times against, and `inspect` memory.

#include <cstddef>
#include <cstdint>
#include <optional>

#include "model/config.h"
#include "model/weights.h"
#include "tensor/dtype.h"

namespace qnext {

// Parameters by part, of the trunk and the MTP block apart.
struct ParameterCount {
  std::uint64_t embedding = 0;
  std::uint64_t head = 0;  // 0 when tied
  std::uint64_t attention = 0;
  std::uint64_t delta_net = 0;
  std::uint64_t router = 0;
  std::uint64_t experts = 0;
  std::uint64_t shared_expert = 0;
  std::uint64_t dense = 0;
  std::uint64_t norms = 0;
  std::uint64_t mtp = 0;

  std::uint64_t total() const;  // the MTP block included
  // Read for one token: A of E experts, one row of the embedding table; the head even when it is tied; no MTP block.
  std::uint64_t active(const ModelConfig& config) const;
};
ParameterCount count_parameters(const ModelConfig& config);

// One step: every sequence's next num_tokens tokens from position `depth` on.
struct StepShape {
  std::size_t num_sequences = 1;
  std::size_t num_tokens = 1;  // of each sequence
  std::size_t depth = 0;
  std::size_t num_logit_rows = 1;  // rows that meet the head
  DType kv_type = DType::kF32;
  std::size_t num_layers = 0;  // 0: the model's; else that many, the model's over and over
};

struct Work {
  std::uint64_t weight_bytes = 0;  // every matrix that is touched, once; of the experts, the expected number of
                                   // different ones under uniform routing: E (1 - (1 - A/E)^T)
  std::uint64_t kv_bytes = 0;      // K/V of the context read once a sequence, of the new tokens written
  std::uint64_t state_bytes = 0;   // recurrent and conv state, read and written once
  std::uint64_t ops = 0;           // 2 a multiply-add: matrices, attention scores and values, delta rule

  std::uint64_t bytes() const { return weight_bytes + kv_bytes + state_bytes; }
  Work& operator+=(const Work& other);
};

Work count_work(const ModelWeights& weights, const StepShape& shape);

// A prompt of num_tokens, fed in chunks of chunk_tokens after `depth` tokens; only its last row meets the head.
struct PrefillShape {
  std::size_t num_tokens = 0;
  std::size_t chunk_tokens = 0;
  std::size_t depth = 0;
  DType kv_type = DType::kF32;
};
Work count_prefill_work(const ModelWeights& weights, const PrefillShape& shape);

// Memory that one sequence of num_tokens takes beside the weights.
struct SequenceBytes {
  std::uint64_t kv_bytes = 0;
  std::uint64_t state_bytes = 0;
};
SequenceBytes count_sequence_bytes(const ModelConfig& config, std::size_t num_tokens, DType kv_type);

}  // namespace qnext
