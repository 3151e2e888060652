#pragma once
// Test only: a small tensor that owns exactly its elements, so that a sanitizer sees every overread.

#include <initializer_list>
#include <limits>
#include <span>
#include <vector>

#include "kernels/random_weight.h"
#include "tensor/view.h"

namespace qnext {

struct Tensor {
  std::vector<float> values;
  View<float> view;

  Tensor(std::initializer_list<std::size_t> dims, float fill) : values(product(dims), fill) {
    view = View<float>(values.data(), dims);
  }
  Tensor(std::initializer_list<std::size_t> dims, std::vector<float> elements) : values(std::move(elements)) {
    QN_CHECK(values.size() == product(dims), "{} values for {} elements", values.size(), product(dims));
    view = View<float>(values.data(), dims);
  }
  Tensor(const Tensor& other) : values(other.values), view(other.view_of(values.data())) {}
  Tensor& operator=(const Tensor&) = delete;

  operator View<float>() const { return view; }        // NOLINT(google-explicit-constructor)
  operator View<const float>() const { return view; }  // NOLINT(google-explicit-constructor)
  std::size_t dim(std::size_t axis) const { return view.dim(axis); }

 private:
  static std::size_t product(std::initializer_list<std::size_t> dims) {
    std::size_t count = 1;
    for (std::size_t extent : dims) count *= extent;
    return count;
  }
  View<float> view_of(float* data) const {
    switch (view.rank()) {
      case 1:
        return {data, {view.dim(0)}};
      case 2:
        return {data, {view.dim(0), view.dim(1)}};
      case 3:
        return {data, {view.dim(0), view.dim(1), view.dim(2)}};
      default:
        return {data, {view.dim(0), view.dim(1), view.dim(2), view.dim(3)}};
    }
  }
};

inline Tensor random_tensor(std::initializer_list<std::size_t> dims, std::uint32_t seed, float scale = 1.0f) {
  Tensor tensor(dims, 0.0f);
  tensor.values = random_floats(tensor.values.size(), seed);
  for (float& value : tensor.values) value *= scale;
  tensor.view = View<float>(tensor.values.data(), dims);
  return tensor;
}

inline constexpr double kEpsilon = 0x1p-24;  // of f32: half the gap above 1

// What an output must not contain where a kernel had nothing to write.
inline constexpr float kUntouched = -12345.0f;

}  // namespace qnext
