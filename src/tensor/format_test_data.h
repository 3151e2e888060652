#pragma once
// Test only: the raw files of tests/data/formats (written by tools/make_format_goldens.py), random rows, round trips.

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "tensor/block_formats.h"
#include "tensor/dtype.h"
#include "tensor/quantize.h"

namespace qnext {

// The whole file as elements of type T; empty, with a test failure, where it cannot be read.
template <class T>
inline std::vector<T> load_format_data(const std::string& file_name) {
  const std::string path = std::string(QNEXT_SOURCE_DIR) + "/tests/data/formats/" + file_name;
  std::ifstream file(path, std::ios::binary);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
  EXPECT_FALSE(bytes.empty()) << path;
  std::vector<T> elements(bytes.size() / sizeof(T));
  std::memcpy(elements.data(), bytes.data(), elements.size() * sizeof(T));
  return elements;
}

// Every type that decode_blocks and encode_blocks know as a block format.
inline constexpr DType kBlockTypes[] = {DType::kQ4_0,   DType::kQ4_1,   DType::kQ5_0, DType::kQ5_1, DType::kQ8_0,
                                        DType::kQ2_K,   DType::kQ3_K,   DType::kQ4_K, DType::kQ5_K, DType::kQ6_K,
                                        DType::kIQ4_NL, DType::kIQ4_XS, DType::kMXFP4};

inline std::vector<float> normal_values(std::size_t num_elements, float deviation, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, deviation);
  std::vector<float> values(num_elements);
  for (float& value : values) value = normal(random);
  return values;
}

// What `values` decode to after they were encoded.
inline std::vector<float> round_trip(const std::vector<float>& values, DType type,
                                     const std::vector<float>& importance = {}) {
  std::vector<std::byte> blocks(dtype_bytes(type, values.size()));
  encode_blocks(blocks.data(), values.data(), type, values.size(), importance.empty() ? nullptr : importance.data());
  std::vector<float> decoded(values.size());
  decode_blocks(decoded.data(), blocks.data(), type, values.size());
  return decoded;
}

// Sum of squared differences, in f64; with weights where they are given.
inline double squared_error(const std::vector<float>& a, const std::vector<float>& b,
                            const std::vector<float>& weights = {}) {
  double total = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double difference = static_cast<double>(a[i]) - static_cast<double>(b[i]);
    total += difference * difference * (weights.empty() ? 1.0 : static_cast<double>(weights[i]));
  }
  return total;
}

inline std::string dtype_test_name(const testing::TestParamInfo<DType>& info) {
  return std::string(dtype_info(info.param).name);
}

}  // namespace qnext
