#include "model/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "kernels/ops.h"

namespace qnext {
namespace {

// The rotary dim (fractional) whose wavelength fits `num_rotations` times into the original context.
double correction_dim(double num_rotations, const RopeConfig& rope, double original_context_tokens) {
  return static_cast<double>(rope.R) * std::log(original_context_tokens / (num_rotations * 2 * std::numbers::pi)) /
         (2 * std::log(rope.theta));
}

}  // namespace

std::vector<float> rope_inverse_frequencies(const RopeConfig& rope) {
  const std::size_t half = rope.R / 2;
  std::vector<float> out(half);
  for (std::size_t i = 0; i < half; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(rope.R);
    out[i] = 1.0f / static_cast<float>(std::pow(rope.theta, static_cast<double>(exponent)));
  }
  if (!rope.yarn) return out;

  // Fast-turning dims keep their frequency (extrapolation), slow ones are stretched (interpolation), a ramp in between.
  const YarnConfig& yarn = *rope.yarn;
  const double last_dim = static_cast<double>(rope.R) - 1;
  const double low = std::max(0.0, std::floor(correction_dim(yarn.beta_fast, rope, yarn.original_context_tokens)));
  double high = std::min(last_dim, std::ceil(correction_dim(yarn.beta_slow, rope, yarn.original_context_tokens)));
  if (high == low) high += 0.001;
  for (std::size_t i = 0; i < half; ++i) {
    const float ramp = static_cast<float>(std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0));
    const float interpolated = out[i] / static_cast<float>(yarn.factor);
    out[i] = interpolated * ramp + out[i] * (1.0f - ramp);
  }
  return out;
}

RopeTables make_rope_tables(Arena& scratch, const Batch& batch, const RopeConfig& rope) {
  const std::vector<float> frequencies = rope_inverse_frequencies(rope);
  const float factor = rope.yarn ? static_cast<float>(rope.yarn->attention_factor) : 1.0f;
  RopeTables out{make_scratch(scratch, {batch.token_ids.size(), frequencies.size()}),
                 make_scratch(scratch, {batch.token_ids.size(), frequencies.size()})};
  for (const SequenceSpan& span : batch.spans) {
    for (std::size_t row = span.rows.begin; row < span.rows.end; ++row) {
      const auto position = static_cast<float>(span.first_position + row - span.rows.begin);
      for (std::size_t i = 0; i < frequencies.size(); ++i) {
        const float angle = position * frequencies[i];  // rounded to f32, as the reference has it
        out.cos(row, i) = static_cast<float>(std::cos(static_cast<double>(angle))) * factor;
        out.sin(row, i) = static_cast<float>(std::sin(static_cast<double>(angle))) * factor;
      }
    }
  }
  return out;
}

}  // namespace qnext
