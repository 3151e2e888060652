#include "train/loops.h"

#include <limits>

#include "train/compute.h"

namespace qnext::train {

QN_EVERY_ISA float sum(const float* x, std::int64_t width) {
  float total = 0;
#pragma omp simd reduction(+ : total)
  for (std::int64_t i = 0; i < width; ++i) total += x[i];
  return total;
}

QN_EVERY_ISA float dot(const float* a, const float* b, std::int64_t width) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < width; ++i) sum += a[i] * b[i];
  return sum;
}

QN_EVERY_ISA float largest(const float* x, std::int64_t width) {
  float best = -std::numeric_limits<float>::infinity();
#pragma omp simd reduction(max : best)
  for (std::int64_t i = 0; i < width; ++i) best = x[i] > best ? x[i] : best;
  return best;
}

QN_EVERY_ISA void scale_inplace(float* x, float factor, std::int64_t width) {
#pragma omp simd
  for (std::int64_t i = 0; i < width; ++i) x[i] *= factor;
}

QN_EVERY_ISA void scaled(float* out, const float* x, float factor, std::int64_t width) {
#pragma omp simd
  for (std::int64_t i = 0; i < width; ++i) out[i] = factor * x[i];
}

QN_EVERY_ISA void add_scaled(float* out, const float* x, float factor, std::int64_t width) {
#pragma omp simd
  for (std::int64_t i = 0; i < width; ++i) out[i] += factor * x[i];
}

QN_EVERY_ISA float exp_inplace(float* x, float offset, std::int64_t width) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < width; ++i) {
    x[i] = exp_in_loop(x[i] - offset);
    sum += x[i];
  }
  return sum;
}

}  // namespace qnext::train
