// Speed of decode-and-multiply, one thread, beside this machine's roofs: GB/s of weights at T = 1, read from memory,
// and GFLOP/s at T = 512. Run with --benchmark_filter=avx512 for one table.

#include <benchmark/benchmark.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/dispatch.h"
#include "kernels/random_weight.h"

namespace qnext {
namespace {

constexpr std::size_t kCols = 2048;
constexpr std::size_t kRows = 512;                        // an expert's matrix: 512 x 2048
constexpr std::size_t kColdBytes = std::size_t{1} << 30;  // beyond any cache

// About num_bytes of matrices of kRows x kCols, one after the other: copies of one, since time does not depend on
// values.
struct Weights {
  std::vector<std::byte> bytes;
  std::vector<Weight> matrices;
  RandomWeight original;

  Weights(DType type, std::size_t num_bytes) : original(type, kRows, kCols, 1) {
    const std::size_t matrix_bytes = original.bytes.size();
    const std::size_t num_matrices = std::max(num_bytes / matrix_bytes, std::size_t{1});
    bytes.reserve(num_matrices * matrix_bytes);
    for (std::size_t i = 0; i < num_matrices; ++i) {
      bytes.insert(bytes.end(), original.bytes.begin(), original.bytes.end());
      matrices.push_back(original.weight);
      matrices.back().data = bytes.data() + i * matrix_bytes;
    }
  }
};

void set_rates(benchmark::State& state, double bytes, double flops) {
  const auto iterations = static_cast<double>(state.iterations());
  state.counters["GB/s"] = benchmark::Counter(bytes * iterations / 1e9, benchmark::Counter::kIsRate);
  state.counters["GFLOP/s"] = benchmark::Counter(flops * iterations / 1e9, benchmark::Counter::kIsRate);
}

// Rows of activations, aligned as the engine's arena aligns them.
struct Activations {
  std::size_t num_tokens;
  std::unique_ptr<float[], decltype(&std::free)> data;

  explicit Activations(std::size_t token_count)
      : num_tokens(token_count),
        data(static_cast<float*>(std::aligned_alloc(64, token_count * kCols * sizeof(float))), &std::free) {
    std::fill_n(data.get(), num_tokens * kCols, 0.5f);
  }
  View<const float> view() const { return {data.get(), {num_tokens, kCols}}; }
};

// One iteration reads all the weights once.
void one_token(benchmark::State& state, const KernelTable& table, DType type) {
  const Weights weights(type, kColdBytes);
  const Activations x(1);
  std::vector<float> out(kRows);
  for (auto _ : state) {
    for (const Weight& w : weights.matrices) {
      table.matmul(View<float>(out.data(), {1, kRows}), x.view(), w, {0, kRows}, Write::kStore);
      benchmark::DoNotOptimize(out.data());
    }
  }
  const auto num_matrices = static_cast<double>(weights.matrices.size());
  set_rates(state, static_cast<double>(weights.bytes.size()), 2.0 * kRows * kCols * num_matrices);
}

void many_tokens(benchmark::State& state, const KernelTable& table, DType type) {
  const auto num_tokens = static_cast<std::size_t>(state.range(0));
  const Weights weights(type, 0);
  const Activations x(num_tokens);
  std::vector<float> out(num_tokens * kRows);
  for (auto _ : state) {
    table.matmul(View<float>(out.data(), {num_tokens, kRows}), x.view(), weights.matrices[0], {0, kRows},
                 Write::kStore);
    benchmark::DoNotOptimize(out.data());
  }
  set_rates(state, static_cast<double>(weights.bytes.size()), 2.0 * static_cast<double>(num_tokens) * kRows * kCols);
}

// ---- Roofs of one thread ----

#if defined(__x86_64__)
__attribute__((target("avx512f"))) void read_roof(benchmark::State& state) {
  const std::vector<float> data(kColdBytes / sizeof(float), 1.0f);
  __m512 sums[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
  for (auto _ : state) {
    for (std::size_t i = 0; i < data.size(); i += 64) {
      for (std::size_t j = 0; j < 4; ++j) sums[j] = _mm512_add_ps(sums[j], _mm512_loadu_ps(data.data() + i + 16 * j));
    }
    benchmark::DoNotOptimize(sums);
  }
  set_rates(state, static_cast<double>(kColdBytes), 0);
}

__attribute__((target("avx512f"))) void fma_roof(benchmark::State& state) {
  constexpr int kChains = 10;  // 2 a cycle, 4 cycles each
  __m512 sums[kChains];
  for (__m512& sum : sums) sum = _mm512_set1_ps(1.0f);
  __m512 factor = _mm512_set1_ps(0.999f);
  benchmark::DoNotOptimize(factor);
  constexpr int kRounds = 10'000;
  for (auto _ : state) {
    for (int i = 0; i < kRounds; ++i) {
#pragma GCC unroll 10
      for (int j = 0; j < kChains; ++j) sums[j] = _mm512_fmadd_ps(sums[j], factor, factor);
    }
    benchmark::DoNotOptimize(sums);
  }
  set_rates(state, 0, 2.0 * 16 * kChains * kRounds);
}
#endif

[[maybe_unused]] const bool kRegistered = [] {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) {
    benchmark::RegisterBenchmark("roof/read", read_roof)->Unit(benchmark::kMillisecond);
    benchmark::RegisterBenchmark("roof/fma", fma_roof)->Unit(benchmark::kMillisecond);
  }
#endif
  for (const KernelTable& table : available_tables().subspan(1)) {
    for (const DType type : {DType::kQ4_K, DType::kQ6_K, DType::kQ8_0, DType::kQ5_K, DType::kQ4_0, DType::kIQ4_XS,
                             DType::kMXFP4, DType::kF8E4M3, DType::kBF16, DType::kF32}) {
      const std::string name = std::string(table.name) + "/" + std::string(dtype_info(type).name);
      benchmark::RegisterBenchmark((name + "/T:1").c_str(), one_token, std::cref(table), type)
          ->Unit(benchmark::kMillisecond);
      benchmark::RegisterBenchmark((name + "/T").c_str(), many_tokens, std::cref(table), type)
          ->Unit(benchmark::kMillisecond)
          ->Arg(4)
          ->Arg(512);
    }
  }
  return true;
}();

}  // namespace
}  // namespace qnext
