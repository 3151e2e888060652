#include "tensor/quantize_search.h"

#include <algorithm>
#include <cmath>

namespace qnext {

std::uint16_t BlockValues::to_f16(float scale) const {
  constexpr double kLargest = kMaxF16;
  return f32_to_f16(static_cast<float>(std::clamp(static_cast<double>(scale) * unit, -kLargest, kLargest)));
}

float BlockValues::from_f16(std::uint16_t half) const {
  return static_cast<float>(f16_to_f32(half) / unit);
}

void normalise_block(BlockValues& out, const float* values, const float* importance, std::size_t num_elements) {
  float max_magnitude = 0;
  for (std::size_t i = 0; i < num_elements; ++i) max_magnitude = std::max(max_magnitude, std::fabs(values[i]));
  out.all_zero = max_magnitude == 0;
  if (out.all_zero) return;
  int exponent = 0;
  std::frexp(max_magnitude, &exponent);
  out.unit = std::ldexp(1.0, exponent);
  const double factor = std::ldexp(1.0, -exponent);
  for (std::size_t i = 0; i < num_elements; ++i) {
    out.x[i] = splat(static_cast<float>(static_cast<double>(values[i]) * factor));
  }
  const float max_weight = importance == nullptr ? 0.0f : *std::max_element(importance, importance + num_elements);
  for (std::size_t i = 0; i < num_elements; ++i) {
    out.weights[i] = splat(max_weight > 0 ? importance[i] / max_weight : 1.0f);
  }
}

}  // namespace qnext
