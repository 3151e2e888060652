#pragma once
// Test only: the raw files of tests/data/formats (written by tools/make_format_goldens.py).

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "tensor/dtype.h"

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

inline std::string dtype_test_name(const testing::TestParamInfo<DType>& info) {
  return std::string(dtype_info(info.param).name);
}

}  // namespace qnext
