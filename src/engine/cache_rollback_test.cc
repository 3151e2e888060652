// The caches' ways back, with a real network: each must continue, bit for bit, as if nothing had been tried.
#include <gtest/gtest.h>

#include "engine/engine_test_support.h"
#include "engine/kv_cache.h"
#include "engine/state_cache.h"
#include "kernels/compare.h"

namespace qnext::test {
namespace {

constexpr std::size_t kNumPromptTokens = 100;

struct Sequence {
  KvSequence kv;
  StateSlotId slot;
};

class CacheRollbackTest : public testing::TestWithParam<DType> {
 protected:
  CacheRollbackTest()
      : tiny_("next-tiny"),
        kv_(KvCache::make(KvStore::shape_for(tiny_.model().config(), GetParam(), 16), 40).value()),
        states_(StateCache::make(StateStore::shape_for(tiny_.model().config()), 8).value()) {}

  Sequence start() {
    Sequence sequence{.kv = {}, .slot = *states_.try_acquire()};
    (void)run(sequence, tiny_.prompt(kNumPromptTokens));
    return sequence;
  }

  // Runs tokens in one batch; returns the logits of every row.
  std::vector<float> run(Sequence& sequence, std::span<const TokenId> tokens,
                         std::span<const StateSlotId> window = {}) {
    EXPECT_TRUE(kv_.try_reserve(sequence.kv, sequence.kv.num_tokens + tokens.size()));
    const SequenceSpan span{.rows = {0, tokens.size()},
                            .first_position = sequence.kv.num_tokens,
                            .kv_pages = sequence.kv.pages,
                            .state_slot = sequence.slot,
                            .window_slots = window,
                            .checkpoint = {}};
    const Arena::Scope scope(scratch_);
    const View<float> hidden = tiny_.model().forward(tiny_.ops(), scratch_, {.token_ids = tokens, .spans = {&span, 1}},
                                                     {.kv = kv_.store(), .state = states_.store()});
    const View<float> logits = tiny_.model().logits(tiny_.ops(), scratch_, hidden);
    sequence.kv.num_tokens += tokens.size();
    return {logits.data(), logits.data() + logits.num_elements()};
  }

  // Greedy decoding from `token` on; the logits of all steps.
  std::vector<float> decode(Sequence& sequence, TokenId token, std::size_t num_steps) {
    std::vector<float> out;
    for (std::size_t i = 0; i < num_steps; ++i) {
      const std::vector<float> logits = run(sequence, {&token, 1});
      token = argmax(logits);
      out.insert(out.end(), logits.begin(), logits.end());
    }
    return out;
  }

  TinyModel tiny_;
  KvCache kv_;
  StateCache states_;
  Arena scratch_;
};

TEST_P(CacheRollbackTest, CheckpointRestoreAndRollbackRepeatTheSameTokens) {
  Sequence sequence = start();
  const StateSlotId checkpoint = *states_.try_checkpoint(sequence.slot);
  const std::vector<float> first = decode(sequence, 5, 20);
  states_.restore(sequence.slot, checkpoint);
  kv_.rollback(sequence.kv, kNumPromptTokens);
  (void)decode(sequence, 77, 9);  // another way, and back again
  states_.restore(sequence.slot, checkpoint);
  kv_.rollback(sequence.kv, kNumPromptTokens);
  expect_same_bits(decode(sequence, 5, 20), first);
}

TEST_P(CacheRollbackTest, AForkGoesItsOwnWay) {
  Sequence alone = start();
  const std::vector<float> expected = decode(alone, 5, 20);
  Sequence trunk = start();
  Sequence branch{.kv = kv_.fork(trunk.kv, trunk.kv.num_tokens), .slot = *states_.try_checkpoint(trunk.slot)};
  (void)decode(trunk, 77, 20);
  expect_same_bits(decode(branch, 5, 20), expected);
  const std::vector<const KvSequence*> holders = {&alone.kv, &trunk.kv, &branch.kv};
  kv_.check_integrity(holders);
  states_.check_integrity(std::vector<StateSlotId>{alone.slot, trunk.slot, branch.slot});
}

// Four drafted tokens in one batch; of any number of them accepted, the rest leaves no trace.
TEST_P(CacheRollbackTest, ADraftWindowIsAsIfNeverDrafted) {
  const std::size_t V = tiny_.model().config().V;
  Sequence plain = start();
  const std::vector<float> expected = decode(plain, 5, 20);
  std::vector<TokenId> right = {5};  // what greedy decoding feeds
  for (std::size_t i = 0; i < 4; ++i) right.push_back(argmax(std::span(expected).subspan(i * V, V)));
  for (std::size_t num_accepted = 1; num_accepted <= 4; ++num_accepted) {
    SCOPED_TRACE(num_accepted);
    Sequence sequence = start();
    std::vector<TokenId> draft(right.begin(), right.begin() + 4);
    for (std::size_t i = num_accepted; i < 4; ++i) draft[i] = (right[i] + 1) % static_cast<TokenId>(V);
    std::vector<StateSlotId> window;
    ASSERT_TRUE(states_.try_open_window(window, draft.size() - 1));
    const std::vector<float> verified = run(sequence, draft, window);
    expect_same_bits(std::span(verified).first(num_accepted * V), std::span(expected).first(num_accepted * V));
    states_.commit_window(sequence.slot, window, num_accepted);
    kv_.rollback(sequence.kv, kNumPromptTokens + num_accepted);
    const std::vector<float> after = decode(sequence, right[num_accepted], 20 - num_accepted);
    expect_same_bits(after, std::span(expected).subspan(num_accepted * V));
    states_.check_integrity(std::vector<StateSlotId>{plain.slot, sequence.slot});
    kv_.release(sequence.kv);
    states_.release(sequence.slot);
  }
}

INSTANTIATE_TEST_SUITE_P(EveryKvType, CacheRollbackTest, testing::ValuesIn(kKvTypes),
                         [](const auto& info) { return std::string(dtype_info(info.param).name); });

}  // namespace
}  // namespace qnext::test
