#pragma once
// Products of float32 matrices of which both change from product to product, as training has them: on the calling
// thread, near the roof for small matrices, too.
//
//   Format    the right factor is read by panels of `panel_width` columns: a packed one has them one after the other,
//             each [depth][panel_width], zero beyond the last column; one whose rows lie in memory may be read in
//             place.
//   Order     a sum takes its terms in the depth's order, blocks of kProductDepth after each other, so that it depends
//             neither on the matrix's other rows and columns nor on how they are cut. Multiply-adds are fused where the
//             instruction set has them.
//   Source    the blocking is Goto and van de Geijn's (2008).

#include <cstddef>
#include <span>

#include "base/units.h"

namespace qnext {

inline constexpr std::size_t kProductDepth = 256;

// Element (k, i) of a factor, k along the depth, at data + k * depth_stride + i * side_stride; one stride is 1.
struct ProductFactor {
  const float* data = nullptr;
  std::size_t depth = 0, side = 0;
  std::size_t depth_stride = 0, side_stride = 0;
};

// A right factor as multiply() reads it: column c of panel p at data + p * panel_stride + k * depth_stride + c.
struct ProductPanels {
  const float* data = nullptr;
  std::size_t side = 0;
  std::size_t depth_stride = 0, panel_stride = 0;
};

struct FloatProducts {
  const char* name;         // of the instruction set
  std::size_t panel_width;  // a whole number of vectors
  std::size_t vector_width;

  // Panels [begin_panel, end_panel) of the right factor, each in its place in `out` (packed_size() values).
  void (*pack)(float* out, const ProductFactor& b, std::size_t begin_panel, std::size_t end_panel);

  // out[i, j] = scale * sum over k of a(k, i) b(k, j), plus what was there when `add`. out: [a.side, b.side], rows
  // `out_stride` apart; it overlaps neither factor. Reads and writes nothing beyond the matrices.
  void (*multiply)(float* out, std::size_t out_stride, const ProductFactor& a, const ProductPanels& b, float scale,
                   bool add);

  std::size_t num_panels(std::size_t side) const { return ceil_div(side, panel_width); }
  std::size_t packed_size(std::size_t depth, std::size_t side) const { return depth * num_panels(side) * panel_width; }
  ProductPanels packed_panels(const float* packed, std::size_t depth, std::size_t side) const {
    return {packed, side, panel_width, depth * panel_width};
  }
  // Whether multiply() may read it where it is.
  bool is_readable_in_place(const ProductFactor& b) const { return b.side_stride == 1 && b.side % vector_width == 0; }
  ProductPanels panels_in_place(const ProductFactor& b) const { return {b.data, b.side, b.depth_stride, panel_width}; }
};

// Plain C++: what the others are tested against.
const FloatProducts& plain_float_products();

// One for each instruction set that the CPU has, the plain one first and the best last.
std::span<const FloatProducts> available_float_products();

}  // namespace qnext
