#pragma once
// TensorReader: takes tensors out of a checkpoint by name, checks each against what the config demands, and knows at
// the end which ones nobody asked for.

#include <set>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "model/weights.h"
#include "tensor/tensor_entry.h"

namespace qnext {

class TensorReader {
 public:
  // file_names: of the checkpoint, by TensorEntry::file_idx.
  TensorReader(const TensorTable& tensors, std::span<const std::string> file_names, OwnedBytes& owned)
      : tensors_(tensors), file_names_(file_names), owned_(owned) {}

  bool has(const std::string& name) const { return tensors_.find(name) != nullptr; }

  // A matrix [rows, cols] of any weight type, in place. FP8 matrices bring their block scales ("NAME_scale_inv").
  Result<Weight> matrix(const std::string& name, std::size_t rows, std::size_t cols);

  // num_matrices matrices stacked along the first axis: [num_matrices, rows, cols].
  Result<std::vector<Weight>> stacked(const std::string& name, std::size_t num_matrices, std::size_t rows,
                                      std::size_t cols);

  // A small tensor converted to f32, plus `offset`. Any shape with these extents, ignoring axes of 1. Error, besides
  // those of every tensor: a value that is not finite.
  Result<Vector> vector(const std::string& name, std::initializer_list<std::size_t> shape, float offset = 0.0f);

  // "FILE: tensor NAME", the file being the shard that holds it, or the first one when none does.
  std::string where(const std::string& name) const;

  // A copy of `w` with row i taken from row_order[i].
  Result<Weight> gather_rows(const Weight& w, std::span<const std::size_t> row_order);

  // Marks a tensor as known but unused.
  void ignore(const std::string& name) { taken_.insert(name); }

  // Error: some tensor was never asked for.
  Status expect_all_taken() const;

  std::size_t matrix_bytes() const { return matrix_bytes_; }

 private:
  Result<const TensorEntry*> take(const std::string& name, std::span<const std::size_t> shape);
  Status expect_whole_blocks(const TensorEntry& entry, std::size_t cols) const;
  Status attach_fp8_scales(Weight& w, const std::string& name);

  const TensorTable& tensors_;
  std::span<const std::string> file_names_;
  OwnedBytes& owned_;
  std::set<std::string, std::less<>> taken_;
  std::size_t matrix_bytes_ = 0;
};

// [rows, cols] -> [cols, rows].
Vector transposed(std::span<const float> matrix, std::size_t rows, std::size_t cols);

// Row orders that turn the checkpoint's per-key-head groups into the network's order (weights.h).
// in_proj_qkvz has Hk groups of (Dk q, Dk k, r*Dv v, r*Dv z), in_proj_ba Hk groups of (r b, r a); r = Hv/Hk.
std::vector<std::size_t> qkv_row_order(const ModelConfig& config);  // [C] rows of in_proj_qkvz
std::vector<std::size_t> z_row_order(const ModelConfig& config);    // [Hv * Dv] rows of in_proj_qkvz
std::vector<std::size_t> ba_row_order(const ModelConfig& config);   // [2 * Hv] rows of in_proj_ba

}  // namespace qnext
