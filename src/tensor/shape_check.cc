#include "tensor/shape_check.h"

#include <algorithm>

namespace qnext {

const Shapes::Binding* Shapes::find(std::string_view symbol) const {
  for (std::size_t i = 0; i < num_bindings_; ++i) {
    if (bindings_[i].symbol == symbol) return &bindings_[i];
  }
  return nullptr;
}

Shapes& Shapes::match_dims(std::span<const std::size_t> dims, Symbols symbols) {
  QN_CHECK(dims.size() == symbols.size(), "expected [{}], found {}", fmt::join(symbols, ", "), shape_text(dims));
  std::size_t axis = 0;
  for (const std::string_view symbol : symbols) {
    const std::size_t extent = dims[axis++];
    if (const Binding* bound = find(symbol); bound != nullptr) {
      QN_CHECK(bound->extent == extent, "[{}] with {} = {}, found {}", fmt::join(symbols, ", "), symbol, bound->extent,
               shape_text(dims));
      continue;
    }
    QN_CHECK(num_bindings_ < kMaxSymbols, "symbol {} is one too many", symbol);
    bindings_[num_bindings_++] = {symbol, extent};
  }
  return *this;
}

std::size_t Shapes::operator[](std::string_view symbol) const {
  const Binding* bound = find(symbol);
  QN_CHECK(bound != nullptr, "nothing has bound {}", symbol);
  return bound->extent;
}

Status expect_shape(const TensorEntry& entry, std::initializer_list<std::size_t> shape, std::string_view where) {
  if (std::equal(shape.begin(), shape.end(), entry.shape.begin(), entry.shape.end())) return success();
  return error("{}: tensor '{}': expected shape {}, found {}", where, printable(entry.name),
               shape_text({shape.begin(), shape.size()}), shape_text(entry.shape));
}

}  // namespace qnext
