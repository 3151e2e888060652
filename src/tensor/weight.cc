#include "tensor/weight.h"

namespace qnext {

Weight make_weight(DType type, std::size_t rows, std::size_t cols, const std::byte* data) {
  return Weight{.type = type, .rows = rows, .cols = cols, .data = data, .row_bytes = dtype_bytes(type, cols)};
}

}  // namespace qnext
