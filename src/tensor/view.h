#pragma once
// View: memory with a shape, owned elsewhere. Row-major with strides in elements; rank 1 to 4; cheap to copy.

#include <array>
#include <cstddef>
#include <initializer_list>
#include <type_traits>

#include "base/check.h"

namespace qnext {

template <class T>
class View {
 public:
  static constexpr std::size_t kMaxRank = 4;

  View() = default;

  // A contiguous view of `data` with these dimensions, slowest first.
  View(T* data, std::initializer_list<std::size_t> dims) : data_(data), rank_(dims.size()) {
    QN_CHECK(rank_ >= 1 && rank_ <= kMaxRank, "rank {}", rank_);
    std::size_t axis = 0;
    for (std::size_t extent : dims) dims_[axis++] = extent;
    std::size_t stride = 1;
    for (std::size_t i = rank_; i-- > 0;) {
      strides_[i] = stride;
      stride *= dims_[i];
    }
  }

  // View<float> reads as View<const float>.
  template <class U>
  requires(std::is_same_v<const U, T> && !std::is_same_v<U, T>)
      View(const View<U>& other)  // NOLINT(google-explicit-constructor)
      : data_(other.data_), rank_(other.rank_), dims_(other.dims_), strides_(other.strides_) {}

  T* data() const { return data_; }
  std::size_t rank() const { return rank_; }
  std::size_t dim(std::size_t axis) const { return dims_[axis]; }
  std::size_t stride(std::size_t axis) const { return strides_[axis]; }
  std::size_t num_elements() const {
    std::size_t total = 1;
    for (std::size_t i = 0; i < rank_; ++i) total *= dims_[i];
    return rank_ == 0 ? 0 : total;
  }
  bool contiguous() const {
    std::size_t stride = 1;
    for (std::size_t i = rank_; i-- > 0;) {
      if (dims_[i] != 1 && strides_[i] != stride) return false;
      stride *= dims_[i];
    }
    return true;
  }

  // Element access, by as many indices as the rank; and a pointer to a row of the leading axes.
  T& operator()(std::size_t i) const { return data_[i * strides_[0]]; }
  T& operator()(std::size_t i, std::size_t j) const { return data_[i * strides_[0] + j * strides_[1]]; }
  T& operator()(std::size_t i, std::size_t j, std::size_t k) const {
    return data_[i * strides_[0] + j * strides_[1] + k * strides_[2]];
  }
  T* row(std::size_t i) const { return data_ + i * strides_[0]; }
  T* row(std::size_t i, std::size_t j) const { return data_ + i * strides_[0] + j * strides_[1]; }

  // [begin, end) of one axis; the rank stays.
  View slice(std::size_t axis, std::size_t begin, std::size_t end) const {
    QN_CHECK(axis < rank_ && begin <= end && end <= dims_[axis], "slice [{}, {}) of axis {} of {}", begin, end, axis,
             axis < rank_ ? dims_[axis] : 0);
    View out = *this;
    out.data_ += begin * strides_[axis];
    out.dims_[axis] = end - begin;
    return out;
  }

  // The last axis cut into [.., parts, dim/parts].
  View split_last(std::size_t parts) const {
    QN_CHECK(rank_ < kMaxRank && parts > 0 && dims_[rank_ - 1] % parts == 0, "{} parts of {}", parts, dims_[rank_ - 1]);
    View out = *this;
    out.dims_[rank_] = dims_[rank_ - 1] / parts;
    out.strides_[rank_] = strides_[rank_ - 1];
    out.dims_[rank_ - 1] = parts;
    out.strides_[rank_ - 1] = out.dims_[rank_] * strides_[rank_ - 1];
    ++out.rank_;
    return out;
  }

  // The last two axes as one. Requires that they lie densely.
  View merge_last() const {
    QN_CHECK(rank_ >= 2 && strides_[rank_ - 2] == dims_[rank_ - 1] * strides_[rank_ - 1], "axes not dense: stride {}",
             strides_[rank_ - 2]);
    View out = *this;
    out.dims_[rank_ - 2] *= dims_[rank_ - 1];
    out.strides_[rank_ - 2] = strides_[rank_ - 1];
    --out.rank_;
    return out;
  }

 private:
  template <class U>
  friend class View;

  T* data_ = nullptr;
  std::size_t rank_ = 0;
  std::array<std::size_t, kMaxRank> dims_{};
  std::array<std::size_t, kMaxRank> strides_{};
};

}  // namespace qnext
