#pragma once
// Speed: how fast a model prefills and decodes, and which share of this machine's roofs that is.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/function_ref.h"
#include "base/result.h"
#include "eval/roofs.h"
#include "eval/work_count.h"
#include "model/model.h"

namespace qnext {

enum class Phase { kPrefill, kDecode };

struct SpeedConfig {
  std::vector<std::size_t> prompt_tokens;  // one prefill measurement each, of one sequence
  std::size_t gen_tokens = 128;            // tokens of each decode measurement; 0: none
  std::vector<std::size_t> depths = {0};   // tokens already in the context, for each of the above
  std::vector<std::size_t> batches = {1};  // sequences that decode at once, for each depth
  std::size_t num_repetitions = 3;         // the median is reported
  std::size_t chunk_tokens = 512;          // of a prompt, a step
  DType kv_type = DType::kF32;
};

struct SpeedResult {
  Phase phase = Phase::kPrefill;
  std::size_t num_tokens = 0;  // of each sequence
  std::size_t num_sequences = 1;
  std::size_t depth = 0;
  std::size_t num_threads = 0;
  double median_s = 0;
  double fastest_s = 0;
  Work work = {};                 // of all tokens together
  std::uint64_t output_hash = 0;  // FNV-1a of the tokens chosen, greedily; the same for every repetition

  // The roofs are measured before the first repetition and after each: memory's moves with the neighbours from one
  // second to the next. A repetition's share of a roof is the time that moving the bytes, or computing the operations,
  // would take at the better of the roofs on both sides of it, divided by its own time; these are the medians.
  Roofs roofs = {};  // the best around this measurement
  double share_of_bandwidth = 0;
  double share_of_matmul = 0;

  double tokens_per_s() const;
  // The one that binds the phase: computing for prefill, bandwidth for decode.
  double share_of_roof() const { return phase == Phase::kPrefill ? share_of_matmul : share_of_bandwidth; }
};

struct SpeedObserver {
  FunctionRef<void(std::string_view what)> begin;  // told what is measured next
  FunctionRef<bool()> go_on;                       // asked at every step; false stops the work, which then is an error
};

// Token ids are random, from a fixed seed. Depth is not prefilled: the caches are filled with random numbers
// (DirectRunner::fill_synthetic), so that 128K tokens cost seconds and not minutes. Before anything is timed, every
// layer runs once, so that the model's pages are in memory.
// Errors: not enough memory; a context beyond the model's; stopped.
Result<std::vector<SpeedResult>> measure_speed(const Qwen3Next& model, const Ops& ops, const SpeedConfig& config,
                                               const SpeedObserver& observer);

}  // namespace qnext
