#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/compare.h"
#include "kernels/dispatch.h"
#include "kernels/test_tensor.h"
#include "tensor/block_formats.h"
#include "tensor/quantize.h"

namespace qnext {
namespace {

const KernelTable& ref() {
  return available_tables().front();
}

// A cache of `num_positions` positions in pages of its own, in an order that is not theirs. Unwritten bytes are 0xFF,
// NaN in every type, as in the engine's debug build.
struct Cache {
  std::vector<std::byte> keys, values;
  std::vector<PageId> pages;
  KvPages kv;

  Cache(DType type, std::size_t num_kv_heads, std::size_t head_dim, std::size_t page_tokens,
        std::size_t num_positions) {
    const std::size_t num_pages = ceil_div(num_positions, page_tokens);
    const std::size_t page_bytes = dtype_bytes(type, page_tokens * num_kv_heads * head_dim);
    const std::size_t stride_bytes =
        page_bytes + 3 * dtype_info(type).block_bytes;  // pages of other layers lie between
    // The last page ends where its last head's last position does: a sanitizer sees every overread.
    const std::size_t unused_tokens = num_pages * page_tokens - num_positions;
    const std::size_t unused_bytes = dtype_bytes(type, unused_tokens * head_dim);
    const std::size_t total_bytes = (num_pages - 1) * stride_bytes + page_bytes - unused_bytes;
    keys.assign(total_bytes, std::byte{0xff});
    values.assign(total_bytes, std::byte{0xff});
    for (std::size_t i = 0; i + 1 < num_pages; ++i) pages.push_back({static_cast<std::uint32_t>(num_pages - 2 - i)});
    pages.push_back({static_cast<std::uint32_t>(num_pages - 1)});
    kv = {.keys = keys.data(),
          .values = values.data(),
          .page_stride_bytes = stride_bytes,
          .page_tokens = page_tokens,
          .pages = pages,
          .type = type,
          .num_kv_heads = num_kv_heads,
          .head_dim = head_dim};
  }
  Cache(const Cache&) = delete;
  Cache& operator=(const Cache&) = delete;
};

struct AttendShape {
  std::size_t num_heads;
  std::size_t num_kv_heads;
  std::size_t head_dim;
  std::size_t page_tokens;
  std::size_t first_position;
  std::size_t num_tokens;
};

// The real model's heads; Hq = Hkv; groups of 2, 3, 8, 12 (more than are done at once); widths that no vector divides;
// pages of one position, of a block, of several blocks, and that cut blocks anywhere.
constexpr AttendShape kShapes[] = {
    {16, 2, 256, 64, 0, 1},   {16, 2, 256, 64, 4096, 1}, {16, 2, 256, 128, 63, 65},  {8, 8, 64, 16, 0, 64},
    {8, 1, 33, 3, 60, 63},    {4, 2, 100, 100, 5, 7},    {12, 1, 65, 1, 100, 20},    {6, 2, 16, 256, 0, 300},
    {2, 1, 128, 64, 64, 17},  {5, 1, 3, 7, 0, 130},      {32, 4, 128, 192, 190, 18}, {4, 4, 8, 64, 0, 1000},
    {7, 1, 48, 64, 1000, 33},
};

struct AttendProblem {
  AttendShape shape;
  Tensor q, keys, values;
  float scale;

  AttendProblem(const AttendShape& s, std::uint32_t seed)
      : shape(s),
        q(random_tensor({s.num_tokens, s.num_heads, s.head_dim}, seed)),
        keys(random_tensor({s.first_position + s.num_tokens, s.num_kv_heads, s.head_dim}, seed + 1)),
        values(random_tensor({s.first_position + s.num_tokens, s.num_kv_heads, s.head_dim}, seed + 2)),
        scale(1.0f / std::sqrt(static_cast<float>(s.head_dim))) {}

  void fill(Cache& cache) const { ref().store_kv(cache.kv, keys, values, 0); }
};

Tensor attend(const KernelTable& table, const AttendProblem& p, const KvPages& kv) {
  Tensor out({p.shape.num_tokens, p.shape.num_heads, p.shape.head_dim}, NAN);  // must not be read
  for (std::size_t h = 0; h < p.shape.num_kv_heads; ++h) {
    table.attend(out, p.q, kv, p.shape.first_position, p.scale, h, {0, p.shape.num_tokens});
  }
  return out;
}

constexpr DType kCacheTypes[] = {DType::kF32, DType::kBF16, DType::kQ8_0};

bool holds(DType type, std::size_t head_dim) {
  return head_dim % dtype_info(type).block_elements == 0;
}

TEST(Attend, EveryTableAgreesWithRef) {
  for (const AttendShape& s : kShapes) {
    for (const DType type : kCacheTypes) {
      if (!holds(type, s.head_dim)) continue;
      const AttendProblem problem(s, 1);
      Cache cache(type, s.num_kv_heads, s.head_dim, s.page_tokens, s.first_position + s.num_tokens);
      problem.fill(cache);
      const Tensor expected = attend(ref(), problem, cache.kv);
      const double tolerance = 4.0 * static_cast<double>(s.head_dim) * kEpsilon * max_abs(problem.values.values);
      for (const KernelTable& table : available_tables()) {
        SCOPED_TRACE(testing::Message() << table.name << " heads " << s.num_heads << "/" << s.num_kv_heads << " width "
                                        << s.head_dim << " page " << s.page_tokens << " " << dtype_info(type).name);
        expect_close(attend(table, problem, cache.kv).view, expected.view, tolerance);
      }
    }
  }
}

// Two positions, one component: weights e^0 and e^ln(3) of values 1 and 5.
TEST(Attend, IsWhatTheFormulaSays) {
  const Tensor keys({2, 1, 1}, {0.0f, std::log(3.0f)});
  const Tensor values({2, 1, 1}, {1.0f, 5.0f});
  const Tensor q({2, 1, 1}, {2.0f, 2.0f});
  for (const KernelTable& table : available_tables()) {
    SCOPED_TRACE(table.name);
    Cache cache(DType::kF32, 1, 1, 1, 2);
    table.store_kv(cache.kv, keys, values, 0);
    Tensor out({2, 1, 1}, kUntouched);
    table.attend(out, q, cache.kv, 0, 0.5f, 0, {0, 2});
    expect_close(out.values, std::vector<float>{1.0f, (1.0f + 3.0f * 5.0f) / 4.0f}, 1e-6);
  }
}

TEST(Attend, IsTheSameHoweverTokensAreBatched) {
  for (const AttendShape& s : {AttendShape{16, 2, 256, 64, 61, 33}, AttendShape{12, 1, 33, 10, 0, 140}}) {
    for (const DType type : kCacheTypes) {
      if (!holds(type, s.head_dim)) continue;
      const AttendProblem p(s, 10);
      Cache cache(type, s.num_kv_heads, s.head_dim, s.page_tokens, s.first_position + s.num_tokens);
      p.fill(cache);
      for (const KernelTable& table : available_tables()) {
        SCOPED_TRACE(testing::Message() << table.name << " width " << s.head_dim << " " << dtype_info(type).name);
        const Tensor whole = attend(table, p, cache.kv);
        for (const std::size_t step : {1, 7}) {
          Tensor pieces({s.num_tokens, s.num_heads, s.head_dim}, kUntouched);
          for (std::size_t begin = 0; begin < s.num_tokens; begin += step) {
            const std::size_t end = std::min(begin + step, s.num_tokens);
            for (std::size_t h = 0; h < s.num_kv_heads; ++h) {
              table.attend(pieces.view.slice(0, begin, end), p.q.view.slice(0, begin, end), cache.kv,
                           s.first_position + begin, p.scale, h, {0, end - begin});
            }
          }
          expect_same_bits(pieces.values, whole.values);
        }
      }
    }
  }
}

// Token by token into a growing cache, whose later rows are still NaN, and all at once.
TEST(Attend, DoesNotSeeLaterPositions) {
  const AttendProblem p({4, 2, 32, 64, 0, 70}, 20);
  for (const KernelTable& table : available_tables()) {
    for (const DType type : {DType::kBF16, DType::kQ8_0}) {
      SCOPED_TRACE(testing::Message() << table.name << " " << dtype_info(type).name);
      Cache full(type, 2, 32, 64, 70);
      table.store_kv(full.kv, p.keys, p.values, 0);
      const Tensor whole = attend(table, p, full.kv);
      Cache growing(type, 2, 32, 64, 70);
      Tensor out({70, 4, 32}, kUntouched);
      for (std::size_t t = 0; t < 70; ++t) {
        table.store_kv(growing.kv, p.keys.view.slice(0, t, t + 1), p.values.view.slice(0, t, t + 1), t);
        for (std::size_t h = 0; h < 2; ++h) {
          table.attend(out.view.slice(0, t, t + 1), p.q.view.slice(0, t, t + 1), growing.kv, t, p.scale, h, {0, 1});
        }
      }
      expect_same_bits(out.values, whole.values);
    }
  }
}

TEST(Attend, PagingDoesNotChangeABit) {
  const AttendProblem p({8, 1, 64, 0, 150, 20}, 30);
  for (const KernelTable& table : available_tables()) {
    for (const DType type : kCacheTypes) {
      SCOPED_TRACE(testing::Message() << table.name << " " << dtype_info(type).name);
      Cache one_page(type, 1, 64, 170, 170);
      p.fill(one_page);
      const Tensor expected = attend(table, p, one_page.kv);
      for (const std::size_t page_tokens : {1, 5, 64, 100, 128}) {
        Cache cache(type, 1, 64, page_tokens, 170);
        p.fill(cache);
        expect_same_bits(attend(table, p, cache.kv).values, expected.values);
      }
    }
  }
}

TEST(Attend, WritesItsTokensAndHeadsOnly) {
  const AttendProblem p({6, 2, 20, 16, 3, 40}, 40);
  Cache cache(DType::kF32, 2, 20, 16, 43);
  p.fill(cache);
  for (const KernelTable& table : available_tables()) {
    SCOPED_TRACE(table.name);
    const Tensor whole = attend(table, p, cache.kv);
    Tensor out({40, 6, 20}, kUntouched);
    table.attend(out, p.q, cache.kv, 3, p.scale, 1, {2, 37});
    for (std::size_t t = 0; t < 40; ++t) {
      for (std::size_t h = 0; h < 6; ++h) {
        const bool written = t >= 2 && t < 37 && h >= 3;
        const std::vector<float> untouched(20, kUntouched);
        expect_same_bits(std::span(out.view.row(t, h), 20), written ? std::span<const float>(whole.view.row(t, h), 20)
                                                                    : std::span<const float>(untouched));
      }
    }
  }
}

// Scores up to several hundred: one weight is 1, the others underflow, and nothing overflows on the way.
TEST(Attend, SurvivesExtremeScores) {
  const AttendShape s = {8, 1, 64, 64, 100, 30};
  AttendProblem p(s, 50);
  p.scale = 20.0f;
  Cache cache(DType::kF32, 1, 64, 64, 130);
  p.fill(cache);
  const Tensor expected = attend(ref(), p, cache.kv);
  const double largest_score = 20.0 * 64 * max_abs(p.q.values) * max_abs(p.keys.values);
  // A score's error, Dh * epsilon of its terms, is a weight's relative error; both sides of a sum of weights may err.
  const double tolerance = 2 * 64 * kEpsilon * largest_score * max_abs(p.values.values);
  for (const KernelTable& table : available_tables()) {
    SCOPED_TRACE(table.name);
    expect_close(attend(table, p, cache.kv).view, expected.view, tolerance);
  }
}

// Equal keys: the mean of all values, a sum over many blocks whose weights are all the same.
TEST(Attend, OfEqualKeysIsTheMeanOfTheValues) {
  AttendProblem p({2, 1, 16, 64, 999, 1}, 60);
  for (std::size_t t = 0; t < 1000; ++t) std::fill_n(p.keys.view.row(t), 16, 0.5f);
  std::vector<float> mean(32);
  for (std::size_t i = 0; i < 16; ++i) {
    double sum = 0;
    for (std::size_t t = 0; t < 1000; ++t) sum += p.values.view(t, 0, i);
    mean[i] = mean[16 + i] = static_cast<float>(sum / 1000);
  }
  Cache cache(DType::kF32, 1, 16, 64, 1000);
  p.fill(cache);
  for (const KernelTable& table : available_tables()) {
    SCOPED_TRACE(table.name);
    expect_close(attend(table, p, cache.kv).values, mean, 1000 * kEpsilon * max_abs(p.values.values));
  }
}

TEST(StoreKv, EveryTableStoresTheSameBytesAndTouchesNothingElse) {
  for (const DType type : kCacheTypes) {
    for (const std::size_t head_dim : {1, 33, 256}) {
      if (!holds(type, head_dim)) continue;
      Tensor keys = random_tensor({9, 2, head_dim}, 70);
      const Tensor values = random_tensor({9, 2, head_dim}, 71);
      keys.values[0] = std::numeric_limits<float>::infinity();
      keys.values[1] = std::numeric_limits<float>::signaling_NaN();
      Cache expected(type, 2, head_dim, 4, 30);
      ref().store_kv(expected.kv, keys, values, 6);
      for (const KernelTable& table : available_tables()) {
        SCOPED_TRACE(testing::Message() << table.name << " " << dtype_info(type).name << " width " << head_dim);
        Cache actual(type, 2, head_dim, 4, 30);
        table.store_kv(actual.kv, keys, values, 6);
        EXPECT_EQ(actual.keys, expected.keys);
        EXPECT_EQ(actual.values, expected.values);
      }
      const std::size_t row_bytes = dtype_bytes(type, head_dim);
      const auto num_written = [&](const std::vector<std::byte>& bytes) {  // vectors with a byte that is not poison
        std::size_t count = 0;
        for (std::size_t page = 0; page < 8; ++page) {
          for (std::size_t row = 0; row < (page == 7 ? 6 : 8); ++row) {
            const auto begin = bytes.begin() + page * expected.kv.page_stride_bytes + row * row_bytes;
            count += std::any_of(begin, begin + row_bytes, [](std::byte b) { return b != std::byte{0xff}; });
          }
        }
        return count;
      };
      EXPECT_EQ(num_written(expected.keys), 18u);
      EXPECT_EQ(num_written(expected.values), 18u);
    }
  }
}

// Codes of a block whose scale is 1, halves rounded away from zero; zeros; values that no f16 scale reaches; and what
// is not finite, which makes its own block NaN and leaves the others alone.
TEST(StoreKv, BlocksOfQ8AreWhatTheEncoderMakes) {
  Tensor keys({1, 1, 192}, 0.0f);
  const float of_scale_one[] = {127.0f, 0.5f, -0.5f, 0x1.fffffep-2f, 1.5f, -2.5f, 126.5f, -126.49999f, 1e-30f, -0.0f};
  std::copy(std::begin(of_scale_one), std::end(of_scale_one), keys.values.begin());
  std::copy_n(random_tensor({32}, 5).values.begin(), 32, keys.values.begin() + 64);
  for (std::size_t i = 96; i < 128; ++i) keys.values[i] = static_cast<float>(i) * 1e33f;
  std::vector<std::byte> expected(dtype_bytes(DType::kQ8_0, 192));
  encode_blocks(expected.data(), keys.values.data(), DType::kQ8_0, 192);
  keys.values[128] = -std::numeric_limits<float>::infinity();
  keys.values[191] = std::numeric_limits<float>::quiet_NaN();
  const std::int8_t codes[] = {127, 1, -1, 0, 2, -3, 127, -126, 0, 0};
  EXPECT_EQ(std::memcmp(expected.data() + 2, codes, sizeof(codes)), 0);
  for (const KernelTable& table : available_tables()) {
    SCOPED_TRACE(table.name);
    Cache cache(DType::kQ8_0, 1, 192, 64, 64);
    table.store_kv(cache.kv, keys, keys, 0);
    EXPECT_EQ(std::memcmp(cache.values.data(), expected.data(), 4 * 34), 0);
    std::vector<float> decoded(192);
    decode_blocks(decoded.data(), cache.keys.data(), DType::kQ8_0, 192);
    EXPECT_TRUE(std::all_of(decoded.begin(), decoded.begin() + 128, [](float x) { return std::isfinite(x); }));
    EXPECT_TRUE(std::all_of(decoded.begin() + 128, decoded.end(), [](float x) { return std::isnan(x); }));
  }
}

TEST(StoreKv, RoundsToNearestEven) {
  // bf16 keeps 8 significant bits: 1 + 2^-8 is a tie (to even: 1), 1 + 3 * 2^-8 a tie (to even: 1 + 2^-6).
  const Tensor keys({1, 1, 4}, {1.0f + 0x1p-8f, 1.0f + 3 * 0x1p-8f, 1.0f + 0x1.01p-8f, -1.0f - 0x1p-9f});
  const std::uint16_t expected[] = {0x3f80, 0x3f82, 0x3f81, 0xbf80};
  for (const KernelTable& table : available_tables()) {
    SCOPED_TRACE(table.name);
    Cache cache(DType::kBF16, 1, 4, 64, 64);
    table.store_kv(cache.kv, keys, keys, 0);
    EXPECT_EQ(std::memcmp(cache.keys.data(), expected, sizeof(expected)), 0);
  }
}

}  // namespace
}  // namespace qnext
