#include "model/tensor_reader.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/units.h"
#include "tensor/block_formats.h"

namespace qnext {
namespace {

bool is_matrix_type(DType type) {
  return type != DType::kI32 && type != DType::kI64 && type != DType::kU8 && type != DType::kI16;
}

// Equal but for axes of one element: [C, 1, 4] is [C, 4].
bool same_extents(std::span<const std::size_t> found, std::span<const std::size_t> expected) {
  std::vector<std::size_t> a, b;
  std::copy_if(found.begin(), found.end(), std::back_inserter(a), [](std::size_t extent) { return extent != 1; });
  std::copy_if(expected.begin(), expected.end(), std::back_inserter(b), [](std::size_t extent) { return extent != 1; });
  return a == b;
}

}  // namespace

std::string TensorReader::where(const std::string& name) const {
  const TensorEntry* entry = tensors_.find(name);
  return fmt::format("{}: tensor {}", file_names_[entry == nullptr ? 0 : entry->file_idx], printable(name));
}

Result<const TensorEntry*> TensorReader::take(const std::string& name, std::span<const std::size_t> shape) {
  const TensorEntry* entry = tensors_.find(name);
  if (entry == nullptr) {
    return error("{}: expected it with shape {}, found none", where(name), shape_text(shape));
  }
  if (!same_extents(entry->shape, shape)) {
    return error("{}: expected shape {} by the config, found {}", where(name), shape_text(shape),
                 shape_text(entry->shape));
  }
  if (!is_matrix_type(entry->type)) {
    return error("{}: expected a type of floats or quantised floats, found {}", where(name),
                 dtype_info(entry->type).name);
  }
  if (!taken_.insert(name).second) QN_CHECK(false, "tensor {} taken twice", name);
  return entry;
}

// Of a tensor whose axes of one element were passed over: [1, 64] may hold blocks that [64, 1] cannot.
Status TensorReader::expect_whole_blocks(const TensorEntry& entry, std::size_t cols) const {
  const DTypeInfo& info = dtype_info(entry.type);
  if (cols % info.block_elements == 0) return success();
  return error("{}: expected a multiple of {} columns for {}, found {}", where(entry.name), info.block_elements,
               info.name, cols);
}

Result<Weight> TensorReader::matrix(const std::string& name, std::size_t rows, std::size_t cols) {
  const std::size_t shape[] = {rows, cols};
  QN_TRY(const TensorEntry* entry, take(name, shape));
  QN_RETURN_IF_ERROR(expect_whole_blocks(*entry, cols));
  Weight w = make_weight(entry->type, rows, cols, entry->data);
  if (w.type == DType::kF8E4M3) QN_RETURN_IF_ERROR(attach_fp8_scales(w, name));
  matrix_bytes_ += w.bytes();
  return w;
}

Status TensorReader::attach_fp8_scales(Weight& w, const std::string& name) {
  const std::string scales_name = name + "_scale_inv";
  const std::size_t scale_rows = ceil_div(w.rows, kFp8ScaleBlock);
  const std::size_t scale_cols = ceil_div(w.cols, kFp8ScaleBlock);
  QN_TRY(const Vector scales, vector(scales_name, {scale_rows, scale_cols}));
  std::byte* bytes = owned_.allocate(scales.size() * sizeof(float));
  std::memcpy(bytes, scales.data(), scales.size() * sizeof(float));
  w.block_scales = reinterpret_cast<const float*>(bytes);
  w.scales_per_row = scale_cols;
  return success();
}

Result<std::vector<Weight>> TensorReader::stacked(const std::string& name, std::size_t num_matrices, std::size_t rows,
                                                  std::size_t cols) {
  const std::size_t shape[] = {num_matrices, rows, cols};
  QN_TRY(const TensorEntry* entry, take(name, shape));
  if (entry->type == DType::kF8E4M3) {
    return error("{}: expected stacked experts of a type with its scales inside, found {}", where(name),
                 dtype_info(entry->type).name);
  }
  QN_RETURN_IF_ERROR(expect_whole_blocks(*entry, cols));
  const Weight all = make_weight(entry->type, num_matrices * rows, cols, entry->data);
  matrix_bytes_ += all.bytes();
  std::vector<Weight> out;
  out.reserve(num_matrices);
  for (std::size_t i = 0; i < num_matrices; ++i) out.push_back(all.slice_rows(i * rows, (i + 1) * rows));
  return out;
}

Result<Vector> TensorReader::vector(const std::string& name, std::initializer_list<std::size_t> shape, float offset) {
  QN_TRY(const TensorEntry* entry, take(name, std::span(shape.begin(), shape.size())));
  std::size_t count = 1;
  for (std::size_t extent : shape) count *= extent;
  Vector out(count);
  decode_blocks(out.data(), entry->data, entry->type, count);
  for (float& value : out) {
    value += offset;
    if (!std::isfinite(value)) return error("{}: expected finite numbers, found {}", where(name), value);
  }
  return out;
}

Result<Weight> TensorReader::gather_rows(const Weight& w, std::span<const std::size_t> row_order) {
  Weight out = w;
  out.rows = row_order.size();
  // FP8 rows lie under the scales of their block of 128, which a reordering would tear: as f32 every row stands alone.
  const bool to_f32 = w.type == DType::kF8E4M3;
  if (to_f32) {
    out.type = DType::kF32;
    out.row_bytes = w.cols * sizeof(float);
    out.block_scales = nullptr;
    out.scales_per_row = 0;
  }
  std::byte* bytes = owned_.allocate(out.bytes());
  out.data = bytes;
  Vector row(to_f32 ? w.cols : 0);
  for (std::size_t i = 0; i < row_order.size(); ++i) {
    if (to_f32) decode_row(row.data(), w, row_order[i]);
    std::memcpy(bytes + i * out.row_bytes, to_f32 ? static_cast<const void*>(row.data()) : w.row(row_order[i]),
                out.row_bytes);
  }
  return out;
}

Status TensorReader::expect_all_taken() const {
  for (const TensorEntry& entry : tensors_.entries()) {
    if (!taken_.contains(entry.name)) {
      return error(
          "{}: expected no such tensor by the config, found shape {}; is this checkpoint of another architecture, or "
          "its config of another checkpoint?",
          where(entry.name), shape_text(entry.shape));
    }
  }
  return success();
}

Vector transposed(std::span<const float> matrix, std::size_t rows, std::size_t cols) {
  Vector out(matrix.size());
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t col = 0; col < cols; ++col) out[col * rows + row] = matrix[row * cols + col];
  }
  return out;
}

std::vector<std::size_t> qkv_row_order(const ModelConfig& config) {
  const std::size_t r = config.Hv / config.Hk;
  const std::size_t group_rows = 2 * config.Dk + 2 * r * config.Dv;
  std::vector<std::size_t> order;
  order.reserve(config.C());
  const auto append = [&](std::size_t first_row, std::size_t num_rows) {
    for (std::size_t group_idx = 0; group_idx < config.Hk; ++group_idx) {
      for (std::size_t i = 0; i < num_rows; ++i) order.push_back(group_idx * group_rows + first_row + i);
    }
  };
  append(0, config.Dk);
  append(config.Dk, config.Dk);
  append(2 * config.Dk, r * config.Dv);
  return order;
}

std::vector<std::size_t> z_row_order(const ModelConfig& config) {
  const std::size_t r = config.Hv / config.Hk;
  const std::size_t group_rows = 2 * config.Dk + 2 * r * config.Dv;
  std::vector<std::size_t> order;
  order.reserve(config.Hv * config.Dv);
  for (std::size_t group_idx = 0; group_idx < config.Hk; ++group_idx) {
    for (std::size_t i = 0; i < r * config.Dv; ++i) {
      order.push_back(group_idx * group_rows + 2 * config.Dk + r * config.Dv + i);
    }
  }
  return order;
}

std::vector<std::size_t> ba_row_order(const ModelConfig& config) {
  const std::size_t r = config.Hv / config.Hk;
  std::vector<std::size_t> order;
  order.reserve(2 * config.Hv);
  for (std::size_t half : {std::size_t{0}, r}) {
    for (std::size_t head = 0; head < config.Hv; ++head) order.push_back(head / r * 2 * r + half + head % r);
  }
  return order;
}

}  // namespace qnext
