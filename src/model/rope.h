#pragma once
// Rotary position embedding: inverse frequencies (plain or YaRN) and the cos/sin tables of a batch.
// Source: RoPE arXiv 2104.09864, YaRN arXiv 2309.00071; the float32 order of operations is transformers'.

#include <vector>

#include "base/arena.h"
#include "model/batch.h"
#include "model/config.h"
#include "tensor/view.h"

namespace qnext {

struct RopeFrequencies {
  std::vector<float> inverse;  // [R/2]
  float factor = 1;            // YaRN's attention factor
};

// Once a model, in f32 as the reference does.
RopeFrequencies make_rope_frequencies(const RopeConfig& rope);

struct RopeTables {
  View<float> cos, sin;  // [T, R/2], times the factor
};

// The tables of every row of the batch, in `scratch`. Cost: R/2 sines and cosines a row, once a step.
RopeTables make_rope_tables(Arena& scratch, const Batch& batch, const RopeFrequencies& rope);

}  // namespace qnext
