#pragma once
// StateCache: slots of recurrent and conv state, one a sequence, more for checkpoints and draft windows.
// A state cannot be cut back as K/V can: whoever may have to return keeps a copy, or drafts into a window.

#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include "base/result.h"
#include "base/units.h"
#include "engine/cache_memory.h"
#include "model/caches.h"

namespace qnext {

class StateCache {
 public:
  // Memory for num_slots slots of this shape (StateStore::shape_for). Error: the system refuses.
  static Result<StateCache> make(StateStore shape, std::size_t num_slots);

  const StateStore& store() const { return store_; }
  std::size_t num_slots() const { return held_.size(); }
  std::size_t num_free_slots() const { return free_slots_.size(); }

  // A slot in the state before the first token. Nothing when none is free.
  std::optional<StateSlotId> try_acquire();
  // A slot with anything in it, for what will be written whole. Requires a free one.
  StateSlotId take();
  void release(StateSlotId slot);

  // A copy of the slot, in a slot of its own. Nothing when none is free. Cost: slot_floats() * 4 bytes read and
  // written.
  std::optional<StateSlotId> try_checkpoint(StateSlotId slot);
  // The slot's state becomes the checkpoint's, which stays.
  void restore(StateSlotId slot, StateSlotId checkpoint);

  // Draft window: num_slots slots for SequenceSpan::window_slots, appended to `window`. False, and nothing done, when
  // too few are free.
  bool try_open_window(std::vector<StateSlotId>& window, std::size_t num_slots);
  // Ends a window of n slots, after a batch of n + 1 rows: the state after its first num_accepted rows, at least 1,
  // becomes `slot`'s, by exchange of ids, without a copy; every other slot of the window is released.
  void commit_window(StateSlotId& slot, std::vector<StateSlotId>& window, std::size_t num_accepted);

  // Checks, against all slots in use: each is held once, free ones are listed once, together they are all. Aborts when
  // not.
  void check_integrity(std::span<const StateSlotId> in_use) const;

 private:
  StateCache(StateStore store, CacheMemory memory, std::size_t num_slots);

  std::span<float> slot_data(StateSlotId slot) const;

  StateStore store_;
  CacheMemory memory_;
  std::vector<bool> held_;               // by slot
  std::vector<StateSlotId> free_slots_;  // the last one is taken next
};

}  // namespace qnext
