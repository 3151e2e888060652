#pragma once
// Encoding f32 values into every element type. Block formats are searched for the least squared error they allow.
//
// Method. A block is scaled by a power of two to a magnitude near 1. Per sub-block, real scales (and offsets) come from
// a grid of starting points (its range drawn in by parts of a step), each rounded to codes and refitted by closed-form
// least squares for those codes; the best is refitted again. With its codes fixed, a sub-block's error is a quadratic
// of its scale and offset, so d and dmin are then chosen among many trials for the least sum of those quadratics with
// the small integers rounded. Last, d and dmin as f16 holds them, neighbouring integers are tried with codes rounded
// anew, d and dmin are refitted for the codes found, and so on while the error falls. Four candidates share a pass.
// Q8_0 is plain: d = max |x| / 127, halves rounded away from zero, to the byte what llama.cpp writes.
//
// Measured: mean squared error of normal values over their variance; speed on one core (2.6 GHz, Sapphire Rapids
// class); root mean squared error over llama.cpp's, without an importance matrix, on the same weights (golden
// next-gguf; worst tensor). For the last column quantize_quality_test.cc holds a slice of those weights to it.
//            bits/weight   error    M weights/s   of llama.cpp's
//   q8_0         8.5       2.9e-5      200         the same bytes
//   q6_k         6.56      2.7e-4       31         0.92  (0.93)
//   q5_k, q5_1   5.5, 6    1.2e-3       22, 32     0.95  (0.95)
//   q5_0         5.5       1.6e-3       44
//   q4_k, q4_1   4.5, 5    4.8e-3       22, 32     0.974 (0.979)
//   iq4_nl, _xs  4.5, 4.25 5.5e-3       13,  9
//   q4_0         4.5       6.5e-3       46
//   mxfp4        4.25      1.2e-2       52
//   q3_k         3.44      2.1e-2       30
//   q2_k         2.63      6.7e-2       16

#include <cstddef>
#include <optional>

#include "tensor/dtype.h"

namespace qnext {

// The first of the values that is infinite or NaN. encode_blocks requires that there is none: a converter asks this,
// and reports the tensor by its name.
std::optional<std::size_t> find_non_finite(const float* values, std::size_t num_elements);

// Writes num_elements values as `type`: dtype_bytes(type, num_elements) bytes, at any alignment.
//   values      finite; a whole number of blocks
//   importance  nullptr, or a weight of the squared error for each value: finite, >= 0
//   type        not f8_e4m3 (checkpoints come in it, we do not write it), i32, i64 or u8
// What decodes from the result is finite for every input: scales, and f16 and bf16 elements, saturate.
// Deterministic; safe on disjoint blocks at once.
void encode_blocks(std::byte* blocks, const float* values, DType type, std::size_t num_elements,
                   const float* importance = nullptr);

}  // namespace qnext
