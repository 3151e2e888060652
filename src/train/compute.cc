#include "train/compute.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <vector>

#include "base/check.h"
#include "base/thread_pool.h"
#include "base/units.h"
#include "kernels/float_product.h"
#include "kernels/x86/bf16_product.h"
#include "train/loops.h"

namespace qnext::train {
namespace {

constexpr std::int64_t kProductRows = 192;  // of `out` in one task
constexpr std::size_t kPanelsPerTask = 4;
constexpr std::int64_t kSolveRows = 4;  // solved row by row; those beyond them by products

std::unique_ptr<ThreadPool>& pool() {
  static std::unique_ptr<ThreadPool> threads = std::make_unique<ThreadPool>(1);
  return threads;
}

const Bf16Products*& bf16_products() {  // null: float32
  static const Bf16Products* products = nullptr;
  return products;
}

const FloatProducts& float_products() {
  static const FloatProducts& products = available_float_products().back();
  return products;
}

// With the rows as its depth, or the columns.
ProductFactor factor_of(ConstMatrix m, bool rows_are_depth) {
  const auto rows = static_cast<std::size_t>(m.rows), cols = static_cast<std::size_t>(m.cols);
  const auto stride = static_cast<std::size_t>(m.stride);
  return rows_are_depth ? ProductFactor{m.data, rows, cols, stride, 1} : ProductFactor{m.data, cols, rows, 1, stride};
}

void check_shapes(ConstMatrix out, const ProductFactor& a, const ProductFactor& b) {
  QN_CHECK(a.depth == b.depth && out.rows == static_cast<std::int64_t>(a.side) &&
               out.cols == static_cast<std::int64_t>(b.side),
           "out [{}, {}], depths {} and {}, sides {} and {}", out.rows, out.cols, a.depth, b.depth, a.side, b.side);
}

void product(Matrix out, const ProductFactor& a, const ProductFactor& b, Into into, float scale) {
  const FloatProducts& products = float_products();
  check_shapes(out, a, b);
  ProductPanels panels = products.panels_in_place(b);
  if (!products.is_readable_in_place(b)) {
    thread_local std::vector<float> packed;
    packed.resize(std::max(packed.size(), products.packed_size(b.depth, b.side)));
    products.pack(packed.data(), b, 0, products.num_panels(b.side));
    panels = products.packed_panels(packed.data(), b.depth, b.side);
  }
  products.multiply(out.data, static_cast<std::size_t>(out.stride), a, panels, scale, into == Into::kAdd);
}

}  // namespace

void set_num_threads(std::size_t num_threads) {
  at::set_num_threads(1);
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
  product(out, factor_of(a, false), factor_of(b, true), into, scale);
}
void multiply_nt(Matrix out, ConstMatrix a, ConstMatrix b, Into into, float scale) {
  product(out, factor_of(a, false), factor_of(b, false), into, scale);
}
void multiply_tn(Matrix out, ConstMatrix a, ConstMatrix b, Into into, float scale) {
  product(out, factor_of(a, true), factor_of(b, true), into, scale);
}

ProductType set_product_type(ProductType type) {
  bf16_products() = type == ProductType::kBf16 && fast_bf16_products_pay() ? fast_bf16_products() : nullptr;
  return bf16_products() == nullptr ? ProductType::kF32 : ProductType::kBf16;
}

Factor ready_factor(ConstMatrix b, bool is_transposed) {
  Factor out(b, is_transposed);
  Factor::make_ready({&out, 1});
  return out;
}

void Factor::make_ready(std::span<Factor> factors) {
  const Bf16Products* bf16 = bf16_products();
  const FloatProducts& f32 = float_products();
  struct Panels {
    Factor* factor;
    std::size_t begin, end;
  };
  std::vector<Panels> tasks;
  for (Factor& factor : factors) {
    const ProductFactor b = factor_of(factor.b_, !factor.is_transposed_);
    std::size_t num_panels = f32.num_panels(b.side);
    if (bf16 != nullptr) {
      factor.packed_bf16_ = std::make_unique_for_overwrite<std::uint16_t[]>(bf16_packed_size(b.depth, b.side));
      num_panels = ceil_div(b.side, kBf16Columns);
    } else {
      factor.packed_ = std::make_unique_for_overwrite<float[]>(f32.packed_size(b.depth, b.side));
    }
    for (std::size_t begin = 0; begin < num_panels; begin += kPanelsPerTask) {
      tasks.push_back({&factor, begin, std::min(begin + kPanelsPerTask, num_panels)});
    }
  }
  for_each_task(std::ssize(tasks), [&](std::int64_t task) {
    const auto& [factor, begin, end] = tasks[static_cast<std::size_t>(task)];
    const ProductFactor b = factor_of(factor->b_, !factor->is_transposed_);
    if (bf16 != nullptr) {
      bf16->pack(factor->packed_bf16_.get(), b, begin, end);
    } else {
      f32.pack(factor->packed_.get(), b, begin, end);
    }
  });
}

void Factor::multiply_by(Matrix out, ConstMatrix a, bool a_transposed, Into into) const {
  const ProductFactor left = factor_of(a, a_transposed), right = factor_of(b_, !is_transposed_);
  const auto stride = static_cast<std::size_t>(out.stride);
  const bool add = into == Into::kAdd;
  check_shapes(out, left, right);
  if (packed_bf16_ != nullptr) {
    bf16_products()->multiply(out.data, stride, left, packed_bf16_.get(), right.side, 1, add);
  } else {
    float_products().multiply(out.data, stride, left,
                              float_products().packed_panels(packed_.get(), right.depth, right.side), 1, add);
  }
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
void parallel_multiply_tn(Matrix out, ConstMatrix a, const Factor& b, Into into) {
  // A weight's gradient has few rows, which are long sums: enough tasks for the threads, as large as that allows.
  const std::int64_t rows_per_task = std::clamp<std::int64_t>(out.rows / 256 * 32, 32, 128);
  for_each_block(out.rows, rows_per_task, [&](std::int64_t begin, std::int64_t end) {
    b.multiply_tn(out.row_range(begin, end), a.col_range(begin, end), into);
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
  for (std::int64_t begin = 0; begin < x.rows; begin += kSolveRows) {
    const std::int64_t end = std::min(begin + kSolveRows, x.rows);
    multiply(x.row_range(begin, end), lower.row_range(begin, end).col_range(0, begin), x.row_range(0, begin),
             Into::kAdd, -1);
    for (std::int64_t i = begin; i < end; ++i) {
      for (std::int64_t j = begin; j < i; ++j) add_scaled(x.row(i), x.row(j), -lower.row(i)[j], x.cols);
    }
  }
}

void solve_unit_lower_transposed_inplace(Matrix x, ConstMatrix lower) {
  for (std::int64_t end = x.rows; end > 0; end -= std::min(kSolveRows, end)) {
    const std::int64_t begin = std::max<std::int64_t>(0, end - kSolveRows);
    multiply_tn(x.row_range(begin, end), lower.row_range(end, x.rows).col_range(begin, end), x.row_range(end, x.rows),
                Into::kAdd, -1);
    for (std::int64_t i = end; i-- > begin;) {
      for (std::int64_t j = i + 1; j < end; ++j) add_scaled(x.row(i), x.row(j), -lower.row(j)[i], x.cols);
    }
  }
}

}  // namespace qnext::train
