#pragma once
// What the trainer's ops compute with: the threads, matrices that are views, their products, and loops for every
// instruction set. Everything here sums in an order that depends on sizes alone, never on the number of threads.

#include <cstdint>
#include <memory>
#include <span>

#include "base/function_ref.h"

// Compiles a leaf loop for AVX-512, AVX2 and the baseline; the dynamic linker picks one. Sanitizers run before it can.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && \
    !defined(__SANITIZE_THREAD__)
#define QN_EVERY_ISA __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define QN_EVERY_ISA
#endif

namespace qnext::train {

// Threads of every op from here on; the ops run one at a time. ATen is held to one thread.
void set_num_threads(std::size_t num_threads);
std::size_t num_threads();

// task(task_idx) for each of num_tasks, by whichever thread is free.
void for_each_task(std::int64_t num_tasks, FunctionRef<void(std::int64_t task_idx)> task);

// The same for ranges [begin, end) of at most `block` that cover [0, count).
void for_each_block(std::int64_t count, std::int64_t block,
                    FunctionRef<void(std::int64_t begin, std::int64_t end)> task);

// A row-major view: row i begins at data + i * stride.
struct ConstMatrix {
  const float* data = nullptr;
  std::int64_t rows = 0, cols = 0, stride = 0;

  ConstMatrix row_range(std::int64_t begin, std::int64_t end) const {
    return {data + begin * stride, end - begin, cols, stride};
  }
  ConstMatrix col_range(std::int64_t begin, std::int64_t end) const {
    return {data + begin, rows, end - begin, stride};
  }
  const float* row(std::int64_t row_idx) const { return data + row_idx * stride; }
};

struct Matrix {
  float* data = nullptr;
  std::int64_t rows = 0, cols = 0, stride = 0;

  operator ConstMatrix() const { return {data, rows, cols, stride}; }  // NOLINT(google-explicit-constructor)
  Matrix row_range(std::int64_t begin, std::int64_t end) const {
    return {data + begin * stride, end - begin, cols, stride};
  }
  float* row(std::int64_t row_idx) const { return data + row_idx * stride; }
};

// What becomes of the destination's old values.
enum class Into { kReplace, kAdd };

// Products on the calling thread: out = scale * a b (+ out). `out` overlaps neither. Shapes are checked.
void multiply(Matrix out, ConstMatrix a, ConstMatrix b, Into into = Into::kReplace, float scale = 1);     // a b
void multiply_nt(Matrix out, ConstMatrix a, ConstMatrix b, Into into = Into::kReplace, float scale = 1);  // a bT
void multiply_tn(Matrix out, ConstMatrix a, ConstMatrix b, Into into = Into::kReplace, float scale = 1);  // aT b

// What the products with weights, of which the two kinds below are, round their factors to.
enum class ProductType { kF32, kBf16 };
ProductType set_product_type(ProductType type);  // what they are from here on: f32 on a CPU where bf16 is no faster

// The right factor of products, made ready once for many rows.
class Factor {
 public:
  Factor(ConstMatrix b, bool is_transposed) : b_(b), is_transposed_(is_transposed) {}

  // Packs all of them, on all threads. Before the first product.
  static void make_ready(std::span<Factor> factors);

  // out = a b (+ out), or aT b; b transposed where it is so. On the calling thread.
  void multiply(Matrix out, ConstMatrix a, Into into = Into::kReplace) const;
  void multiply_tn(Matrix out, ConstMatrix a, Into into = Into::kReplace) const;

 private:
  void multiply_by(Matrix out, ConstMatrix a, bool a_transposed, Into into) const;

  ConstMatrix b_;
  bool is_transposed_;
  std::unique_ptr<float[]> packed_;  // one of these, by the type of products
  std::unique_ptr<std::uint16_t[]> packed_bf16_;
};

Factor ready_factor(ConstMatrix b, bool is_transposed);

// Products on all threads, by blocks of out's rows; with a factor that is ready, or one that is made so for this once.
void parallel_multiply(Matrix out, ConstMatrix a, const Factor& b, Into into = Into::kReplace);
void parallel_multiply(Matrix out, ConstMatrix a, ConstMatrix b, Into into = Into::kReplace);
void parallel_multiply_nt(Matrix out, ConstMatrix a, ConstMatrix b, Into into = Into::kReplace);
void parallel_multiply_tn(Matrix out, ConstMatrix a, const Factor& b, Into into = Into::kReplace);

// Operations a second (2 a multiply-add) of all threads on square products of 512: the roof that MFU is a share of.
double measure_product_roof();

// x <- (I + lower)^-1 x and (I + lower)^-T x, where only what is strictly below lower's diagonal is read.
void solve_unit_lower_inplace(Matrix x, ConstMatrix lower);
void solve_unit_lower_transposed_inplace(Matrix x, ConstMatrix lower);

// e^x within 2 ulp from -87 to 88, 0 below and finite above; compiles to vector code inside a loop.
[[gnu::always_inline]] inline float exp_in_loop(float x) {
  x = x < 88.0f ? x : 88.0f;
  const float clamped = x > -87.0f ? x : -87.0f;
  const float n = __builtin_rintf(clamped * 1.44269504088896341f);
  float r = clamped - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  // Cephes' polynomial for e^r - 1 - r on [-ln2/2, ln2/2].
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const float power = __builtin_bit_cast(float, (static_cast<std::int32_t>(n) + 127) << 23);
  return x > -87.0f ? p * power : 0.0f;
}

[[gnu::always_inline]] inline float sigmoid_in_loop(float x) {
  return 1.0f / (1.0f + exp_in_loop(-x));
}

}  // namespace qnext::train
