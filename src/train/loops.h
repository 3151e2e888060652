#pragma once
// Loops over rows of floats that several ops share, compiled for every instruction set (QN_EVERY_ISA).

#include <cstdint>

namespace qnext::train {

float sum(const float* x, std::int64_t width);
float dot(const float* a, const float* b, std::int64_t width);
float largest(const float* x, std::int64_t width);  // -inf of nothing

void scale_inplace(float* x, float factor, std::int64_t width);
void scaled(float* out, const float* x, float factor, std::int64_t width);      // out = factor x
void add_scaled(float* out, const float* x, float factor, std::int64_t width);  // out += factor x

// x <- e^(x - offset); returns the sum.
float exp_inplace(float* x, float offset, std::int64_t width);

}  // namespace qnext::train
