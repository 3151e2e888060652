#pragma once
// RowList: a matrix that lies in no file as such: rows of one or more weights, one after the other. Regrouped
// projections, stacked experts and cut-out experts are all this, and nothing is copied until rows are decoded.

#include <cstddef>
#include <optional>
#include <vector>

#include "base/units.h"
#include "tensor/weight.h"

namespace qnext {

class RowList {
 public:
  RowList() = default;
  explicit RowList(const Weight& weight) { append_run(weight, {0, weight.rows}); }

  void append(const RowList& rows);  // of as many columns
  RowList slice(Range rows) const;   // [begin, end) of this list

  std::size_t num_rows() const { return runs_.empty() ? 0 : runs_.back().end; }
  std::size_t cols() const { return runs_.empty() ? 0 : runs_.front().weight.cols; }

  // The element type when all rows have it and need no scales from outside (FP8's): such rows may be copied as bytes.
  std::optional<DType> common_type() const;

  // out: rows [begin, end) as f32, FP8 scales applied, row after row. Cost: one pass over their bytes.
  void decode(float* out, Range rows) const;

  // out: the bytes of rows [begin, end), row after row. Requires a common_type().
  void copy_bytes(std::byte* out, Range rows) const;

 private:
  struct Run {
    Weight weight;
    std::size_t first_row = 0;  // of the weight
    std::size_t begin = 0;      // [begin, end) of the list
    std::size_t end = 0;
  };
  void append_run(const Weight& weight, Range rows);

  // Calls visit(weight, row_idx) for each row of the range.
  template <class Visit>
  void for_each_row(Range rows, Visit visit) const;

  std::vector<Run> runs_;
};

}  // namespace qnext
