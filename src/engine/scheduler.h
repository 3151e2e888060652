#pragma once
// The scheduler: which rows the next step runs. A pure function, so that its promises can be tested on their own:
//   - one decode row for every sequence that decodes, unless it must wait for a page;
//   - then prompt tokens, first come first served, up to a budget: a long prompt holds streams up by one chunk a step;
//   - requests enter in the order of their arrival, each when a state slot and the pages of its prompt are free;
//   - the oldest sequence always gets pages first, and when none can move, the youngest gives way: something
//   progresses.
// Prompts are cut at multiples of kDeltaChunk, so that the cuts, which depend on who else runs, do not show in results
// (kernels/ops.h, delta_rule).

#include <cstddef>
#include <optional>
#include <span>
#include <vector>

namespace qnext {

struct RunningSequence {
  std::size_t num_prompt_tokens_left = 0;  // 0: it decodes
  std::size_t num_pages_missing = 0;       // for its next decode row. Prompts have had theirs since admission
};

struct WaitingRequest {
  std::size_t num_prompt_tokens = 0;
  std::size_t num_pages = 0;  // for the prompt and the first decode row
};

struct SchedulerState {
  std::span<const RunningSequence> running;  // in order of admission
  std::span<const WaitingRequest> waiting;   // in order of arrival
  std::size_t num_free_pages = 0;
  std::size_t num_free_slots = 0;  // of sequences
};

struct SchedulerLimits {
  std::size_t prefill_chunk_tokens = 512;  // prompt tokens a step, of all sequences together; at least 1
};

struct PlannedRows {
  std::size_t sequence_idx = 0;  // of `running`; the admitted follow it in order
  std::size_t num_tokens = 0;
  bool is_prefill = false;
};

struct StepPlan {
  std::size_t num_admitted = 0;                       // the first of `waiting`
  std::vector<PlannedRows> rows;                      // decode rows, then prefill; each sequence at most once
  std::optional<std::size_t> exhausted_sequence_idx;  // no page is free and nobody can move: this one must end
};

StepPlan plan_step(const SchedulerState& state, const SchedulerLimits& limits);

}  // namespace qnext
