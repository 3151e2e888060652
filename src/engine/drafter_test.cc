#include "engine/drafter.h"

#include <gtest/gtest.h>

#include "engine/agreeing_model.h"
#include "engine/engine_test_support.h"

namespace qnext::test {
namespace {

constexpr std::size_t kNumTokens = 800;

// A sequence whose trunk has run, and what it put out.
class DrafterTest : public testing::Test {
 protected:
  DrafterTest()
      : tiny_(agreeing_weights(1.0f / 64)),
        kv_(KvCache::make(KvStore::shape_for(tiny_.model().config(), DType::kF32, 16), 70).value()),
        states_(StateCache::make(StateStore::shape_for(tiny_.model().config()), 1).value()),
        tokens_(tiny_.prompt(kNumTokens)),
        hidden_(kNumTokens * D()) {
    EXPECT_TRUE(kv_.try_reserve(sequence_, kNumTokens + 8));
    const SequenceSpan span{.rows = {0, kNumTokens},
                            .first_position = 0,
                            .kv_pages = sequence_.pages,
                            .state_slot = *states_.try_acquire(),
                            .window_slots = {},
                            .checkpoint = {}};
    const Arena::Scope scope(scratch_);
    const View<float> hidden = tiny_.model().forward(tiny_.ops(), scratch_, {.token_ids = tokens_, .spans = {&span, 1}},
                                                     {.kv = kv_.store(), .state = states_.store()});
    std::copy_n(hidden.data(), hidden_.size(), hidden_.begin());
  }

  std::size_t D() const { return tiny_.model().config().D; }

  DraftRows rows(DraftState& state, std::size_t begin, std::size_t end, bool is_prompt, std::size_t num_drafts) {
    return {.state = &state,
            .tokens = std::span(tokens_).first(end + 1),
            .kv = &sequence_,
            .first_position = begin,
            .hidden = View<const float>(hidden_.data() + begin * D(), {end - begin, D()}),
            .is_prompt = is_prompt,
            .num_drafts = num_drafts};
  }
  void run(const DraftRows& rows) { drafter_.run(scratch_, kv_.store(), {&rows, 1}); }

  // What the block guesses after `end` rows when it runs them all at once.
  std::vector<TokenId> guesses_after(std::size_t end, std::size_t num_drafts) {
    DraftState state;
    run(rows(state, 0, end, true, num_drafts));
    return state.tokens;
  }

  TinyModel tiny_;
  KvCache kv_;
  StateCache states_;
  Arena scratch_;
  std::vector<TokenId> tokens_;
  std::vector<float> hidden_;
  KvSequence sequence_;
  Drafter drafter_{tiny_.model(), tiny_.ops()};
};

TEST_F(DrafterTest, GuessesWhatTheBlockSaysStepByStep) {
  const std::vector<TokenId> expected = guesses_after(120, 4);
  EXPECT_EQ(expected.size(), 4U);
  EXPECT_EQ(guesses_after(120, 2), std::vector<TokenId>(expected.begin(), expected.begin() + 2));
  DraftState state;
  run(rows(state, 0, 70, true, 0));
  EXPECT_TRUE(state.tokens.empty());
  for (std::size_t begin = 70; begin < 119; ++begin) {  // wrong guesses at positions that are run anew
    run(rows(state, begin, begin + 1, false, 3));
    EXPECT_EQ(state.tokens.size(), 3U);
  }
  run(rows(state, 119, 120, false, 4));
  EXPECT_EQ(state.tokens, expected);
}

TEST_F(DrafterTest, CatchesUpWithWhatItDidNotRun) {
  const std::vector<TokenId> expected = guesses_after(300, 3);
  DraftState state;
  run(rows(state, 0, 100, true, 0));
  for (std::size_t begin = 100; begin < 299; begin += 1 + begin % 2) {
    run(rows(state, begin, std::min<std::size_t>(begin + 1 + begin % 2, 299), false, 0));
  }
  EXPECT_EQ(state.pending.size(), 199 * D());
  run(rows(state, 299, 300, false, 3));
  EXPECT_EQ(state.tokens, expected);
  EXPECT_TRUE(state.pending.empty());
}

TEST_F(DrafterTest, GivesUpOnWhatItMissedTooMuchOf) {
  DraftState state;
  run(rows(state, 0, 10, true, 2));
  EXPECT_EQ(state.tokens.size(), 2U);
  for (std::size_t begin = 10; begin < 778; ++begin) run(rows(state, begin, begin + 1, false, 0));
  EXPECT_FALSE(state.is_lost);
  run(rows(state, 778, 779, false, 0));
  EXPECT_TRUE(state.is_lost);
  run(rows(state, 779, 780, false, 2));
  EXPECT_TRUE(state.tokens.empty());
  EXPECT_TRUE(state.pending.empty());
}

TEST_F(DrafterTest, ManySequencesGuessAsEachAlone) {
  const std::vector<TokenId> first = guesses_after(50, 1), second = guesses_after(90, 3);
  KvSequence others[2];
  for (KvSequence& other : others) ASSERT_TRUE(kv_.try_reserve(other, 100));
  DraftState states[3];
  DraftRows together[] = {rows(states[0], 0, 50, true, 1), rows(states[1], 0, 30, true, 0),
                          rows(states[2], 0, 90, true, 3)};
  together[1].kv = &others[0];
  together[2].kv = &others[1];
  drafter_.run(scratch_, kv_.store(), together);
  EXPECT_EQ(states[0].tokens, first);
  EXPECT_TRUE(states[1].tokens.empty());
  EXPECT_EQ(states[2].tokens, second);
}

}  // namespace
}  // namespace qnext::test
