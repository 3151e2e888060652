#include "engine/state_cache.h"

#include <algorithm>
#include <cstring>

namespace qnext {

Result<StateCache> StateCache::make(StateStore shape, std::size_t num_slots) {
  QN_CHECK(num_slots <= UINT32_MAX, "{} slots", num_slots);
  QN_TRY(CacheMemory memory, CacheMemory::make(num_slots * shape.slot_floats() * sizeof(float), "recurrent states"));
  shape.data = reinterpret_cast<float*>(memory.data());
  return StateCache(shape, std::move(memory), num_slots);
}

StateCache::StateCache(StateStore store, CacheMemory memory, std::size_t num_slots)
    : store_(store), memory_(std::move(memory)), held_(num_slots, false) {
  free_slots_.reserve(num_slots);
  for (std::size_t i = num_slots; i-- > 0;) free_slots_.push_back({static_cast<std::uint32_t>(i)});
}

std::span<float> StateCache::slot_data(StateSlotId slot) const {
  QN_CHECK(slot.value < num_slots() && held_[slot.value], "slot {} of {} is not in use", slot.value, num_slots());
  return {store_.data + slot.value * store_.slot_floats(), store_.slot_floats()};
}

StateSlotId StateCache::take() {
  QN_CHECK(!free_slots_.empty(), "all {} slots are in use", num_slots());
  const StateSlotId slot = free_slots_.back();
  free_slots_.pop_back();
  QN_CHECK(!held_[slot.value], "free slot {} is in use", slot.value);
  held_[slot.value] = true;
  return slot;
}

std::optional<StateSlotId> StateCache::try_acquire() {
  if (free_slots_.empty()) return std::nullopt;
  const StateSlotId slot = take();
  std::ranges::fill(slot_data(slot), 0.0f);
  return slot;
}

void StateCache::release(StateSlotId slot) {
  [[maybe_unused]] const std::span<float> state = slot_data(slot);  // checks, in every build, that it is in use
  if (kPoison && !state.empty()) std::memset(state.data(), 0xFF, state.size_bytes());
  held_[slot.value] = false;
  free_slots_.push_back(slot);
}

std::optional<StateSlotId> StateCache::try_checkpoint(StateSlotId slot) {
  if (free_slots_.empty()) return std::nullopt;
  const StateSlotId checkpoint = take();
  std::ranges::copy(slot_data(slot), slot_data(checkpoint).begin());
  return checkpoint;
}

void StateCache::restore(StateSlotId slot, StateSlotId checkpoint) {
  std::ranges::copy(slot_data(checkpoint), slot_data(slot).begin());
}

bool StateCache::try_open_window(std::vector<StateSlotId>& window, std::size_t num_slots) {
  if (num_slots > free_slots_.size()) return false;
  for (std::size_t i = 0; i < num_slots; ++i) window.push_back(take());
  return true;
}

void StateCache::commit_window(StateSlotId& slot, std::vector<StateSlotId>& window, std::size_t num_accepted) {
  QN_CHECK(num_accepted >= 1 && num_accepted <= window.size() + 1, "{} accepted of {} rows", num_accepted,
           window.size() + 1);
  if (num_accepted <= window.size()) std::swap(slot, window[num_accepted - 1]);
  for (StateSlotId rejected : window) release(rejected);
  window.clear();
}

void StateCache::check_integrity(std::span<const StateSlotId> in_use) const {
  std::vector<bool> found(num_slots(), false);
  const auto find_once = [&](StateSlotId slot, bool is_held) {
    QN_CHECK(slot.value < num_slots() && !found[slot.value], "slot {} of {} occurs twice", slot.value, num_slots());
    QN_CHECK(held_[slot.value] == is_held, "slot {}: expected held {}", slot.value, is_held);
    found[slot.value] = true;
  };
  for (StateSlotId slot : in_use) find_once(slot, true);
  for (StateSlotId slot : free_slots_) find_once(slot, false);
  QN_CHECK(in_use.size() + free_slots_.size() == num_slots(), "{} slots in use, {} free, {} in all", in_use.size(),
           free_slots_.size(), num_slots());
}

}  // namespace qnext
