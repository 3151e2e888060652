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
    const std::size_t page_bytes = kv_bytes(type, page_tokens * num_kv_heads, head_dim);
    const std::size_t stride_bytes =
        page_bytes + 3 * dtype_info(type).block_bytes;  // pages of other layers lie between
    // The last page ends where its last head's last position does: a sanitizer sees every overread.
    const std::size_t unused_tokens = num_pages * page_tokens - num_positions;
    // (An i16 page ends with the scales of all its positions.)
    const std::size_t unused_bytes = type == DType::kI16 ? 0 : dtype_bytes(type, unused_tokens * head_dim);
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

constexpr DType kCacheTypes[] = {DType::kF32, DType::kI16, DType::kBF16, DType::kQ8_0};

// The length of the longest vector in [.., .., width].
double max_length(const Tensor& t) {
  const std::size_t width = t.view.dim(2);
  double largest = 0;
  for (std::size_t i = 0; i < t.values.size(); i += width) {
    double squares = 0;
    for (std::size_t j = i; j < i + width; ++j) squares += static_cast<double>(t.values[j]) * t.values[j];
    largest = std::max(largest, squares);
  }
  return std::sqrt(largest);
}

// What kernels.h allows a table to differ from ref.
double attend_tolerance(const AttendProblem& p, DType type) {
  const double width = static_cast<double>(p.shape.head_dim);
  if (type != DType::kI16) return 4.0 * width * kEpsilon * max_abs(p.values.values);
  const double of_q = p.scale * max_length(p.q) * max_length(p.keys) * std::sqrt(width) * 0x1p-15;
  return (0x1p-9 + of_q) * max_abs(p.values.values);
}

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
      const double tolerance = attend_tolerance(problem, type);
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
    for (const DType type : {DType::kI16, DType::kBF16, DType::kQ8_0}) {
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

// ---- 16-bit integers ----

double rms_difference(const Tensor& a, const Tensor& b) {
  double squares = 0;
  for (std::size_t i = 0; i < a.values.size(); ++i) {
    const double difference = static_cast<double>(a.values[i]) - b.values[i];
    squares += difference * difference;
  }
  return std::sqrt(squares / static_cast<double>(a.values.size()));
}

// Keys and queries as norms leave them (components of 1), which raise scores to some 10: what rounding to 16 bits
// costs, everything counted, is a tenth of what storing bf16 does.
TEST(AttendI16, IsTenTimesCloserThanBf16) {
  AttendProblem p({8, 1, 256, 64, 2000, 9}, 80);
  for (float& x : p.q.values) x *= std::sqrt(3.0f);
  for (std::size_t i = 0; i < p.keys.values.size(); ++i) {
    const float like = i / 256 % 50 == 0 ? 0.6f : 0.1f;
    p.keys.values[i] = std::sqrt(3.0f) * p.keys.values[i] + like * p.q.values[i % p.q.values.size()];
  }
  const auto out_of = [&](const KernelTable& table, DType type) {
    Cache cache(type, 1, 256, 64, 2009);
    p.fill(cache);
    return attend(table, p, cache.kv);
  };
  const Tensor exact = out_of(ref(), DType::kF32), zeros({9, 8, 256}, 0.0f);
  const double of_bf16 = rms_difference(out_of(ref(), DType::kBF16), exact);
  for (const KernelTable& table : available_tables()) {
    SCOPED_TRACE(table.name);
    const double error = rms_difference(out_of(table, DType::kI16), exact);
    EXPECT_LT(error, of_bf16 / 10);
    EXPECT_LT(error, 2e-4 * rms_difference(exact, zeros));
  }
}

// Every product of a score and of a sum of weighted values as large as it can be, of one sign.
TEST(AttendI16, LargestSumsDoNotOverflow) {
  for (const std::size_t head_dim : {32, 256, 512}) {
    for (const bool is_spike : {false, true}) {
      AttendProblem p({2, 1, head_dim, 64, 127, 1}, 90);
      const auto fill = [&](Tensor& t, float value) {
        for (std::size_t i = 0; i < t.values.size(); ++i) t.values[i] = is_spike && i % head_dim != 5 ? 0.0f : value;
      };
      fill(p.q, 1e-3f);
      fill(p.keys, -7.0f);
      fill(p.values, 100.0f);
      Cache cache(DType::kI16, 1, head_dim, 64, 128);
      p.fill(cache);
      for (const KernelTable& table : available_tables()) {
        SCOPED_TRACE(testing::Message() << table.name << " width " << head_dim << (is_spike ? " spike" : ""));
        expect_close(attend(table, p, cache.kv).view, attend(ref(), p, cache.kv).view, 100 * 0x1p-9);
        // A key that is the query's opposite: its weight would be the largest if its score overflowed.
        p.scale = 1000;
        const Tensor other_values({1, 1, head_dim}, 1.0f);
        Cache with_opposite(DType::kI16, 1, head_dim, 64, 128);
        p.fill(with_opposite);
        AttendProblem opposite({2, 1, head_dim, 64, 0, 1}, 91);
        fill(opposite.keys, 7.0f);
        table.store_kv(with_opposite.kv, opposite.keys, other_values, 3);
        expect_close(attend(table, p, with_opposite.kv).view, attend(ref(), p, with_opposite.kv).view, 100 * 0x1p-9);
      }
    }
  }
}

TEST(AttendI16, HasTheSameBitsWithVnni) {
  const auto avx512 = find_table("avx512");
  if (!avx512.ok()) GTEST_SKIP() << "no AVX-512";
  const AttendProblem p({12, 1, 96, 10, 150, 20}, 100);
  Cache cache(DType::kI16, 1, 96, 10, 170);
  p.fill(cache);
  for (const char* name : {"vnni", "amx"}) {
    const auto table = find_table(name);
    if (!table.ok()) continue;
    expect_same_bits(attend(**table, p, cache.kv).values, attend(**avx512, p, cache.kv).values);
  }
}

// A vector that holds a NaN or an infinity makes NaNs of all that see it, and of nothing else.
TEST(AttendI16, NaNsReachWhatSeesThem) {
  for (const bool in_keys : {true, false}) {
    AttendProblem p({8, 2, 64, 16, 0, 100}, 110);
    (in_keys ? p.keys : p.values).view(70, 1, 7) = in_keys ? NAN : std::numeric_limits<float>::infinity();
    for (const KernelTable& table : available_tables()) {
      SCOPED_TRACE(table.name);
      Cache cache(DType::kI16, 2, 64, 16, 100);
      table.store_kv(cache.kv, p.keys, p.values, 0);
      const Tensor out = attend(table, p, cache.kv);
      for (std::size_t t = 0; t < 100; ++t) {
        for (std::size_t h = 0; h < 8; ++h) {
          const float* row = out.view.row(t, h);
          const auto is_nan = [](float x) { return std::isnan(x); };
          EXPECT_TRUE(t >= 70 && h >= 4 ? std::all_of(row, row + 64, is_nan) : std::none_of(row, row + 64, is_nan))
              << "token " << t << " head " << h;
        }
      }
    }
  }
}

// Zeros have scale 0; what is too small to be counted is zeros, too.
TEST(AttendI16, SmallVectorsAreZeros) {
  AttendProblem p({2, 1, 32, 64, 3, 1}, 120);
  std::fill_n(p.keys.view.row(0), 64, 1e-30f);
  std::fill_n(p.values.view.row(0), 32 * 3, 0.0f);
  std::fill_n(p.values.view.row(3), 32, 1e-20f);
  for (const KernelTable& table : available_tables()) {
    SCOPED_TRACE(table.name);
    Cache cache(DType::kI16, 1, 32, 64, 4);
    table.store_kv(cache.kv, p.keys, p.values, 0);
    expect_same_bits(attend(table, p, cache.kv).values, std::vector<float>(64, 0.0f));
  }
}

// A key's codes are as long as may be; a value's largest code is what it may be.
TEST(StoreKv, SixteenBitsAreUsedToTheFull) {
  const Tensor x = random_tensor({1, 1, 256}, 130, 3.0f);
  for (const KernelTable& table : available_tables()) {
    SCOPED_TRACE(table.name);
    Cache cache(DType::kI16, 1, 256, 1, 1);
    table.store_kv(cache.kv, x, x, 0);
    const auto* keys = reinterpret_cast<const std::int16_t*>(cache.keys.data());
    const auto* values = reinterpret_cast<const std::int16_t*>(cache.values.data());
    double squares = 0;
    int largest = 0;
    for (std::size_t i = 0; i < 256; ++i) {
      squares += static_cast<double>(keys[i]) * keys[i];
      largest = std::max(largest, std::abs(static_cast<int>(values[i])));
    }
    EXPECT_NEAR(std::sqrt(squares), kI16Length, 8);
    EXPECT_EQ(largest, kI16Value);
    float scale;
    std::memcpy(&scale, keys + 256, sizeof(scale));
    for (std::size_t i = 0; i < 256; ++i) EXPECT_NEAR(static_cast<float>(keys[i]) * scale, x.values[i], scale * 0.501f);
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
