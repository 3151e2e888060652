#include "train/compute.h"

#include <ATen/Parallel.h>
#include <cblas.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <vector>

#include "base/check.h"
#include "base/thread_pool.h"

namespace qnext::train {
namespace {

constexpr std::int64_t kProductRows = 192;  // of `out` in one task: BLAS packs the other operand once for these
constexpr std::size_t kPanelsPerTask = 4;

std::unique_ptr<ThreadPool>& pool() {
  static std::unique_ptr<ThreadPool> threads = std::make_unique<ThreadPool>(1);
  return threads;
}

const Bf16Products*& bf16_products() {  // null: float32
  static const Bf16Products* products = nullptr;
  return products;
}

// With the rows as its depth, or the columns.
Bf16Factor bf16_factor(ConstMatrix m, bool rows_are_depth) {
  const auto rows = static_cast<std::size_t>(m.rows), cols = static_cast<std::size_t>(m.cols);
  const auto stride = static_cast<std::size_t>(m.stride);
  return rows_are_depth ? Bf16Factor{m.data, rows, cols, stride, 1} : Bf16Factor{m.data, cols, rows, 1, stride};
}

int blas_int(std::int64_t number) {
  return static_cast<int>(number);
}

void product(Matrix out, ConstMatrix a, bool a_transposed, ConstMatrix b, bool b_transposed, Into into, float scale) {
  const std::int64_t inner = a_transposed ? a.rows : a.cols;
  QN_CHECK((a_transposed ? a.cols : a.rows) == out.rows && (b_transposed ? b.rows : b.cols) == out.cols &&
               (b_transposed ? b.cols : b.rows) == inner,
           "out [{}, {}], a [{}, {}], b [{}, {}]", out.rows, out.cols, a.rows, a.cols, b.rows, b.cols);
  if (out.rows == 0 || out.cols == 0) return;
  cblas_sgemm(CblasRowMajor, a_transposed ? CblasTrans : CblasNoTrans, b_transposed ? CblasTrans : CblasNoTrans,
              blas_int(out.rows), blas_int(out.cols), blas_int(inner), scale, a.data, blas_int(a.stride), b.data,
              blas_int(b.stride), into == Into::kAdd ? 1.0f : 0.0f, out.data, blas_int(out.stride));
}

void solve(Matrix x, ConstMatrix lower, CBLAS_TRANSPOSE transposed) {
  QN_CHECK(lower.rows == x.rows && lower.cols == x.rows, "x [{}, {}], lower [{}, {}]", x.rows, x.cols, lower.rows,
           lower.cols);
  cblas_strsm(CblasRowMajor, CblasLeft, CblasLower, transposed, CblasUnit, blas_int(x.rows), blas_int(x.cols), 1.0f,
              lower.data, blas_int(lower.stride), x.data, blas_int(x.stride));
}

}  // namespace

void set_num_threads(std::size_t num_threads) {
  at::set_num_threads(1);
  openblas_set_num_threads(1);
  pool() = std::make_unique<ThreadPool>(num_threads);
}

std::size_t num_threads() {
  return pool()->num_threads();
}

void for_each_task(std::int64_t num_tasks, FunctionRef<void(std::int64_t)> task) {
  pool()->for_each(static_cast<std::size_t>(num_tasks),
                   [&](std::size_t task_idx) { task(static_cast<std::int64_t>(task_idx)); });
}

void for_each_block(std::int64_t count, std::int64_t block, FunctionRef<void(std::int64_t, std::int64_t)> task) {
  for_each_task((count + block - 1) / block,
                [&](std::int64_t block_idx) { task(block_idx * block, std::min(count, (block_idx + 1) * block)); });
}

void multiply(Matrix out, ConstMatrix a, ConstMatrix b, Into into, float scale) {
  product(out, a, false, b, false, into, scale);
}
void multiply_nt(Matrix out, ConstMatrix a, ConstMatrix b, Into into, float scale) {
  product(out, a, false, b, true, into, scale);
}
void multiply_tn(Matrix out, ConstMatrix a, ConstMatrix b, Into into, float scale) {
  product(out, a, true, b, false, into, scale);
}

ProductType set_product_type(ProductType type) {
  bf16_products() = type == ProductType::kBf16 ? fast_bf16_products() : nullptr;
  return bf16_products() == nullptr ? ProductType::kF32 : ProductType::kBf16;
}

Bf16Factor Factor::strided() const {
  return bf16_factor(b_, !is_transposed_);
}

Factor ready_factor(ConstMatrix b, bool is_transposed) {
  Factor out(b, is_transposed);
  Factor::make_ready({&out, 1});
  return out;
}

void Factor::make_ready(std::span<Factor> factors) {
  const Bf16Products* products = bf16_products();
  if (products == nullptr) return;
  struct Panels {
    Factor* factor;
    std::size_t begin, end;
  };
  std::vector<Panels> tasks;
  for (Factor& factor : factors) {
    const Bf16Factor b = factor.strided();
    factor.packed_ = std::make_unique_for_overwrite<std::uint16_t[]>(bf16_packed_size(b.depth, b.side));
    const std::size_t num_panels = (b.side + kBf16Columns - 1) / kBf16Columns;
    for (std::size_t begin = 0; begin < num_panels; begin += kPanelsPerTask) {
      tasks.push_back({&factor, begin, std::min(begin + kPanelsPerTask, num_panels)});
    }
  }
  for_each_task(std::ssize(tasks), [&](std::int64_t task) {
    const Panels& panels = tasks[static_cast<std::size_t>(task)];
    products->pack(panels.factor->packed_.get(), panels.factor->strided(), panels.begin, panels.end);
  });
}

void Factor::multiply_by(Matrix out, ConstMatrix a, bool a_transposed, Into into) const {
  if (packed_ == nullptr) return product(out, a, a_transposed, b_, is_transposed_, into, 1);
  const Bf16Factor left = bf16_factor(a, a_transposed), right = strided();
  QN_CHECK(left.depth == right.depth && out.rows == static_cast<std::int64_t>(left.side) &&
               out.cols == static_cast<std::int64_t>(right.side),
           "out [{}, {}], depths {} and {}, sides {} and {}", out.rows, out.cols, left.depth, right.depth, left.side,
           right.side);
  bf16_products()->multiply(out.data, static_cast<std::size_t>(out.stride), left, packed_.get(), right.side, 1,
                            into == Into::kAdd);
}

void Factor::multiply(Matrix out, ConstMatrix a, Into into) const {
  multiply_by(out, a, false, into);
}
void Factor::multiply_tn(Matrix out, ConstMatrix a, Into into) const {
  multiply_by(out, a, true, into);
}

void parallel_multiply(Matrix out, ConstMatrix a, const Factor& b, Into into) {
  for_each_block(out.rows, kProductRows, [&](std::int64_t begin, std::int64_t end) {
    b.multiply(out.row_range(begin, end), a.row_range(begin, end), into);
  });
}
void parallel_multiply(Matrix out, ConstMatrix a, ConstMatrix b, Into into) {
  parallel_multiply(out, a, ready_factor(b, false), into);
}
void parallel_multiply_nt(Matrix out, ConstMatrix a, ConstMatrix b, Into into) {
  parallel_multiply(out, a, ready_factor(b, true), into);
}
void parallel_multiply_tn(Matrix out, ConstMatrix a, ConstMatrix b, Into into) {
  const Factor factor = ready_factor(b, false);
  for_each_block(out.rows, kProductRows, [&](std::int64_t begin, std::int64_t end) {
    factor.multiply_tn(out.row_range(begin, end), a.col_range(begin, end), into);
  });
}

double measure_product_roof() {
  constexpr std::int64_t kSize = 512;
  const auto threads = static_cast<std::int64_t>(num_threads());
  std::vector<float> values(static_cast<std::size_t>(kSize * kSize * (2 * threads + 1)), 1.0f);
  const auto square = [&](std::int64_t i) { return Matrix{values.data() + i * kSize * kSize, kSize, kSize, kSize}; };
  const Factor factor = ready_factor(square(2 * threads), false);
  double best = 0;
  for (int round = 0; round < 10; ++round) {
    const auto begin = std::chrono::steady_clock::now();
    for_each_task(threads, [&](std::int64_t i) { factor.multiply(square(2 * i), square(2 * i + 1)); });
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    best = std::max(best, static_cast<double>(2 * kSize * kSize * kSize * threads) / seconds);
  }
  return best;
}

void solve_unit_lower_inplace(Matrix x, ConstMatrix lower) {
  solve(x, lower, CblasNoTrans);
}
void solve_unit_lower_transposed_inplace(Matrix x, ConstMatrix lower) {
  solve(x, lower, CblasTrans);
}

}  // namespace qnext::train
