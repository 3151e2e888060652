#include "model/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace qnext {
namespace {

// The rotary dim (fractional) whose wavelength fits `num_rotations` times into the original context.
double correction_dim(double num_rotations, const RopeConfig& rope, double original_context_tokens) {
  return static_cast<double>(rope.R) * std::log(original_context_tokens / (num_rotations * 2 * std::numbers::pi)) /
         (2 * std::log(rope.theta));
}

}  // namespace

RopeFrequencies make_rope_frequencies(const RopeConfig& rope) {
  const std::size_t half = rope.R / 2;
  RopeFrequencies result{.inverse = std::vector<float>(half)};
  std::vector<float>& out = result.inverse;
  for (std::size_t i = 0; i < half; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(rope.R);
    out[i] = 1.0f / static_cast<float>(std::pow(rope.theta, static_cast<double>(exponent)));
  }
  if (!rope.yarn) return result;

  // Fast-turning dims keep their frequency (extrapolation), slow ones are stretched (interpolation), a ramp in between.
  const YarnConfig& yarn = *rope.yarn;
  result.factor = static_cast<float>(yarn.attention_factor);
  const double last_dim = static_cast<double>(rope.R) - 1;
  const double low = std::max(0.0, std::floor(correction_dim(yarn.beta_fast, rope, yarn.original_context_tokens)));
  double high = std::min(last_dim, std::ceil(correction_dim(yarn.beta_slow, rope, yarn.original_context_tokens)));
  if (high == low) high += 0.001;
  for (std::size_t i = 0; i < half; ++i) {
    const float ramp = static_cast<float>(std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0));
    const float interpolated = out[i] / static_cast<float>(yarn.factor);
    out[i] = interpolated * ramp + out[i] * (1.0f - ramp);
  }
  return result;
}

}  // namespace qnext
