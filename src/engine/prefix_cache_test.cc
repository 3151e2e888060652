#include "engine/prefix_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <optional>
#include <vector>

namespace qnext::test {
namespace {

constexpr std::size_t kPageTokens = 4;
constexpr std::size_t kNumPages = 12;
constexpr std::size_t kNumSlots = 8;

std::vector<TokenId> counting(std::size_t num_tokens, TokenId first = 0) {
  std::vector<TokenId> out(num_tokens);
  std::iota(out.begin(), out.end(), first);
  return out;
}

class PrefixCacheTest : public testing::Test {
 protected:
  PrefixCacheTest()
      : kv_(KvCache::make({.data = nullptr, .page_tokens = kPageTokens, .num_kv_layers = 1, .Hkv = 1, .Dh = 1},
                          kNumPages)
                .value()),
        states_(
            StateCache::make({.data = nullptr, .num_delta_layers = 1, .Hv = 1, .Dk = 1, .Dv = 2, .history = 0, .C = 0},
                             kNumSlots)
                .value()) {}
  ~PrefixCacheTest() override {
    std::vector<const KvSequence*> holders;
    std::vector<StateSlotId> slots;
    if (cache_) cache_->append_holders(holders, slots);
    for (const KvSequence& kv : others_) holders.push_back(&kv);
    kv_.check_integrity(holders);
    states_.check_integrity(slots);
  }

  PrefixCache& open(std::size_t max_prefixes) { return cache_.emplace(kv_, states_, max_prefixes); }

  float& state(StateSlotId slot) { return states_.store().recurrent(slot, 0)(0, 0, 0); }

  // As a sequence that ends with these tokens; its state is `mark`.
  void keep(const std::vector<TokenId>& tokens, float mark, bool lasting = true) {
    KvSequence kv;
    ASSERT_TRUE(kv_.try_reserve(kv, tokens.size()));
    kv.num_tokens = tokens.size();
    const StateSlotId slot = *states_.try_acquire();
    state(slot) = mark;
    cache_->keep(tokens, std::move(kv), slot, lasting);
  }

  float state_after(const std::vector<TokenId>& tokens) {
    KvSequence kv;
    const StateSlotId slot = states_.take();
    EXPECT_EQ(cache_->resume(tokens, kv, slot), cache_->match(tokens));
    EXPECT_EQ(kv.num_tokens, cache_->match(tokens));
    const float out = state(slot);
    kv_.release(kv);
    states_.release(slot);
    return out;
  }

  KvCache kv_;
  StateCache states_;
  std::optional<PrefixCache> cache_;
  std::vector<KvSequence> others_;  // that hold pages, too
};

TEST_F(PrefixCacheTest, TheLongestBeginningIsResumed) {
  open(4);
  EXPECT_EQ(cache_->match(counting(9)), 0U);
  EXPECT_EQ(cache_->match({}), 0U);
  keep(counting(5), 5);
  keep(counting(7), 7);
  keep(counting(6, 1), -1);
  EXPECT_EQ(cache_->match(counting(9)), 7U);
  EXPECT_EQ(state_after(counting(9)), 7);
  EXPECT_EQ(cache_->match(counting(7)), 5U);  // one token has to run
  EXPECT_EQ(state_after(counting(7)), 5);
  EXPECT_EQ(cache_->match(counting(5)), 0U);
  std::vector<TokenId> other = counting(9);
  other[5] = 100;
  EXPECT_EQ(cache_->match(other), 5U);
  other[4] = 100;
  EXPECT_EQ(cache_->match(other), 0U);
}

TEST_F(PrefixCacheTest, WhatIsUsedLeastGoesFirstButWhatLastsStays) {
  open(3);
  keep(counting(3), 3);
  keep(counting(3, 10), 13, false);
  keep(counting(3, 20), 23);
  keep(counting(3, 30), 33);  // in place of the one that does not last
  EXPECT_EQ(cache_->match(counting(4, 10)), 0U);
  EXPECT_EQ(state_after(counting(4)), 3);  // used
  keep(counting(3, 40), 43);
  EXPECT_EQ(cache_->match(counting(4, 20)), 0U);
  EXPECT_EQ(cache_->match(counting(4)), 3U);
  EXPECT_EQ(cache_->num_prefixes(), 3U);
  EXPECT_EQ(cache_->counts().num_kept, 5U);
  EXPECT_EQ(cache_->counts().num_given_up, 2U);
}

TEST_F(PrefixCacheTest, WhatWasResumedLasts) {
  open(2);
  keep(counting(3), 3, false);
  keep(counting(3, 10), 13, false);
  EXPECT_EQ(state_after(counting(4)), 3);
  const auto slot = cache_->try_claim_slot(false);
  ASSERT_TRUE(slot.has_value());
  EXPECT_EQ(cache_->match(counting(4, 10)), 0U);
  EXPECT_FALSE(cache_->try_claim_slot(false).has_value());  // one lasts, one is claimed
  KvSequence kv;
  ASSERT_TRUE(kv_.try_reserve(kv, 3));
  kv.num_tokens = 3;
  cache_->keep_claimed(counting(3, 20), std::move(kv), *slot, false);
  EXPECT_EQ(cache_->match(counting(4, 20)), 3U);
}

TEST_F(PrefixCacheTest, AQuarterIsForWhatDoesNotLast) {
  open(8);
  const auto keep_passing = [&](TokenId first) {
    const auto slot = cache_->try_claim_slot(false);
    ASSERT_TRUE(slot.has_value());
    KvSequence kv;
    ASSERT_TRUE(kv_.try_reserve(kv, 1));
    kv.num_tokens = 1;
    cache_->keep_claimed(counting(1, first), std::move(kv), *slot, false);
  };
  for (TokenId first = 0; first < 8; ++first) keep(counting(1, 10 * first), 1);
  for (TokenId first = 100; first < 104; ++first) keep_passing(first);
  EXPECT_EQ(cache_->num_prefixes(), 8U);
  EXPECT_EQ(std::ranges::count(cache_->prefixes(), true, &PrefixCache::Prefix::lasting), 6);
  EXPECT_EQ(cache_->match(counting(2, 101)), 0U);  // the first of their own kind went
  EXPECT_EQ(cache_->match(counting(2, 102)), 1U);
  EXPECT_EQ(cache_->match(counting(2, 10)), 0U);  // the least recently used that lasts went, too
  EXPECT_EQ(cache_->match(counting(2, 20)), 1U);
}

TEST_F(PrefixCacheTest, TheSamePrefixIsKeptOnce) {
  open(3);
  keep(counting(5), 5, false);
  keep(counting(5), 6);
  EXPECT_EQ(cache_->num_prefixes(), 1U);
  EXPECT_EQ(cache_->counts().num_kept, 1U);
  EXPECT_EQ(state_after(counting(6)), 5);
  EXPECT_EQ(states_.num_free_slots(), kNumSlots - 1);
}

TEST_F(PrefixCacheTest, PagesAreFreedWhereThatHelps) {
  open(4);
  keep(counting(8), 8);         // 2 pages, shared below
  keep(counting(16, 100), 16);  // 4 pages
  const StateSlotId slot = states_.take();
  EXPECT_EQ(cache_->resume(counting(9), others_.emplace_back(), slot), 8U);
  states_.release(slot);
  EXPECT_EQ(kv_.num_free_pages(), 6U);
  cache_->free_pages(7);
  EXPECT_EQ(kv_.num_free_pages(), 10U);
  EXPECT_EQ(cache_->num_prefixes(), 1U);
  cache_->free_pages(kNumPages);  // the other's pages would not become free
  EXPECT_EQ(cache_->num_prefixes(), 1U);
  EXPECT_TRUE(cache_->give_up_one());
  EXPECT_FALSE(cache_->give_up_one());
  EXPECT_EQ(cache_->counts().num_kept, 2U);
  EXPECT_EQ(cache_->counts().num_given_up, 2U);
}

}  // namespace
}  // namespace qnext::test
