#pragma once
// Drafter: guesses what a sequence says next, with the model's MTP block: one layer and the head, where a step runs all
// layers. Guesses are run along with the next token (engine.cc) and count only where they are what would have been
// drawn.

#include <cstddef>
#include <span>
#include <vector>

#include "base/arena.h"
#include "engine/kv_cache.h"
#include "kernels/ops.h"
#include "model/model.h"

namespace qnext {

// What the drafter knows of one sequence.
struct DraftState {
  std::vector<TokenId> tokens;  // guessed: what follows the sequence's last token
  // The trunk's outputs [n, D] at the last n positions, that the MTP block has yet to run: while nothing is drafted
  // they are saved up, so that drafting can be tried again.
  std::vector<float> pending;
  bool is_lost = false;  // too many were pending: the block misses positions, and this sequence drafts no more
};

// A step's rows of one sequence.
struct DraftRows {
  DraftState* state = nullptr;
  std::span<const TokenId> tokens;  // of the whole sequence, up to the token after the last row
  KvSequence* kv = nullptr;         // pages for all rows, and for the guesses after them
  std::size_t first_position = 0;
  View<const float> hidden;    // [n, D] the trunk's outputs at these positions
  bool is_prompt = false;      // run now, in one batch, whether or not something is drafted
  std::size_t num_drafts = 0;  // wanted
};

class Drafter {
 public:
  // Both must outlive it. Requires model.config().has_mtp to run.
  Drafter(const Qwen3Next& model, const Ops& ops) : model_(model), ops_(ops) {}

  // Brings each sequence's guesses up to date: state->tokens become num_drafts new ones, or none where it is lost.
  // Cost: the MTP block over rows and guesses, the head over guesses.
  void run(Arena& scratch, const KvStore& kv, std::span<const DraftRows> rows);

 private:
  // Someone who wants another guess.
  struct Guesser {
    const DraftRows* rows;
    std::size_t position;  // of the last row that the block has run
    std::size_t row;       // that row, of the batch
  };

  View<float> catch_up(Arena& scratch, const KvStore& kv, std::span<const DraftRows> rows);
  View<float> guess(Arena& scratch, const KvStore& kv, View<const float> hidden);
  void add_span(const DraftRows& rows, std::size_t first_position, std::span<const TokenId> next);
  View<float> run_block(Arena& scratch, const KvStore& kv, View<const float> hidden);

  const Qwen3Next& model_;
  const Ops& ops_;
  std::vector<Guesser> guessers_;
  std::vector<TokenId> tokens_;  // of the block's next batch: those after its rows' positions
  std::vector<SequenceSpan> spans_;
};

}  // namespace qnext
