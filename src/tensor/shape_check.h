#pragma once
// Executable shapes: what a comment would say of a tensor's axes, checked.
//   Shapes s;
//   s.match(q, {"T", "Hk", "Dk"});
//   s.match(state, {"Hv", "Dk", "Dv"});   // aborts when this Dk is not q's

#include <array>
#include <cstddef>
#include <initializer_list>
#include <span>
#include <string_view>

#include "base/result.h"
#include "tensor/tensor_entry.h"
#include "tensor/view.h"
#include "tensor/weight.h"

namespace qnext {

// Sizes by symbol: the first match of a symbol binds it, later ones must agree. Symbols are string literals (kept by
// reference), at most kMaxSymbols of them. No allocation; a match costs a comparison per axis and known symbol.
class Shapes {
 public:
  static constexpr std::size_t kMaxSymbols = 24;
  using Symbols = std::initializer_list<std::string_view>;

  template <class T>
  Shapes& match(const View<T>& view, Symbols symbols) {
    std::array<std::size_t, View<T>::kMaxRank> dims;
    for (std::size_t axis = 0; axis < view.rank(); ++axis) dims[axis] = view.dim(axis);
    return match_dims({dims.data(), view.rank()}, symbols);
  }
  Shapes& match(const Weight& weight, Symbols symbols) {
    const std::array<std::size_t, 2> dims = {weight.rows, weight.cols};
    return match_dims(dims, symbols);
  }
  Shapes& bind(std::string_view symbol, std::size_t extent) { return match_dims({&extent, 1}, {symbol}); }

  std::size_t operator[](std::string_view symbol) const;  // aborts on a symbol that nothing bound

 private:
  struct Binding {
    std::string_view symbol;
    std::size_t extent = 0;
  };
  Shapes& match_dims(std::span<const std::size_t> dims, Symbols symbols);
  const Binding* find(std::string_view symbol) const;

  std::array<Binding, kMaxSymbols> bindings_{};
  std::size_t num_bindings_ = 0;
};

// For tensors of files. `where` begins the error: the file, or what the tensor is wanted for.
Status expect_shape(const TensorEntry& entry, std::initializer_list<std::size_t> shape, std::string_view where);

}  // namespace qnext
