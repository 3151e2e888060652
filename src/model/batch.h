#pragma once
// Batch: the tokens of one step. Several sequences at once, each with consecutive positions: a decode step has one
// row a sequence, prefill has many; the network makes no difference between them.

#include <cstddef>
#include <optional>
#include <span>

#include "base/units.h"

namespace qnext {

// A copy of a sequence's state on the way through its rows.
struct StateCheckpoint {
  std::size_t num_rows = 0;  // taken after so many rows of the span, 1 to all of them
  StateSlotId slot;          // that receives it
};

// One sequence's rows of a batch, and where its memory lies.
struct SequenceSpan {
  Range rows;                      // of the batch
  std::size_t first_position = 0;  // of the first row; the rest follow
  std::span<const PageId>
      kv_pages;            // page i holds positions [i * page_tokens, (i+1) * page_tokens); must cover all rows
  StateSlotId state_slot;  // state after position first_position - 1 on entry, after the last row on exit

  // Draft window: when not empty, one slot for each row but the last; slot i receives the state as it is after row i,
  // so that a rejected draft is rolled back by taking over the slot of the last accepted token. Costs a copy of the
  // state a slot.
  std::span<const StateSlotId> window_slots;

  // Not together with a window. Leaves no trace in the results when it falls on a multiple of kDeltaChunk rows
  // (kernels/ops.h, delta_rule).
  std::optional<StateCheckpoint> checkpoint;
};

struct Batch {
  std::span<const TokenId> token_ids;   // [T]
  std::span<const SequenceSpan> spans;  // cover [0, T) in order, without gaps
};

}  // namespace qnext
