#include "engine/kv_cache.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

namespace qnext {
namespace {

constexpr std::size_t kPageTokens = 4;

KvStore small_shape() {
  return {.data = nullptr, .type = DType::kF32, .page_tokens = kPageTokens, .num_kv_layers = 2, .Hkv = 1, .Dh = 2};
}

KvCache make_cache(std::size_t num_pages) {
  auto cache = KvCache::make(small_shape(), num_pages);
  QN_CHECK(cache.ok(), "{}", cache.message());
  return std::move(cache).value();
}

// What a sequence has at a position: one byte of each of the page's rows stands for all.
std::byte& byte_at(const KvCache& cache, const KvSequence& sequence, std::size_t position) {
  const PageId page = sequence.pages[position / kPageTokens];
  return cache.store().data[page.value * cache.store().page_bytes() + position % kPageTokens];
}

// Appends tokens that read as `value`.
bool append(KvCache& cache, KvSequence& sequence, std::size_t num_tokens, int value) {
  if (!cache.try_reserve(sequence, sequence.num_tokens + num_tokens)) return false;
  for (std::size_t i = 0; i < num_tokens; ++i) {
    byte_at(cache, sequence, sequence.num_tokens++) = static_cast<std::byte>(value);
  }
  return true;
}

std::vector<int> contents(const KvCache& cache, const KvSequence& sequence) {
  std::vector<int> out;
  for (std::size_t i = 0; i < sequence.num_tokens; ++i) out.push_back(static_cast<int>(byte_at(cache, sequence, i)));
  return out;
}

void check(const KvCache& cache, std::initializer_list<const KvSequence*> holders) {
  cache.check_integrity({holders.begin(), holders.size()});
}

TEST(KvCache, TakesPagesAsTokensNeedThem) {
  KvCache cache = make_cache(3);
  KvSequence sequence;
  EXPECT_EQ(cache.num_pages_missing(sequence, 0), 0u);
  EXPECT_EQ(cache.num_pages_missing(sequence, 1), 1u);
  EXPECT_EQ(cache.num_pages_missing(sequence, 5), 2u);
  ASSERT_TRUE(append(cache, sequence, 5, 1));
  EXPECT_EQ(sequence.pages.size(), 2u);
  EXPECT_EQ(cache.num_pages_missing(sequence, 8), 0u);
  EXPECT_EQ(cache.num_free_pages(), 1u);
  check(cache, {&sequence});
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(cache.store().data) % 64, 0u);
}

TEST(KvCache, RefusesWithoutTakingAnything) {
  KvCache cache = make_cache(2);
  KvSequence sequence;
  ASSERT_TRUE(append(cache, sequence, 3, 1));
  EXPECT_FALSE(cache.try_reserve(sequence, 9));
  EXPECT_EQ(sequence.pages.size(), 1u);
  EXPECT_EQ(cache.num_free_pages(), 1u);
  EXPECT_TRUE(cache.try_reserve(sequence, 8));
  check(cache, {&sequence});
}

TEST(KvCache, AForkSharesPagesUntilSomeoneWrites) {
  KvCache cache = make_cache(4);
  KvSequence first;
  ASSERT_TRUE(append(cache, first, 6, 1));
  KvSequence second = cache.fork(first, first.num_tokens);
  EXPECT_EQ(second.pages, first.pages);
  EXPECT_EQ(cache.num_free_pages(), 2u);
  check(cache, {&first, &second});

  EXPECT_EQ(cache.num_pages_missing(second, 7), 1u);  // the copy
  ASSERT_TRUE(append(cache, second, 1, 2));
  EXPECT_EQ(second.pages[0], first.pages[0]);
  EXPECT_NE(second.pages[1], first.pages[1]);
  EXPECT_EQ(cache.num_pages_missing(first, 7), 0u);  // alone with its page again
  ASSERT_TRUE(append(cache, first, 2, 3));
  EXPECT_EQ(contents(cache, first), (std::vector<int>{1, 1, 1, 1, 1, 1, 3, 3}));
  EXPECT_EQ(contents(cache, second), (std::vector<int>{1, 1, 1, 1, 1, 1, 2}));
  check(cache, {&first, &second});

  cache.release(first);
  EXPECT_EQ(contents(cache, second), (std::vector<int>{1, 1, 1, 1, 1, 1, 2}));
  cache.release(second);
  EXPECT_EQ(cache.num_free_pages(), 4u);
  check(cache, {});
}

TEST(KvCache, AForkAtAPageBoundaryCopiesNothing) {
  KvCache cache = make_cache(3);
  KvSequence first;
  ASSERT_TRUE(append(cache, first, 4, 1));
  ASSERT_TRUE(cache.try_reserve(first, 8));  // reserved beyond what is filled: not shared
  KvSequence second = cache.fork(first, first.num_tokens);
  EXPECT_EQ(second.pages.size(), 1u);
  ASSERT_TRUE(append(cache, second, 4, 2));
  ASSERT_TRUE(append(cache, first, 4, 3));
  EXPECT_EQ(cache.num_free_pages(), 0u);
  EXPECT_EQ(contents(cache, second), (std::vector<int>{1, 1, 1, 1, 2, 2, 2, 2}));
  EXPECT_EQ(contents(cache, first), (std::vector<int>{1, 1, 1, 1, 3, 3, 3, 3}));
  check(cache, {&first, &second});
}

TEST(KvCache, ACopyNeedsAFreePage) {
  KvCache cache = make_cache(1);
  KvSequence first;
  ASSERT_TRUE(append(cache, first, 2, 1));
  KvSequence second = cache.fork(first, first.num_tokens);
  EXPECT_FALSE(append(cache, second, 1, 2));
  EXPECT_EQ(second.pages, first.pages);
  cache.release(first);
  EXPECT_TRUE(append(cache, second, 1, 2));
  check(cache, {&second});
}

TEST(KvCache, RollbackGivesUpPagesPastTheEnd) {
  KvCache cache = make_cache(4);
  KvSequence first;
  ASSERT_TRUE(append(cache, first, 13, 1));
  KvSequence second = cache.fork(first, first.num_tokens);
  cache.rollback(first, 5);
  EXPECT_EQ(first.pages.size(), 2u);
  EXPECT_EQ(cache.num_free_pages(), 0u);  // the other still holds them
  check(cache, {&first, &second});
  cache.rollback(second, 4);
  EXPECT_EQ(second.pages.size(), 1u);
  EXPECT_EQ(cache.num_free_pages(), 2u);
  check(cache, {&first, &second});
  ASSERT_TRUE(append(cache, second, 2, 9));
  EXPECT_EQ(contents(cache, first), (std::vector<int>(5, 1)));
}

TEST(KvCache, RollbackIntoASharedPageThenWritingCopiesIt) {
  KvCache cache = make_cache(4);
  KvSequence first;
  ASSERT_TRUE(append(cache, first, 8, 1));
  KvSequence second = cache.fork(first, first.num_tokens);
  cache.rollback(second, 2);
  ASSERT_TRUE(append(cache, second, 4, 2));
  EXPECT_EQ(contents(cache, first), std::vector<int>(8, 1));
  EXPECT_EQ(contents(cache, second), (std::vector<int>{1, 1, 2, 2, 2, 2}));
  check(cache, {&first, &second});
}

// Random operations on several sequences, against plain vectors.
TEST(KvCache, AnyHistoryKeepsEverySequencesContents) {
  std::mt19937 random(3);
  constexpr std::size_t kNumSequences = 5;
  KvCache cache = make_cache(24);
  std::vector<KvSequence> sequences(kNumSequences);
  std::vector<std::vector<int>> expected(kNumSequences);
  std::size_t num_refused = 0;
  for (int round = 0; round < 5000; ++round) {
    const std::size_t i = random() % kNumSequences;
    const std::size_t j = random() % kNumSequences;
    switch (random() % 4) {
      case 0:
      case 1: {
        const std::size_t num_tokens = 1 + random() % 9;
        if (append(cache, sequences[i], num_tokens, round % 200)) {
          expected[i].insert(expected[i].end(), num_tokens, round % 200);
        } else {
          ++num_refused;
        }
        break;
      }
      case 2: {
        const std::size_t num_tokens = random() % (sequences[i].num_tokens + 1);
        cache.rollback(sequences[i], num_tokens);
        expected[i].resize(num_tokens);
        break;
      }
      default:
        if (i == j) break;
        cache.release(sequences[j]);
        sequences[j] = cache.fork(sequences[i], sequences[i].num_tokens);
        expected[j] = expected[i];
    }
    std::vector<const KvSequence*> holders;
    for (const KvSequence& sequence : sequences) holders.push_back(&sequence);
    cache.check_integrity(holders);
    for (std::size_t s = 0; s < kNumSequences; ++s) ASSERT_EQ(contents(cache, sequences[s]), expected[s]) << round;
  }
  EXPECT_GT(num_refused, 0u);  // the pool did run dry
}

TEST(KvCacheDeathTest, IntegrityFindsAPageThatNobodyOwnsUpTo) {
  KvCache cache = make_cache(2);
  KvSequence sequence;
  ASSERT_TRUE(append(cache, sequence, 3, 1));
  EXPECT_DEATH(check(cache, {}), "0 holders, counted 1");
  EXPECT_DEATH(check(cache, {&sequence, &sequence}), "2 holders, counted 1");
}

TEST(KvCacheDeathTest, IntegrityFindsTokensWithoutPages) {
  KvCache cache = make_cache(2);
  KvSequence sequence;
  ASSERT_TRUE(append(cache, sequence, 4, 1));
  sequence.num_tokens = 5;
  EXPECT_DEATH(check(cache, {&sequence}), "5 tokens in 1 pages");
  sequence.num_tokens = 4;
  sequence.pages[0] = PageId{2};
  EXPECT_DEATH(check(cache, {&sequence}), "page 2 of 2");
}

TEST(KvCacheDeathTest, PagesAreGivenUpOnce) {
  KvCache cache = make_cache(2);
  KvSequence sequence;
  ASSERT_TRUE(append(cache, sequence, 4, 1));
  KvSequence stale = sequence;  // not a fork: nobody counted it
  cache.release(sequence);
  EXPECT_DEATH(cache.release(stale), "has no holder");
  EXPECT_DEATH(cache.rollback(sequence, 1), "rollback to 1 of 0 tokens");
}

TEST(KvCache, AnImpossibleSizeIsAnError) {
  KvStore shape = small_shape();
  shape.Dh = std::size_t{1} << 40;
  const auto cache = KvCache::make(shape, 1000);
  ASSERT_FALSE(cache.ok());
  EXPECT_NE(cache.message().find("K/V cache"), std::string::npos);
}

// A network without attention layers has pages of no bytes.
TEST(KvCache, PagesMayBeEmpty) {
  KvStore shape = small_shape();
  shape.num_kv_layers = 0;
  auto cache = KvCache::make(shape, 2);
  ASSERT_TRUE(cache.ok());
  KvSequence first;
  ASSERT_TRUE(cache->try_reserve(first, 2));
  first.num_tokens = 2;
  KvSequence second = cache->fork(first, first.num_tokens);
  EXPECT_TRUE(cache->try_reserve(second, 3));
  check(*cache, {&first, &second});
}

}  // namespace
}  // namespace qnext
