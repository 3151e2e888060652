#include "engine/state_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <random>
#include <vector>

namespace qnext {
namespace {

StateStore small_shape() {
  return {.data = nullptr, .num_delta_layers = 2, .Hv = 2, .Dk = 3, .Dv = 4, .history = 3, .C = 5};
}

StateCache make_cache(std::size_t num_slots) {
  auto cache = StateCache::make(small_shape(), num_slots);
  QN_CHECK(cache.ok(), "{}", cache.message());
  return std::move(cache).value();
}

std::span<float> state_of(const StateCache& cache, StateSlotId slot) {
  return {cache.store().data + slot.value * cache.store().slot_floats(), cache.store().slot_floats()};
}

bool all_are(std::span<const float> state, float value) {
  return std::ranges::all_of(state, [=](float x) { return x == value; });
}

void check(const StateCache& cache, const std::vector<StateSlotId>& in_use) {
  cache.check_integrity(in_use);
}

TEST(StateCache, ANewSlotIsZeroWhateverItHeldBefore) {
  StateCache cache = make_cache(1);
  const StateSlotId slot = *cache.try_acquire();
  EXPECT_TRUE(all_are(state_of(cache, slot), 0));
  std::ranges::fill(state_of(cache, slot), 7.0f);
  EXPECT_FALSE(cache.try_acquire().has_value());
  cache.release(slot);
  EXPECT_TRUE(all_are(state_of(cache, *cache.try_acquire()), 0));
  check(cache, {slot});
}

TEST(StateCache, ACheckpointOutlivesChanges) {
  StateCache cache = make_cache(2);
  const StateSlotId slot = *cache.try_acquire();
  std::ranges::fill(state_of(cache, slot), 1.0f);
  const StateSlotId checkpoint = *cache.try_checkpoint(slot);
  EXPECT_FALSE(cache.try_checkpoint(slot).has_value());
  for (int round = 0; round < 2; ++round) {  // a checkpoint may serve more than once
    std::ranges::fill(state_of(cache, slot), 2.0f);
    cache.restore(slot, checkpoint);
    EXPECT_TRUE(all_are(state_of(cache, slot), 1));
  }
  check(cache, {slot, checkpoint});
}

TEST(StateCache, AWindowHandsOverTheLastAcceptedRow) {
  for (std::size_t num_accepted = 1; num_accepted <= 4; ++num_accepted) {
    StateCache cache = make_cache(5);
    StateSlotId slot = *cache.try_acquire();
    std::ranges::fill(state_of(cache, slot), 4.0f);  // after the last row
    std::vector<StateSlotId> window;
    EXPECT_FALSE(cache.try_open_window(window, 5));
    EXPECT_TRUE(window.empty());
    ASSERT_TRUE(cache.try_open_window(window, 3));
    for (std::size_t i = 0; i < 3; ++i) std::ranges::fill(state_of(cache, window[i]), static_cast<float>(i + 1));
    check(cache, {slot, window[0], window[1], window[2]});
    cache.commit_window(slot, window, num_accepted);
    EXPECT_TRUE(all_are(state_of(cache, slot), static_cast<float>(num_accepted)));
    EXPECT_TRUE(window.empty());
    EXPECT_EQ(cache.num_free_slots(), 4u);
    check(cache, {slot});
  }
}

// A sequence of the random history below: its slot, a checkpoint and a draft window when it has them, and what the
// states must read as.
struct SequenceLife {
  StateSlotId slot;
  float value = 0;
  std::optional<StateSlotId> checkpoint;
  float checkpoint_value = 0;
};

class RandomHistory {
 public:
  RandomHistory() : cache_(make_cache(9)), random_(7) {}

  void take_step() {
    const std::size_t kind = below(6);
    if (kind == 0 || lives_.empty()) return acquire();
    SequenceLife& life = lives_[below(lives_.size())];
    if (kind == 1) return write(life.slot, life.value);
    if (kind == 2) return move_checkpoint(life);
    if (kind == 3) return restore(life);
    if (kind == 4) return draft(life);
    if (below(3) == 0) release(life);
  }

  // Every slot reads as it should, and is held by who should hold it.
  void expect_right() const {
    std::vector<StateSlotId> in_use;
    for (const SequenceLife& life : lives_) {
      in_use.push_back(life.slot);
      ASSERT_TRUE(all_are(state_of(cache_, life.slot), life.value));
      if (!life.checkpoint) continue;
      in_use.push_back(*life.checkpoint);
      ASSERT_TRUE(all_are(state_of(cache_, *life.checkpoint), life.checkpoint_value));
    }
    check(cache_, in_use);
  }
  std::size_t num_refused() const { return num_refused_; }

 private:
  std::size_t below(std::size_t end) { return random_() % end; }

  void write(StateSlotId slot, float& value) {
    value = ++last_value_;
    std::ranges::fill(state_of(cache_, slot), value);
  }
  void acquire() {
    const auto slot = cache_.try_acquire();
    if (slot) lives_.push_back({.slot = *slot, .value = 0, .checkpoint = {}, .checkpoint_value = 0});
    num_refused_ += slot ? 0 : 1;
  }
  void move_checkpoint(SequenceLife& life) {
    if (life.checkpoint) cache_.release(*life.checkpoint);
    life.checkpoint = cache_.try_checkpoint(life.slot);
    life.checkpoint_value = life.value;
    num_refused_ += life.checkpoint ? 0 : 1;
  }
  void restore(SequenceLife& life) {
    if (!life.checkpoint) return;
    cache_.restore(life.slot, *life.checkpoint);
    life.value = life.checkpoint_value;
  }
  void draft(SequenceLife& life) {
    const std::size_t num_rows = 2 + below(4);
    std::vector<StateSlotId> window;
    if (!cache_.try_open_window(window, num_rows - 1)) {
      ++num_refused_;
      return;
    }
    std::vector<float> values(num_rows);
    for (std::size_t i = 0; i < num_rows; ++i) write(i + 1 < num_rows ? window[i] : life.slot, values[i]);
    const std::size_t num_accepted = 1 + below(num_rows);
    cache_.commit_window(life.slot, window, num_accepted);
    life.value = values[num_accepted - 1];
  }
  void release(SequenceLife& life) {
    cache_.release(life.slot);
    if (life.checkpoint) cache_.release(*life.checkpoint);
    life = lives_.back();
    lives_.pop_back();
  }

  StateCache cache_;
  std::mt19937 random_;
  std::vector<SequenceLife> lives_;
  float last_value_ = 0;
  std::size_t num_refused_ = 0;
};

TEST(StateCache, AnyHistoryKeepsEveryState) {
  RandomHistory history;
  for (int round = 0; round < 5000; ++round) {
    history.take_step();
    history.expect_right();
    if (HasFatalFailure()) return;
  }
  EXPECT_GT(history.num_refused(), 0u);  // the slots did run out
}

TEST(StateCacheDeathTest, IntegrityFindsLostAndDoubledSlots) {
  StateCache cache = make_cache(2);
  const StateSlotId slot = *cache.try_acquire();
  EXPECT_DEATH(check(cache, {}), "0 slots in use, 1 free, 2 in all");
  EXPECT_DEATH(check(cache, {slot, slot}), "occurs twice");
  cache.release(slot);
  EXPECT_DEATH(cache.release(slot), "is not in use");
}

TEST(StateCacheDeathTest, AWindowAcceptsOneRowAtLeastAndAllAtMost) {
  StateCache cache = make_cache(3);
  StateSlotId slot = *cache.try_acquire();
  std::vector<StateSlotId> window;
  ASSERT_TRUE(cache.try_open_window(window, 2));
  EXPECT_DEATH(cache.commit_window(slot, window, 0), "0 accepted of 3 rows");
  EXPECT_DEATH(cache.commit_window(slot, window, 4), "4 accepted of 3 rows");
}

// The baselines have no Gated DeltaNet layers: slots of no floats.
TEST(StateCache, SlotsMayBeEmpty) {
  auto cache = StateCache::make({}, 2);
  ASSERT_TRUE(cache.ok());
  StateSlotId slot = *cache->try_acquire();
  EXPECT_TRUE(cache->try_checkpoint(slot).has_value());
  cache->release(slot);
}

}  // namespace
}  // namespace qnext
