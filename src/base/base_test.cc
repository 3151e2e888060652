// Tests of the small pieces of base/.
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>

#include "base/arena.h"
#include "base/argmax.h"
#include "base/cpu.h"
#include "base/env.h"
#include "base/result.h"
#include "base/thread_pool.h"
#include "base/units.h"

namespace qnext {
namespace {

Result<int> parse_digit(char digit) {
  if (digit < '0' || digit > '9') return error("'{}' is not a digit", digit);
  return digit - '0';
}

Result<int> sum_of_digits(std::string_view digits) {
  int sum = 0;
  for (char digit : digits) {
    QN_TRY(const int value, parse_digit(digit));
    sum += value;
  }
  return sum;
}

TEST(ResultTest, ValuesAndErrorsTravel) {
  EXPECT_EQ(sum_of_digits("123").value(), 6);
  const Result<int> failed = sum_of_digits("12x");
  ASSERT_FALSE(failed.ok());
  EXPECT_EQ(failed.message(), "'x' is not a digit");
}

TEST(ResultDeathTest, ValueOfAnErrorAbortsWithItsText) {
  EXPECT_DEATH((void)sum_of_digits("?").value(), "'\\?' is not a digit");
}

TEST(UnitsTest, SplitRangeCoversExactlyOnce) {
  for (std::size_t total : {0u, 1u, 7u, 64u, 1000u}) {
    for (std::size_t parts : {1u, 2u, 3u, 8u}) {
      std::size_t expected_begin = 0;
      for (std::size_t part_idx = 0; part_idx < parts; ++part_idx) {
        const Range range = split_range(total, 4, part_idx, parts);
        EXPECT_EQ(range.begin, expected_begin);
        EXPECT_TRUE(range.begin % 4 == 0 || range.begin == total);
        expected_begin = range.end;
      }
      EXPECT_EQ(expected_begin, total);
    }
  }
}

TEST(ArenaTest, ScopesGiveBackAndGrowthMerges) {
  Arena arena;
  float* first = nullptr;
  {
    Arena::Scope scope(arena);
    first = arena.allocate<float>(100);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(first) % Arena::kAlignment, 0u);
    std::fill_n(first, 100, 1.0f);
    float* big = arena.allocate<float>(5'000'000);
    big[4'999'999] = 2.0f;
    EXPECT_EQ(first[99], 1.0f) << "growth must not move what was handed out";
  }
  const std::size_t reserved_bytes = arena.reserved_bytes();
  for (int step = 0; step < 3; ++step) {
    Arena::Scope scope(arena);
    arena.allocate<float>(100);
    arena.allocate<float>(5'000'000);
  }
  EXPECT_EQ(arena.reserved_bytes(), reserved_bytes) << "a step like the last one allocates nothing";
}

TEST(ThreadPoolTest, EveryPartAndTaskRunsOnce) {
  for (std::size_t num_threads : {1u, 2u, 5u}) {
    ThreadPool pool(num_threads);
    for (int round = 0; round < 200; ++round) {
      std::vector<std::atomic<int>> parts(num_threads);
      pool.run([&](std::size_t part_idx) { parts[part_idx].fetch_add(1); });
      for (const auto& count : parts) ASSERT_EQ(count.load(), 1);
      std::vector<std::atomic<int>> tasks(37);
      pool.for_each(tasks.size(), [&](std::size_t task_idx) { tasks[task_idx].fetch_add(1); });
      for (const auto& count : tasks) ASSERT_EQ(count.load(), 1);
    }
  }
}

TEST(ThreadPoolTest, WorksAfterItsThreadsWentToSleep) {
  ThreadPool pool(3);
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  std::atomic<int> calls{0};
  pool.run([&](std::size_t) { calls.fetch_add(1); });
  EXPECT_EQ(calls.load(), 3);
}

TEST(ArgmaxTest, IsTheFirstOfTheLargest) {
  std::minstd_rand random(7);
  for (std::size_t count : {1, 2, 15, 255, 256, 257, 513, 1000}) {
    for (int repeat = 0; repeat < 200; ++repeat) {
      std::vector<float> values(count);
      for (float& value : values) value = static_cast<float>(random() % 50) - 60;  // equal ones, all below 0
      const auto expected = static_cast<std::size_t>(std::max_element(values.begin(), values.end()) - values.begin());
      ASSERT_EQ(argmax(values), expected) << count;
      if (expected == 0) continue;
      values[expected - 1] = std::numeric_limits<float>::quiet_NaN();
      ASSERT_EQ(argmax(values), expected == 1 ? 0 : expected) << count << ", a NaN before it";
    }
  }
  const std::vector<float> lowest(300, -std::numeric_limits<float>::infinity());
  EXPECT_EQ(argmax(lowest), 0u);
}

TEST(CpuTest, QuotaIsRoundedUpAndNeverZero) {
  EXPECT_EQ(parse_cpu_quota("200000 100000\n", 16), 2u);
  EXPECT_EQ(parse_cpu_quota("50000 100000\n", 16), 1u);
  EXPECT_EQ(parse_cpu_quota("150000 100000\n", 16), 2u);
  EXPECT_EQ(parse_cpu_quota("max 100000\n", 16), 16u);
  EXPECT_EQ(parse_cpu_quota("", 16), 16u);
  EXPECT_EQ(parse_cpu_quota("200000", 16), 16u);
  EXPECT_EQ(parse_cpu_quota("200000 0", 16), 16u);
  EXPECT_EQ(parse_cpu_quota("3200000 100000", 16), 16u);
}

TEST(CpuTest, TheMachineIsDescribed) {
  EXPECT_GE(usable_cores(), 1u);
  EXPECT_GT(available_memory_bytes(), 0u);
  EXPECT_GT(resident_bytes(), 0u);
  EXPECT_GE(peak_resident_bytes(), resident_bytes() / 2);
  EXPECT_FALSE(cpu_name().empty());
}

TEST(EnvTest, UnsetAndEmptyAreNothing) {
  EXPECT_FALSE(env("QNEXT_NO_SUCH_VARIABLE").has_value());
  EXPECT_TRUE(env("PATH").has_value());
}

}  // namespace
}  // namespace qnext
