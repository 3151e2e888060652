#include "engine/state_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
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
  for (std::size_t num_accepted = 1; num_accepted <= 3; ++num_accepted) {
    StateCache cache = make_cache(5);
    StateSlotId slot = *cache.try_acquire();
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

TEST(StateCacheDeathTest, IntegrityFindsLostAndDoubledSlots) {
  StateCache cache = make_cache(2);
  const StateSlotId slot = *cache.try_acquire();
  EXPECT_DEATH(check(cache, {}), "0 slots in use, 1 free, 2 in all");
  EXPECT_DEATH(check(cache, {slot, slot}), "occurs twice");
  cache.release(slot);
  EXPECT_DEATH(cache.release(slot), "is not in use");
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
