#pragma once
// The index of the largest value. A vocabulary has 150,000 logits: one comparison after the other took 2% of a token.

#include <algorithm>
#include <array>
#include <cstddef>
#include <limits>
#include <span>

namespace qnext {

// The first of the largest; 0 when the first is a NaN, others are passed over. Requires a value.
inline std::size_t argmax(std::span<const float> values) {
  constexpr std::size_t kLanes = 16, kBlock = 16 * kLanes;
  std::size_t best_idx = 0;
  std::size_t begin = 0;
  for (; begin + kBlock <= values.size(); begin += kBlock) {
    std::array<float, kLanes> lanes;
    lanes.fill(-std::numeric_limits<float>::infinity());
    for (std::size_t i = begin; i < begin + kBlock; i += kLanes) {
      for (std::size_t lane = 0; lane < kLanes; ++lane) {
        lanes[lane] = values[i + lane] > lanes[lane] ? values[i + lane] : lanes[lane];
      }
    }
    const float largest = *std::max_element(lanes.begin(), lanes.end());
    if (!(largest > values[best_idx])) continue;  // most blocks
    const auto block = values.subspan(begin, kBlock);
    best_idx = begin + static_cast<std::size_t>(std::find(block.begin(), block.end(), largest) - block.begin());
  }
  for (std::size_t i = begin; i < values.size(); ++i) {
    if (values[i] > values[best_idx]) best_idx = i;
  }
  return best_idx;
}

}  // namespace qnext
