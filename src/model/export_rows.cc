#include "model/export_rows.h"

#include <algorithm>
#include <cstring>

#include "tensor/block_formats.h"

namespace qnext {

void RowList::append_run(const Weight& weight, Range rows) {
  if (rows.empty()) return;
  QN_CHECK(runs_.empty() || weight.cols == cols(), "{} columns after {}", weight.cols, cols());
  const std::size_t begin = num_rows();
  runs_.push_back({.weight = weight, .first_row = rows.begin, .begin = begin, .end = begin + rows.count()});
}

void RowList::append(const RowList& rows) {
  for (const Run& run : rows.runs_) append_run(run.weight, {run.first_row, run.first_row + run.end - run.begin});
}

RowList RowList::slice(Range rows) const {
  QN_CHECK(rows.begin <= rows.end && rows.end <= num_rows(), "rows [{}, {}) of {}", rows.begin, rows.end, num_rows());
  RowList out;
  for (const Run& run : runs_) {
    const std::size_t begin = std::max(rows.begin, run.begin);
    const std::size_t end = std::min(rows.end, run.end);
    if (begin < end) out.append_run(run.weight, {run.first_row + begin - run.begin, run.first_row + end - run.begin});
  }
  return out;
}

std::optional<DType> RowList::common_type() const {
  if (runs_.empty()) return std::nullopt;
  const DType type = runs_.front().weight.type;
  const bool same = std::all_of(runs_.begin(), runs_.end(), [&](const Run& run) { return run.weight.type == type; });
  if (!same || type == DType::kF8E4M3) return std::nullopt;
  return type;
}

template <class Visit>
void RowList::for_each_row(Range rows, Visit visit) const {
  QN_CHECK(rows.end <= num_rows(), "rows [{}, {}) of {}", rows.begin, rows.end, num_rows());
  auto run = std::upper_bound(runs_.begin(), runs_.end(), rows.begin,
                              [](std::size_t row_idx, const Run& candidate) { return row_idx < candidate.end; });
  for (std::size_t row_idx = rows.begin; row_idx < rows.end; ++row_idx) {
    if (row_idx == run->end) ++run;
    visit(run->weight, run->first_row + row_idx - run->begin);
  }
}

void RowList::decode(float* out, Range rows) const {
  for_each_row(rows, [&](const Weight& weight, std::size_t row_idx) {
    decode_row(out, weight, row_idx);
    out += weight.cols;
  });
}

void RowList::copy_bytes(std::byte* out, Range rows) const {
  for_each_row(rows, [&](const Weight& weight, std::size_t row_idx) {
    std::memcpy(out, weight.row(row_idx), weight.row_bytes);
    out += weight.row_bytes;
  });
}

}  // namespace qnext
