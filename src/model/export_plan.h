#pragma once
// ExportPlan: what a conversion will write, tensor by tensor, before anything is written; and the writing itself.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <vector>

#include "base/function_ref.h"
#include "base/result.h"
#include "base/thread_pool.h"
#include "model/export_rows.h"
#include "model/export_source.h"
#include "model/export_types.h"
#include "tensor/gguf_writer.h"
#include "tensor/tensor_entry.h"

namespace qnext {

struct ExportTensor {
  TensorSpec spec;  // what to write
  RowList rows;     // from what
  ValueForm stored = ValueForm::kPlain;
  ValueForm wanted = ValueForm::kPlain;
};

struct ExportPlan {
  const ExportSource* source = nullptr;  // whose rows these are; outlives the plan
  std::vector<ExportTensor> tensors;     // in file order
  std::uint64_t total_bytes = 0;
};

// GGUF: names, order and shapes of llama.cpp's converter; norms with their 1, -exp(A_log), in_proj_qkvz ungrouped,
// experts stacked. Errors: choose_gguf_types()'s.
Result<ExportPlan> plan_gguf(const ExportSource& source, const GgufTypeRules& rules);

// safetensors: the released names in sorted order, one type for all; the changes above undone.
// What comes back: a GGUF holds w + 1 and -exp(A_log) in f32, which is exact for w down to 2^-16 and within an ulp of
// 2^-23 for the exponential. So bf16 numbers from 2^-14 on return to the bit, and smaller ones within 2^-22.
ExportPlan plan_safetensors(const ExportSource& source, DType type);

// Told of the bytes written so far and of all; returns false to stop.
using ExportProgress = FunctionRef<bool(std::uint64_t done_bytes, std::uint64_t total_bytes)>;

// Converts the plan's tensors in order and writes them; the files appear whole or not at all. Rows that are already of
// the right type and form are copied as they lie. Memory: about 60 MB, whatever the tensors' sizes: of the mapped
// source no more stays resident than is being read. Uses all threads of the pool; the time goes into encode_blocks()
// (quantize.h) or the disk. Errors: a number that is not finite, or that the type cannot hold (names the tensor);
// stopped; the writers' (not enough space, which is asked before the work begins; I/O).

// `header` has the metadata; the tensors are added to it here.
Status export_gguf(const std::filesystem::path& path, GgufHeader header, const ExportPlan& plan, ThreadPool& pool,
                   ExportProgress progress);

// `folder` exists. Above 5 GB in shards with an index, as Hugging Face does.
Status export_safetensors(const std::filesystem::path& folder, const ExportPlan& plan, ThreadPool& pool,
                          ExportProgress progress);

}  // namespace qnext
