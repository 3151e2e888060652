#pragma once
// Test only: what the tests of both kinds of products share.

#include <cstddef>
#include <vector>

#include "kernels/float_product.h"

namespace qnext {

struct ProductSizes {
  std::size_t rows, depth, columns;
};

inline ProductFactor test_factor(const std::vector<float>& values, std::size_t depth, std::size_t side,
                                 bool depth_is_inner) {
  return {values.data(), depth, side, depth_is_inner ? 1 : side, depth_is_inner ? depth : 1};
}

}  // namespace qnext
