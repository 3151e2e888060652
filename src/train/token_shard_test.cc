// The uniform subset: every document is as likely to be drawn as any other, and so is every pair.
#include "train/token_shard.h"

#include <gtest/gtest.h>

#include <numeric>
#include <set>

#include "tensor/file_test_util.h"

namespace qnext::train {
namespace {

constexpr std::int64_t kDocuments = 40, kDrawn = 10, kSeeds = 4000;

TokenShard shard_of(const std::filesystem::path& path, const std::vector<std::int64_t>& lengths) {
  const ShardTokenizer tokenizer{.vocab_size = 40, .hash = "0123456789abcdef"};
  std::vector<TokenDocument> documents(lengths.size());
  for (std::size_t i = 0; i < lengths.size(); ++i) documents[i].tokens.resize(static_cast<std::size_t>(lengths[i]), 1);
  EXPECT_TRUE(write_token_shard(path, documents, tokenizer).ok());
  return *TokenShard::open(path, tokenizer);
}

// Sum over counts of (count - mean)^2 / variance, where each has this chance in every one of kSeeds draws: about as
// large as there are counts.
double deviation(const std::vector<std::int64_t>& counts, double chance) {
  const double mean = kSeeds * chance, variance = kSeeds * chance * (1 - chance);
  return std::accumulate(counts.begin(), counts.end(), 0.0, [&](double sum, std::int64_t count) {
    return sum + (static_cast<double>(count) - mean) * (static_cast<double>(count) - mean) / variance;
  });
}

TEST(UniformSubsetTest, DocumentsAndPairsAreEquallyLikely) {
  const qnext::test::TempFolder folder;
  const TokenShard shard = shard_of(folder.path() / "s.safetensors", std::vector<std::int64_t>(kDocuments, 8));
  std::vector<std::int64_t> drawn(kDocuments), first(kDocuments), pairs(kDocuments * kDocuments);
  for (std::uint64_t seed = 0; seed < kSeeds; ++seed) {
    const std::vector<std::int64_t> subset = uniform_subset(shard, 8 * kDrawn - 3, seed);
    ASSERT_EQ(std::set(subset.begin(), subset.end()).size(), static_cast<std::size_t>(kDrawn));
    ++first.at(static_cast<std::size_t>(subset[0]));
    for (const std::int64_t a : subset) {
      ++drawn.at(static_cast<std::size_t>(a));
      for (const std::int64_t b : subset) pairs.at(static_cast<std::size_t>(a * kDocuments + b)) += a < b ? 1 : 0;
    }
  }
  // Chi-square of 39 degrees of freedom, times (N - 1) / N for what is drawn without return: 39 +- 9. Less than 13 or
  // more than 79 has a chance of 1 in 10,000; both ends are wrong, as turns are no draws.
  constexpr double kWithoutReturn = (kDocuments - 1.0) / kDocuments;
  const double of_documents = deviation(drawn, 1.0 * kDrawn / kDocuments) * kWithoutReturn;
  EXPECT_GT(of_documents, 13);
  EXPECT_LT(of_documents, 79);
  const double of_first = deviation(first, 1.0 / kDocuments) * kWithoutReturn;
  EXPECT_GT(of_first, 13);
  EXPECT_LT(of_first, 79);
  std::vector<std::int64_t> both;
  for (std::int64_t a = 0; a < kDocuments; ++a) {
    for (std::int64_t b = a + 1; b < kDocuments; ++b) {
      both.push_back(pairs[static_cast<std::size_t>(a * kDocuments + b)]);
    }
  }
  const double of_pairs = deviation(both, kDrawn * (kDrawn - 1.0) / (kDocuments * (kDocuments - 1.0)));
  EXPECT_GT(of_pairs, 600);  // 780 pairs, +- some 40
  EXPECT_LT(of_pairs, 960);
}

TEST(UniformSubsetTest, StopsWhereTheTokensAreReached) {
  const qnext::test::TempFolder folder;
  std::vector<std::int64_t> lengths(kDocuments);
  for (std::int64_t i = 0; i < kDocuments; ++i) lengths[static_cast<std::size_t>(i)] = 1 + i * i % 23;
  const TokenShard shard = shard_of(folder.path() / "s.safetensors", lengths);
  const auto tokens_of = [&](std::span<const std::int64_t> subset) {
    std::int64_t sum = 0;
    for (const std::int64_t document : subset) sum += shard.document_tokens(document);
    return sum;
  };
  std::set<std::vector<std::int64_t>> different;
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    const std::vector<std::int64_t> subset = uniform_subset(shard, 100, seed);
    EXPECT_GE(tokens_of(subset), 100);
    EXPECT_LT(tokens_of(std::span(subset).first(subset.size() - 1)), 100);
    EXPECT_EQ(uniform_subset(shard, 100, seed), subset);
    different.insert(subset);
  }
  EXPECT_EQ(different.size(), 100u);
  EXPECT_EQ(uniform_subset(shard, shard.num_tokens(), 1).size(), static_cast<std::size_t>(kDocuments));
}

}  // namespace
}  // namespace qnext::train
