#include "engine/scheduler.h"

#include <algorithm>

#include "base/check.h"
#include "kernels/kernels.h"

namespace qnext {
namespace {

// How much of a prompt goes into this step. Budgets below kDeltaChunk never reach the chunked delta rule: any cut will
// do.
std::size_t prefill_tokens(std::size_t num_left, std::size_t num_budgeted, const SchedulerLimits& limits) {
  if (num_left <= num_budgeted) return num_left;
  const std::size_t grain = limits.prefill_chunk_tokens < kDeltaChunk ? 1 : kDeltaChunk;
  return num_budgeted / grain * grain;
}

// Decode rows, oldest first. Once one must wait for pages, those behind it run only if they need none.
// Returns the pages that are left; nothing when someone waits.
std::optional<std::size_t> plan_decode(StepPlan& plan, const SchedulerState& state) {
  std::size_t num_free_pages = state.num_free_pages;
  bool someone_waits = false;
  for (std::size_t i = 0; i < state.running.size(); ++i) {
    const RunningSequence& sequence = state.running[i];
    if (sequence.num_prompt_tokens_left > 0) continue;
    if (sequence.num_pages_missing > (someone_waits ? 0 : num_free_pages)) {
      someone_waits = true;
      continue;
    }
    num_free_pages -= sequence.num_pages_missing;
    plan.rows.push_back({.sequence_idx = i, .num_tokens = 1, .is_prefill = false});
  }
  if (someone_waits) return std::nullopt;
  return num_free_pages;
}

void plan_admission(StepPlan& plan, const SchedulerState& state, std::size_t num_free_pages) {
  for (const WaitingRequest& request : state.waiting) {
    if (plan.num_admitted == state.num_free_slots || request.num_pages > num_free_pages) return;
    num_free_pages -= request.num_pages;
    ++plan.num_admitted;
  }
}

// The oldest prompt has the whole budget before it, so it always advances.
void plan_prefill(StepPlan& plan, const SchedulerState& state, const SchedulerLimits& limits) {
  std::size_t num_budgeted = limits.prefill_chunk_tokens;
  const auto plan_prompt = [&](std::size_t sequence_idx, std::size_t num_left) {
    const std::size_t num_tokens = prefill_tokens(num_left, num_budgeted, limits);
    if (num_tokens == 0) return;
    num_budgeted -= num_tokens;
    plan.rows.push_back({.sequence_idx = sequence_idx, .num_tokens = num_tokens, .is_prefill = true});
  };
  for (std::size_t i = 0; i < state.running.size(); ++i) plan_prompt(i, state.running[i].num_prompt_tokens_left);
  for (std::size_t i = 0; i < plan.num_admitted; ++i) {
    plan_prompt(state.running.size() + i, state.waiting[i].num_prompt_tokens);
  }
}

}  // namespace

StepPlan plan_step(const SchedulerState& state, const SchedulerLimits& limits) {
  QN_CHECK(limits.prefill_chunk_tokens > 0, "a prefill budget of 0");
  StepPlan plan;
  const std::optional<std::size_t> num_free_pages = plan_decode(plan, state);
  if (num_free_pages) plan_admission(plan, state, *num_free_pages);  // newcomers never take what others wait for
  plan_prefill(plan, state, limits);
  if (plan.rows.empty() && !state.running.empty()) plan.exhausted_sequence_idx = state.running.size() - 1;
  return plan;
}

}  // namespace qnext
