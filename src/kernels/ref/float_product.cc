#include "kernels/float_product.h"

namespace qnext {
namespace {

constexpr std::size_t kWidth = 4;

void pack(float* out, const ProductFactor& b, std::size_t begin_panel, std::size_t end_panel) {
  for (std::size_t panel = begin_panel; panel < end_panel; ++panel) {
    for (std::size_t k = 0; k < b.depth; ++k) {
      for (std::size_t i = 0; i < kWidth; ++i) {
        const std::size_t column = panel * kWidth + i;
        out[(panel * b.depth + k) * kWidth + i] =
            column < b.side ? b.data[k * b.depth_stride + column * b.side_stride] : 0.0f;
      }
    }
  }
}

void multiply(float* out, std::size_t out_stride, const ProductFactor& a, const ProductPanels& b, float scale,
              bool add) {
  for (std::size_t i = 0; i < a.side; ++i) {
    for (std::size_t j = 0; j < b.side; ++j) {
      const float* column = b.data + j / kWidth * b.panel_stride + j % kWidth;
      double sum = 0;
      for (std::size_t k = 0; k < a.depth; ++k) {
        sum += static_cast<double>(a.data[k * a.depth_stride + i * a.side_stride]) * column[k * b.depth_stride];
      }
      float& to = out[i * out_stride + j];
      to = static_cast<float>(scale * sum) + (add ? to : 0.0f);
    }
  }
}

}  // namespace

const FloatProducts& plain_float_products() {
  static constexpr FloatProducts products = {"plain", kWidth, kWidth, pack, multiply};
  return products;
}

}  // namespace qnext
