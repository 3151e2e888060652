// The scheduler's promises over random states, reachable or not (scheduler_test.cc runs whole lives).
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <vector>

#include "engine/scheduler.h"
#include "kernels/kernels.h"

namespace qnext {
namespace {

struct RandomState {
  std::vector<RunningSequence> running;
  std::vector<WaitingRequest> waiting;
  std::size_t num_free_pages = 0;
  std::size_t num_free_slots = 0;
  SchedulerLimits limits;

  StepPlan plan() const {
    return plan_step(
        {.running = running, .waiting = waiting, .num_free_pages = num_free_pages, .num_free_slots = num_free_slots},
        limits);
  }
  std::size_t prompt_tokens(std::size_t sequence_idx) const {
    return sequence_idx < running.size() ? running[sequence_idx].num_prompt_tokens_left
                                         : waiting[sequence_idx - running.size()].num_prompt_tokens;
  }
};

RandomState random_state(std::mt19937& random) {
  const auto below = [&](std::size_t end) { return static_cast<std::size_t>(random() % end); };
  const auto prompt_tokens = [&] { return 1 + (below(4) == 0 ? below(5000) : below(150)); };
  RandomState state;
  for (std::size_t i = below(12); i > 0; --i) {
    if (below(3) == 0) {
      state.running.push_back({.num_prompt_tokens_left = prompt_tokens(), .num_pages_missing = 0});
    } else {
      state.running.push_back({.num_prompt_tokens_left = 0, .num_pages_missing = below(4) == 0 ? 1 + below(2) : 0});
    }
  }
  for (std::size_t i = below(12); i > 0; --i) {
    state.waiting.push_back({.num_prompt_tokens = prompt_tokens(), .num_pages = 1 + below(10)});
  }
  state.num_free_pages = below(3) == 0 ? 0 : below(30);
  state.num_free_slots = below(6);
  const std::size_t budgets[] = {1, 7, 63, 64, 65, 100, 512, 4096};
  state.limits.prefill_chunk_tokens = budgets[below(std::size(budgets))];
  return state;
}

// By sequence: the tokens that the plan gives it.
std::vector<std::size_t> planned_tokens(const RandomState& state, const StepPlan& plan) {
  std::vector<std::size_t> out(state.running.size() + plan.num_admitted, 0);
  for (const PlannedRows& rows : plan.rows) out.at(rows.sequence_idx) += rows.num_tokens;
  return out;
}

void expect_well_formed_rows(const RandomState& state, const StepPlan& plan) {
  std::vector<bool> has_rows(state.running.size() + plan.num_admitted, false);
  std::size_t num_prefill_tokens = 0;
  for (const PlannedRows& rows : plan.rows) {
    ASSERT_LT(rows.sequence_idx, has_rows.size());
    ASSERT_FALSE(has_rows[rows.sequence_idx]) << "twice in one step";
    has_rows[rows.sequence_idx] = true;
    const std::size_t num_left = state.prompt_tokens(rows.sequence_idx);
    ASSERT_EQ(rows.is_prefill, num_left > 0);
    if (!rows.is_prefill) {
      ASSERT_EQ(rows.num_tokens, 1u);
      ASSERT_EQ(num_prefill_tokens, 0u) << "a decode row after prefill";
      continue;
    }
    ASSERT_GE(rows.num_tokens, 1u);
    ASSERT_LE(rows.num_tokens, num_left);
    num_prefill_tokens += rows.num_tokens;
    if (state.limits.prefill_chunk_tokens >= kDeltaChunk && rows.num_tokens < num_left) {
      ASSERT_EQ(rows.num_tokens % kDeltaChunk, 0u) << "a cut that would show";
    }
  }
  ASSERT_LE(num_prefill_tokens, state.limits.prefill_chunk_tokens);
}

void expect_pages_and_slots_suffice(const RandomState& state, const StepPlan& plan) {
  ASSERT_LE(plan.num_admitted, std::min(state.num_free_slots, state.waiting.size()));
  std::size_t num_pages = 0;
  bool someone_waits = false;
  const std::vector<std::size_t> num_tokens = planned_tokens(state, plan);
  for (std::size_t i = 0; i < state.running.size(); ++i) {
    if (num_tokens[i] > 0) num_pages += state.running[i].num_pages_missing;
    someone_waits |= num_tokens[i] == 0 && state.running[i].num_prompt_tokens_left == 0;
  }
  for (std::size_t i = 0; i < plan.num_admitted; ++i) num_pages += state.waiting[i].num_pages;
  ASSERT_LE(num_pages, state.num_free_pages);
  ASSERT_FALSE(someone_waits && plan.num_admitted > 0) << "a newcomer takes what another waits for";
  // Nor is anyone kept out for no reason.
  const bool all_in = plan.num_admitted == state.waiting.size();
  if (!someone_waits && !all_in && plan.num_admitted < state.num_free_slots) {
    ASSERT_GT(num_pages + state.waiting[plan.num_admitted].num_pages, state.num_free_pages);
  }
}

void expect_progress(const RandomState& state, const StepPlan& plan) {
  const std::vector<std::size_t> num_tokens = planned_tokens(state, plan);
  bool is_first_decoding = true;
  for (std::size_t i = 0; i < state.running.size(); ++i) {
    const RunningSequence& sequence = state.running[i];
    if (sequence.num_prompt_tokens_left > 0) continue;
    const std::size_t num_pages_for_it = is_first_decoding ? state.num_free_pages : 0;
    if (sequence.num_pages_missing <= num_pages_for_it) {
      ASSERT_EQ(num_tokens[i], 1u) << "a stream is held up";
    }
    is_first_decoding = false;
  }
  for (std::size_t i = 0; i < num_tokens.size(); ++i) {
    if (state.prompt_tokens(i) == 0) continue;
    ASSERT_GT(num_tokens[i], 0u) << "the oldest prompt does not advance";
    break;
  }
  const bool must_move = !state.running.empty() || plan.num_admitted > 0;
  ASSERT_EQ(plan.exhausted_sequence_idx.has_value(), must_move && plan.rows.empty());
  if (plan.exhausted_sequence_idx) {
    ASSERT_EQ(*plan.exhausted_sequence_idx, state.running.size() - 1);
    ASSERT_EQ(plan.num_admitted, 0u);
  }
}

bool same(const StepPlan& a, const StepPlan& b) {
  return a.num_admitted == b.num_admitted && a.exhausted_sequence_idx == b.exhausted_sequence_idx &&
         std::ranges::equal(a.rows, b.rows, [](const PlannedRows& x, const PlannedRows& y) {
           return x.sequence_idx == y.sequence_idx && x.num_tokens == y.num_tokens && x.is_prefill == y.is_prefill;
         });
}

TEST(SchedulerProperties, HoldForAnyState) {
  std::mt19937 random(11);
  std::size_t num_exhausted = 0;
  std::size_t num_admitted = 0;
  for (int round = 0; round < 20'000; ++round) {
    SCOPED_TRACE(testing::Message() << "round " << round);
    const RandomState state = random_state(random);
    const StepPlan plan = state.plan();
    expect_well_formed_rows(state, plan);
    if (HasFatalFailure()) return;
    expect_pages_and_slots_suffice(state, plan);
    expect_progress(state, plan);
    ASSERT_TRUE(same(state.plan(), plan)) << "not a function of its arguments";
    if (HasFatalFailure()) return;
    num_exhausted += plan.exhausted_sequence_idx ? 1 : 0;
    num_admitted += plan.num_admitted;
  }
  EXPECT_GT(num_exhausted, 0u);  // the states reach every branch
  EXPECT_GT(num_admitted, 0u);
}

}  // namespace
}  // namespace qnext
