#include "eval/roofs.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <new>
#include <numeric>
#include <vector>

#include "base/cpu.h"

namespace qnext {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kReadBufferBytes = std::size_t{1} << 30;
constexpr std::size_t kBlockWords = 512;  // the buffer is dealt out in whole pages

// One core's share of the matmul roof: 128 KiB of rows and 256 KiB of weights lie in its second-level cache.
constexpr std::size_t kMatmulTokens = 64;
constexpr std::size_t kMatmulRows = 128;
constexpr std::size_t kMatmulColumns = 512;
constexpr std::size_t kMatmulOps = 2 * kMatmulTokens * kMatmulRows * kMatmulColumns;
constexpr std::size_t kMatmulRuns = 3;
constexpr double kMatmulRunSeconds = 0.05;
constexpr std::size_t kPeakRounds = 10'000;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// Sums a word of each cache line: the line comes whole, and adding up all of it would keep a core busy for longer than
// fast memory takes. Which form is fastest differs between machines, and by the hour: kStreams places at once; asking
// for lines ahead.
template <std::size_t kStreams, bool kAsksAhead>
std::uint64_t sum_lines(const std::uint64_t* words, std::size_t count) {
  constexpr std::size_t kLineWords = 8, kAhead = 1024;
  const std::size_t stream_words = count / kStreams;
  std::array<std::uint64_t, kStreams> sums{};
  for (std::size_t i = 0; i < stream_words; i += kLineWords) {
#pragma GCC unroll 8
    for (std::size_t stream = 0; stream < kStreams; ++stream) {
      const std::uint64_t* line = words + stream * stream_words + i;
      if (kAsksAhead) __builtin_prefetch(line + kAhead, 0, 2);  // harmless beyond the end
      sums[stream] += *line;
    }
  }
  return std::accumulate(sums.begin(), sums.end(), std::uint64_t{0});
}

constexpr std::array kReadForms = {&sum_lines<1, false>, &sum_lines<1, true>, &sum_lines<2, false>,
                                   &sum_lines<4, false>};

struct MatmulData {
  std::vector<float> x = std::vector<float>(kMatmulTokens * kMatmulColumns, 0.5f);
  std::vector<float> w = std::vector<float>(kMatmulRows * kMatmulColumns, 0.25f);
  std::vector<float> out = std::vector<float>(kMatmulTokens * kMatmulRows);
};

}  // namespace

Result<RoofMeter> RoofMeter::make(const Ops& ops) {
  RoofMeter meter(ops);
  const std::size_t num_bytes = std::min(kReadBufferBytes, available_memory_bytes() / 2);
  meter.num_words_ = num_bytes / sizeof(std::uint64_t) / kBlockWords * kBlockWords;
  if (meter.num_words_ == 0) return error("no memory left to measure the read bandwidth with; free some");
  meter.words_.reset(new (std::nothrow) std::uint64_t[meter.num_words_]);
  if (meter.words_ == nullptr) return error("no {} MiB to measure the read bandwidth with; free some", num_bytes >> 20);
  ops.pool().run([&](std::size_t part_idx) {
    // Written, not only reserved: untouched pages would all be the kernel's one page of zeros.
    const Range part = split_range(meter.num_words_, kBlockWords, part_idx, ops.pool().num_threads());
    for (std::size_t i = part.begin; i < part.end; ++i) meter.words_[i] = i;
  });
  return meter;
}

Roofs RoofMeter::measure() const {
  return {.read_bytes_per_s = best_read_bytes_per_s(),
          .matmul_ops_per_s = best_matmul_ops_per_s(),
          .read_buffer_bytes = num_words_ * sizeof(std::uint64_t)};
}

double RoofMeter::best_read_bytes_per_s() const {
  ThreadPool& pool = ops_->pool();
  std::atomic<std::uint64_t> checksum{0};  // keeps the reads from being optimised away
  double best = 0;
  for (const auto form : kReadForms) {
    const Clock::time_point begin = Clock::now();
    pool.run([&](std::size_t part_idx) {
      const Range part = split_range(num_words_, kBlockWords, part_idx, pool.num_threads());
      checksum.fetch_add(form(words_.get() + part.begin, part.count()), std::memory_order_relaxed);
    });
    best = std::max(best, static_cast<double>(num_words_ * sizeof(std::uint64_t)) / seconds_since(begin));
  }
  return best;
}

double RoofMeter::best_matmul_ops_per_s() const {
  ThreadPool& pool = ops_->pool();
  std::vector<MatmulData> data(pool.num_threads());
  double best = 0;
  for (std::size_t run_idx = 0; run_idx < kMatmulRuns; ++run_idx) {
    std::atomic<std::size_t> num_ops{0};
    const Clock::time_point begin = Clock::now();
    pool.run([&](std::size_t part_idx) {
      MatmulData& mine = data[part_idx];
      const Weight w =
          make_weight(DType::kF32, kMatmulRows, kMatmulColumns, reinterpret_cast<const std::byte*>(mine.w.data()));
      const View<float> out(mine.out.data(), {kMatmulTokens, kMatmulRows});
      const View<const float> x(mine.x.data(), {kMatmulTokens, kMatmulColumns});
      const PackedProducts* packed = ops_->table().packed;
      while (seconds_since(begin) < kMatmulRunSeconds) {
        if (packed == nullptr) ops_->table().matmul(out, x, w, {0, kMatmulRows}, Write::kStore);
        num_ops.fetch_add(packed != nullptr ? packed->peak(kPeakRounds) : kMatmulOps, std::memory_order_relaxed);
      }
    });
    best = std::max(best, static_cast<double>(num_ops.load()) / seconds_since(begin));
  }
  return best;
}

Roofs best_of(const Roofs& a, const Roofs& b) {
  return {.read_bytes_per_s = std::max(a.read_bytes_per_s, b.read_bytes_per_s),
          .matmul_ops_per_s = std::max(a.matmul_ops_per_s, b.matmul_ops_per_s),
          .read_buffer_bytes = std::max(a.read_buffer_bytes, b.read_buffer_bytes)};
}

}  // namespace qnext
