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
// Figures (one core at 2.6 GHz, Sapphire Rapids class) are in the table of docs/decisions/ or tests of this room.

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
