#pragma once
// EngineConfig: how many sequences of which length, and the memory that this takes.

#include <cstddef>
#include <optional>

#include "base/result.h"
#include "model/config.h"
#include "tensor/dtype.h"

namespace qnext {

// Tokens guessed ahead for one sequence, at most.
inline constexpr std::size_t kMaxDrafts = 8;

struct EngineConfig {
  std::size_t context_tokens = 0;  // prompt and answer of one sequence, at most; the model's own limit holds too
  std::size_t num_sequences = 1;   // that run at once; more wait
  std::size_t max_waiting = 256;   // requests that wait; more are refused
  DType kv_type = DType::kF32;     // kF32: exact; kI16, kBF16: half the memory; kQ8_0: a quarter
  std::size_t page_tokens = 64;
  std::optional<std::size_t> num_pages = {};  // at least one context's; none: enough for every sequence's
  std::size_t prefill_chunk_tokens = 512;     // prompt tokens a step, of all sequences together
  std::size_t max_drafts = 0;                 // tokens guessed ahead for each sequence, at most; 0: none
  bool adapts_drafts = true;                  // fewer, or none, where that is faster; false: always max_drafts
  std::size_t num_kept_prefixes = 0;          // beginnings of ended and running sequences, each with a state slot
};

// Bytes of K/V pages and state slots that an engine of this config reserves (touched only as they fill). SIZE_MAX when
// no machine has as much.
std::size_t engine_memory_bytes(const ModelConfig& model, const EngineConfig& config);

// State slots: each sequence's own, those of its window of guesses, and those of kept prefixes.
std::size_t num_state_slots(const EngineConfig& config);

std::size_t num_kv_pages(const EngineConfig& config);

// Errors: a field that is out of its range; says which, what was found and what is allowed.
Status check_engine_config(const ModelConfig& model, const EngineConfig& config);

}  // namespace qnext
