#include "engine/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <random>

#include "base/units.h"
#include "kernels/kernels.h"

namespace qnext {
namespace {

StepPlan plan(const std::vector<RunningSequence>& running, const std::vector<WaitingRequest>& waiting,
              std::size_t num_free_pages, std::size_t num_free_slots, std::size_t prefill_chunk_tokens = 512) {
  return plan_step(
      {.running = running, .waiting = waiting, .num_free_pages = num_free_pages, .num_free_slots = num_free_slots},
      {.prefill_chunk_tokens = prefill_chunk_tokens});
}

std::vector<std::vector<std::size_t>> rows_of(const StepPlan& plan) {
  std::vector<std::vector<std::size_t>> out;
  for (const PlannedRows& rows : plan.rows) out.push_back({rows.sequence_idx, rows.num_tokens, rows.is_prefill});
  return out;
}
using Rows = std::vector<std::vector<std::size_t>>;

TEST(Scheduler, NothingToDo) {
  const StepPlan actual = plan({}, {}, 10, 10);
  EXPECT_TRUE(actual.rows.empty());
  EXPECT_EQ(actual.num_admitted, 0u);
  EXPECT_FALSE(actual.exhausted_sequence_idx.has_value());
}

TEST(Scheduler, DecodeRowsComeFirst) {
  EXPECT_EQ(rows_of(plan({{.num_prompt_tokens_left = 30}, {}, {}}, {}, 0, 0)),
            (Rows{{1, 1, 0}, {2, 1, 0}, {0, 30, 1}}));
}

TEST(Scheduler, PromptsShareTheBudgetInOrderAtWholeChunks) {
  const std::vector<RunningSequence> running = {{.num_prompt_tokens_left = 200}, {.num_prompt_tokens_left = 1000}};
  EXPECT_EQ(rows_of(plan(running, {}, 0, 0)), (Rows{{0, 200, 1}, {1, 256, 1}}));  // 312 left: 4 chunks of 64
  EXPECT_EQ(rows_of(plan(running, {}, 0, 0, 65)), (Rows{{0, 64, 1}}));
  EXPECT_EQ(rows_of(plan(running, {}, 0, 0, 7)), (Rows{{0, 7, 1}}));
  EXPECT_EQ(rows_of(plan({{.num_prompt_tokens_left = 3}, {.num_prompt_tokens_left = 9}}, {}, 0, 0, 7)),
            (Rows{{0, 3, 1}, {1, 4, 1}}));
}

TEST(Scheduler, AShortPromptFillsWhatAChunkCannot) {
  EXPECT_EQ(rows_of(plan({{.num_prompt_tokens_left = 1000}, {.num_prompt_tokens_left = 20}}, {}, 0, 0, 100)),
            (Rows{{0, 64, 1}, {1, 20, 1}}));
}

TEST(Scheduler, AdmitsInOrderByPagesAndSlots) {
  const std::vector<WaitingRequest> waiting = {{10, 2}, {20, 3}, {5, 1}};
  EXPECT_EQ(plan({}, waiting, 6, 3).num_admitted, 3u);
  EXPECT_EQ(plan({}, waiting, 5, 3).num_admitted, 2u);
  EXPECT_EQ(plan({}, waiting, 4, 3).num_admitted, 1u);  // the third would fit, but does not overtake
  EXPECT_EQ(plan({}, waiting, 9, 2).num_admitted, 2u);
  EXPECT_EQ(plan({}, waiting, 9, 0).num_admitted, 0u);
  EXPECT_EQ(rows_of(plan({{}}, waiting, 5, 3)), (Rows{{0, 1, 0}, {1, 10, 1}, {2, 20, 1}}));
}

TEST(Scheduler, TheOldestGetsPagesFirstAndNewcomersNone) {
  const std::vector<RunningSequence> running = {
      {.num_pages_missing = 1}, {.num_pages_missing = 1}, {.num_pages_missing = 0}};
  const StepPlan actual = plan(running, {{1, 1}}, 1, 1);
  EXPECT_EQ(rows_of(actual), (Rows{{0, 1, 0}, {2, 1, 0}}));
  EXPECT_EQ(actual.num_admitted, 0u);
  EXPECT_FALSE(actual.exhausted_sequence_idx.has_value());
}

TEST(Scheduler, APageIsKeptForTheOneThatWaitsForTwo) {
  const std::vector<RunningSequence> running = {{.num_pages_missing = 2}, {.num_pages_missing = 1}, {}};
  EXPECT_EQ(rows_of(plan(running, {}, 1, 1)), (Rows{{2, 1, 0}}));
}

TEST(Scheduler, WhenNobodyCanMoveTheYoungestGivesWay) {
  const std::vector<RunningSequence> running = {{.num_pages_missing = 1}, {.num_pages_missing = 1}};
  EXPECT_EQ(plan(running, {{1, 1}}, 0, 1).exhausted_sequence_idx, 1u);
  const StepPlan with_prefill = plan({{.num_pages_missing = 1}, {.num_prompt_tokens_left = 5}}, {}, 0, 1);
  EXPECT_FALSE(with_prefill.exhausted_sequence_idx.has_value());
}

// ---- Whole lives ---------------------------------------------------------------------------------------------------

constexpr std::size_t kPageTokens = 8;

struct RequestLife {
  std::size_t num_prompt_tokens = 0;
  std::size_t num_answer_tokens = 0;
  std::size_t num_run = 0;
  std::size_t num_pages = 0;
  bool exhausted = false;
  bool decodes() const { return num_run >= num_prompt_tokens; }
  bool finished() const { return num_run == num_prompt_tokens + num_answer_tokens; }
};

struct World {
  std::vector<RequestLife*> running;
  std::deque<RequestLife*> waiting;
  std::size_t num_free_pages = 0;
  std::size_t num_free_slots = 0;

  StepPlan make_plan(const SchedulerLimits& limits) const {
    std::vector<RunningSequence> running_view;
    for (const RequestLife* life : running) {
      const std::size_t num_needed = ceil_div(life->num_run + 1, kPageTokens);
      running_view.push_back(
          {.num_prompt_tokens_left = life->decodes() ? 0 : life->num_prompt_tokens - life->num_run,
           .num_pages_missing = life->decodes() && num_needed > life->num_pages ? num_needed - life->num_pages : 0});
    }
    std::vector<WaitingRequest> waiting_view;
    for (const RequestLife* life : waiting) {
      waiting_view.push_back({life->num_prompt_tokens, ceil_div(life->num_prompt_tokens + 1, kPageTokens)});
    }
    return plan_step({.running = running_view,
                      .waiting = waiting_view,
                      .num_free_pages = num_free_pages,
                      .num_free_slots = num_free_slots},
                     limits);
  }

  void take_pages(RequestLife& life, std::size_t num_tokens) {
    const std::size_t num_needed = ceil_div(num_tokens, kPageTokens);
    if (num_needed <= life.num_pages) return;
    ASSERT_LE(num_needed - life.num_pages, num_free_pages) << "a plan beyond the pool";
    num_free_pages -= num_needed - life.num_pages;
    life.num_pages = num_needed;
  }

  void apply(const StepPlan& plan, const SchedulerLimits& limits) {
    const std::size_t num_running_before = running.size();
    // Rows of those that run need their pages before newcomers take any.
    std::size_t num_prefill_tokens = 0;
    bool prefill_began = false;
    std::vector<bool> has_rows(running.size() + plan.num_admitted, false);
    ASSERT_LE(plan.num_admitted, std::min(waiting.size(), num_free_slots));
    for (std::size_t i = 0; i < plan.num_admitted; ++i) {
      running.push_back(waiting.front());
      waiting.pop_front();
      --num_free_slots;
    }
    for (const PlannedRows& rows : plan.rows) {
      ASSERT_LT(rows.sequence_idx, running.size());
      ASSERT_FALSE(has_rows[rows.sequence_idx]) << "twice in one step";
      has_rows[rows.sequence_idx] = true;
      RequestLife& life = *running[rows.sequence_idx];
      ASSERT_EQ(rows.is_prefill, !life.decodes());
      ASSERT_FALSE(!rows.is_prefill && prefill_began) << "decode after prefill";
      ASSERT_GT(rows.num_tokens, 0u);
      if (rows.is_prefill) {
        prefill_began = true;
        num_prefill_tokens += rows.num_tokens;
        const std::size_t num_left = life.num_prompt_tokens - life.num_run;
        ASSERT_LE(rows.num_tokens, num_left);
        const bool is_last = rows.num_tokens == num_left;
        if (limits.prefill_chunk_tokens >= kDeltaChunk) {
          ASSERT_TRUE(is_last || rows.num_tokens % kDeltaChunk == 0);
        }
      } else {
        ASSERT_EQ(rows.num_tokens, 1u);
        take_pages(life, life.num_run + 1);
      }
      life.num_run += rows.num_tokens;
    }
    ASSERT_LE(num_prefill_tokens, limits.prefill_chunk_tokens);
    for (std::size_t i = num_running_before; i < running.size(); ++i) {
      take_pages(*running[i], running[i]->num_prompt_tokens + 1);
    }
    if (plan.exhausted_sequence_idx) {
      ASSERT_TRUE(plan.rows.empty());
      running[*plan.exhausted_sequence_idx]->exhausted = true;
    }
    std::erase_if(running, [&](RequestLife* life) {
      if (!life->finished() && !life->exhausted) return false;
      num_free_pages += life->num_pages;
      ++num_free_slots;
      return true;
    });
  }
};

// Random requests, pools and budgets: each plan keeps its promises, every step moves something, and every request comes
// to its end, in whole unless the pool was too small for those that ran together.
TEST(Scheduler, EveryRequestComesToItsEnd) {
  std::mt19937 random(5);
  std::size_t num_exhausted = 0;
  for (int round = 0; round < 300; ++round) {
    const SchedulerLimits limits{.prefill_chunk_tokens = std::vector<std::size_t>{1, 7, 64, 65, 512}[random() % 5]};
    World world;
    world.num_free_slots = 1 + random() % 6;
    const std::size_t num_slots = world.num_free_slots;
    std::deque<RequestLife> lives;
    std::size_t num_pages_of_longest = 0;
    std::size_t num_tokens = 0;
    for (std::size_t i = 0; i < 1 + random() % 20; ++i) {
      lives.push_back({.num_prompt_tokens = 1 + random() % 300, .num_answer_tokens = 1 + random() % 60});
      const std::size_t total = lives.back().num_prompt_tokens + lives.back().num_answer_tokens;
      num_pages_of_longest = std::max(num_pages_of_longest, ceil_div(total, kPageTokens));
      num_tokens += total;
    }
    const bool roomy = random() % 2 == 0;
    world.num_free_pages = num_pages_of_longest * (roomy ? num_slots : 1);
    const std::size_t num_pages = world.num_free_pages;
    std::size_t num_arrived = 0;
    std::size_t num_steps = 0;
    while (num_arrived < lives.size() || !world.running.empty() || !world.waiting.empty()) {
      if (num_arrived < lives.size() && random() % 3 == 0) world.waiting.push_back(&lives[num_arrived++]);
      const bool has_work = !world.running.empty() || !world.waiting.empty();
      const StepPlan first = world.make_plan(limits);
      const StepPlan second = world.make_plan(limits);
      ASSERT_EQ(rows_of(first), rows_of(second));
      ASSERT_EQ(first.num_admitted, second.num_admitted);
      ASSERT_TRUE(!has_work || !first.rows.empty() || first.exhausted_sequence_idx) << "a step that moves nothing";
      world.apply(first, limits);
      if (HasFatalFailure()) return;
      ASSERT_LT(++num_steps, 10 * num_tokens + 1000) << "no end in sight";
    }
    EXPECT_EQ(world.num_free_pages, num_pages);
    EXPECT_EQ(world.num_free_slots, num_slots);
    for (const RequestLife& life : lives) {
      EXPECT_TRUE(life.finished() || life.exhausted);
      EXPECT_FALSE(roomy && life.exhausted);
      num_exhausted += life.exhausted ? 1 : 0;
    }
  }
  EXPECT_GT(num_exhausted, 0u);  // tight pools did occur
}

}  // namespace
}  // namespace qnext
