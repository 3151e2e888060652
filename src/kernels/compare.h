#pragma once
// expect_close: the one way in which kernel tests compare numbers. For tests only.

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>

#include <fmt/format.h>

#include "tensor/view.h"

namespace qnext {

// True when every |actual[i] - expected[i]| <= tolerance. A NaN anywhere fails, as does an infinity that the other
// side lacks; equal infinities agree. Says how many values fail, and shows the worst.
inline testing::AssertionResult is_close(std::span<const float> actual, std::span<const float> expected,
                                         double tolerance) {
  if (actual.size() != expected.size()) {
    return testing::AssertionFailure() << fmt::format("{} values, expected {}", actual.size(), expected.size());
  }
  if (!(tolerance >= 0) || std::isinf(tolerance)) return testing::AssertionFailure() << "tolerance " << tolerance;
  std::size_t num_wrong = 0;
  std::size_t worst_idx = 0;
  double worst = -1;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    const double difference = std::abs(static_cast<double>(actual[i]) - static_cast<double>(expected[i]));
    const bool both_finite = std::isfinite(actual[i]) && std::isfinite(expected[i]);
    const bool right = both_finite ? difference <= tolerance : actual[i] == expected[i];
    if (right) continue;
    ++num_wrong;
    const double badness = both_finite ? difference : INFINITY;
    if (badness > worst) worst = badness, worst_idx = i;
  }
  if (num_wrong == 0) return testing::AssertionSuccess();
  return testing::AssertionFailure() << fmt::format(
             "{} of {} values differ by more than {:g}; worst at index {}: {:.9g}, expected {:.9g} (difference {:g})",
             num_wrong, actual.size(), tolerance, worst_idx, actual[worst_idx], expected[worst_idx], worst);
}

// The same for views of one shape, in the order of their axes.
inline testing::AssertionResult is_close(View<const float> actual, View<const float> expected, double tolerance) {
  if (actual.rank() != expected.rank()) {
    return testing::AssertionFailure() << fmt::format("rank {}, expected {}", actual.rank(), expected.rank());
  }
  for (std::size_t axis = 0; axis < actual.rank(); ++axis) {
    if (actual.dim(axis) != expected.dim(axis)) {
      return testing::AssertionFailure() << fmt::format("axis {} has {}, expected {}", axis, actual.dim(axis),
                                                        expected.dim(axis));
    }
  }
  if (!actual.contiguous() || !expected.contiguous()) return testing::AssertionFailure() << "a view has gaps";
  return is_close(std::span(actual.data(), actual.num_elements()), std::span(expected.data(), expected.num_elements()),
                  tolerance);
}

// True when the bits agree, so that -0 is not 0 and a NaN is itself.
inline testing::AssertionResult same_bits(std::span<const float> actual, std::span<const float> expected) {
  if (actual.size() != expected.size()) {
    return testing::AssertionFailure() << fmt::format("{} values, expected {}", actual.size(), expected.size());
  }
  const auto same = [](float a, float b) { return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b); };
  const auto [at_actual, at_expected] = std::mismatch(actual.begin(), actual.end(), expected.begin(), same);
  if (at_actual == actual.end()) return testing::AssertionSuccess();
  return testing::AssertionFailure() << fmt::format("bits differ first at index {}: {:.9g}, expected {:.9g}",
                                                    at_actual - actual.begin(), *at_actual, *at_expected);
}

inline void expect_close(std::span<const float> actual, std::span<const float> expected, double tolerance) {
  EXPECT_TRUE(is_close(actual, expected, tolerance));
}
inline void expect_close(View<const float> actual, View<const float> expected, double tolerance) {
  EXPECT_TRUE(is_close(actual, expected, tolerance));
}
inline void expect_same_bits(std::span<const float> actual, std::span<const float> expected) {
  EXPECT_TRUE(same_bits(actual, expected));
}

// The largest magnitude: what tolerances are scaled by.
inline double max_abs(std::span<const float> values) {
  double largest = 0;
  for (float value : values) largest = std::max(largest, std::abs(static_cast<double>(value)));
  return largest;
}

}  // namespace qnext
