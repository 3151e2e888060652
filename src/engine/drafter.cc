#include "engine/drafter.h"

#include <algorithm>

#include "engine/draft_depth.h"

namespace qnext {
namespace {

// Rows, 6 MiB of the 80B model's. While nothing is guessed each step adds one, and those that find out whether guesses
// are right again must find the block's input whole.
constexpr std::size_t kMaxPending = 768;
static_assert(kMaxPending > DraftDepth::kLongestInterval);

std::size_t num_pending(const DraftState& state, std::size_t D) {
  return state.pending.size() / D;
}

// What the block is to run now: pending rows, then this step's.
std::size_t num_rows_to_run(const DraftRows& rows) {
  if (rows.state->is_lost || (rows.num_drafts == 0 && !rows.is_prompt)) return 0;
  return num_pending(*rows.state, rows.hidden.dim(1)) + rows.hidden.dim(0);
}

void save_up(DraftState& state, View<const float> hidden) {
  if (state.is_lost) return;
  if (num_pending(state, hidden.dim(1)) + hidden.dim(0) > kMaxPending) {
    state = {.tokens = {}, .pending = {}, .is_lost = true};
    return;
  }
  for (std::size_t t = 0; t < hidden.dim(0); ++t) {
    state.pending.insert(state.pending.end(), hidden.row(t), hidden.row(t) + hidden.dim(1));
  }
}

TokenId likeliest(const float* logits, std::size_t V) {
  return static_cast<TokenId>(std::max_element(logits, logits + V) - logits);
}

}  // namespace

void Drafter::run(Arena& scratch, const KvStore& kv, std::span<const DraftRows> rows) {
  for (const DraftRows& one : rows) {
    one.state->tokens.clear();
    if (num_rows_to_run(one) == 0) save_up(*one.state, one.hidden);
  }
  const Arena::Scope scope(scratch);
  View<float> hidden = catch_up(scratch, kv, rows);  // [guessers_, D]
  while (!guessers_.empty()) hidden = guess(scratch, kv, hidden);
}

// Runs the block over all rows that it is to run; returns its output at the last ones of those that want guesses.
View<float> Drafter::catch_up(Arena& scratch, const KvStore& kv, std::span<const DraftRows> rows) {
  const std::size_t D = model_.config().D;
  guessers_.clear();
  tokens_.clear();
  spans_.clear();
  std::size_t T = 0;
  for (const DraftRows& one : rows) T += num_rows_to_run(one);
  View<float> hidden = make_scratch(scratch, {T, D});
  for (const DraftRows& one : rows) {
    const std::size_t num_rows = num_rows_to_run(one);
    if (num_rows == 0) continue;
    float* out = std::ranges::copy(one.state->pending, hidden.row(tokens_.size())).out;
    for (std::size_t t = 0; t < one.hidden.dim(0); ++t) out = std::copy_n(one.hidden.row(t), D, out);
    const std::size_t first_position = one.first_position - num_pending(*one.state, D);
    one.state->pending.clear();
    const auto next = one.tokens.subspan(first_position + 1, num_rows);
    if (one.num_drafts > 0) guessers_.push_back({&one, first_position + num_rows - 1, tokens_.size() + num_rows - 1});
    add_span(one, first_position, next);
  }
  return run_block(scratch, kv, hidden);
}

// A guess for each guesser; those that want more run it, and stay. `hidden` [guessers_, D] as run_block returns it.
View<float> Drafter::guess(Arena& scratch, const KvStore& kv, View<const float> hidden) {
  const std::size_t D = model_.config().D;
  const View<float> logits = model_.logits(ops_, scratch, hidden);
  View<float> kept = make_scratch(scratch, {guessers_.size(), D});
  tokens_.clear();
  spans_.clear();
  std::size_t num_left = 0;
  for (std::size_t i = 0; i < guessers_.size(); ++i) {
    Guesser guesser = guessers_[i];
    std::vector<TokenId>& guesses = guesser.rows->state->tokens;
    guesses.push_back(likeliest(logits.row(i), logits.dim(1)));
    if (guesses.size() == guesser.rows->num_drafts) continue;
    std::copy_n(hidden.row(i), D, kept.row(num_left));
    ++guesser.position;
    guesser.row = num_left;
    guessers_[num_left++] = guesser;
    add_span(*guesser.rows, guesser.position, {&guesses.back(), 1});
  }
  guessers_.resize(num_left);
  return run_block(scratch, kv, kept.slice(0, 0, num_left));
}

void Drafter::add_span(const DraftRows& rows, std::size_t first_position, std::span<const TokenId> next) {
  const Range range = {tokens_.size(), tokens_.size() + next.size()};
  tokens_.insert(tokens_.end(), next.begin(), next.end());
  spans_.push_back({.rows = range,
                    .first_position = first_position,
                    .kv_pages = rows.kv->pages,
                    .state_slot = {},
                    .window_slots = {},
                    .checkpoint = {}});
}

// The block over tokens_ and spans_; its output at the guessers' rows.
View<float> Drafter::run_block(Arena& scratch, const KvStore& kv, View<const float> hidden) {
  View<float> out = make_scratch(scratch, {guessers_.size(), model_.config().D});
  if (tokens_.empty()) return out;
  const Arena::Scope scope(scratch);
  const Batch batch{.token_ids = tokens_, .spans = spans_};
  const View<float> y = model_.forward_mtp(ops_, scratch, batch, hidden, {.kv = kv, .state = {}});
  for (std::size_t i = 0; i < guessers_.size(); ++i) std::copy_n(y.row(guessers_[i].row), y.dim(1), out.row(i));
  return out;
}

}  // namespace qnext
