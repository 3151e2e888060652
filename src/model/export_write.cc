// The conversion itself: decode, change the form, encode, a batch of rows at a time.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

#include "base/check.h"
#include "base/units.h"
#include "model/export_plan.h"
#include "tensor/quantize.h"
#include "tensor/safetensors_writer.h"

namespace qnext {
namespace {

constexpr std::size_t kBatchElements = std::size_t{4} << 20;  // f32 and encoded: 16 MB and at most as much
constexpr std::uint64_t kMaxShardBytes = 5'000'000'000;       // what Hugging Face's tools cut at
constexpr std::size_t kTaskElements = std::size_t{1} << 15;   // what one thread takes at a time

// With zero-centred weights small against 1, the sum is rounded once, as in llama.cpp's converter.
float plain_of(float value, ValueForm stored) {
  switch (stored) {
    case ValueForm::kPlain:
      return value;
    case ValueForm::kMinusOne:
      return value + 1.0f;
    case ValueForm::kLog:
      return -std::exp(value);
  }
  return value;
}

float form_of(float plain, ValueForm wanted) {
  switch (wanted) {
    case ValueForm::kPlain:
      return plain;
    case ValueForm::kMinusOne:
      return plain - 1.0f;
    case ValueForm::kLog:  // in f64: near A_log = 0 the result is all that the logarithm's last places hold
      return static_cast<float>(std::log(-static_cast<double>(plain)));
  }
  return plain;
}

// Magnitudes from here on round to infinity.
float overflow_threshold(DType type) {
  switch (type) {
    case DType::kF16:
      return 65520.0f;
    case DType::kBF16:
      return 0x1.ffp127f;
    default:
      return std::numeric_limits<float>::infinity();
  }
}

// Element bits that some rows hold and the destination cannot; kept over a tensor's threads.
struct Trouble {
  std::atomic<bool> not_finite{false};
  std::atomic<bool> too_large{false};
};

class TensorExport {
 public:
  TensorExport(const ExportTensor& tensor, ThreadPool& pool)
      : tensor_(tensor),
        pool_(pool),
        cols_(tensor.rows.cols()),
        row_bytes_(dtype_bytes(tensor.spec.type, cols_)),
        verbatim_(tensor.stored == tensor.wanted && tensor.rows.common_type() == tensor.spec.type) {
    QN_CHECK(cols_ > 0, "tensor {} without columns", tensor.spec.name);  // check_config() lets no width be 0
  }

  std::size_t rows_per_batch() const { return std::max<std::size_t>(1, kBatchElements / cols_); }

  // out: the encoded rows.
  Status convert(std::vector<std::byte>& out, std::vector<float>& values, Range rows) {
    out.resize(rows.count() * row_bytes_);
    values.resize(rows.count() * cols_);
    const std::size_t rows_per_task = std::max<std::size_t>(1, kTaskElements / cols_);
    pool_.for_each(ceil_div(rows.count(), rows_per_task), [&](std::size_t task_idx) {
      const std::size_t begin = task_idx * rows_per_task;
      const std::size_t end = std::min(begin + rows_per_task, rows.count());
      convert_rows(out.data() + begin * row_bytes_, {values.data() + begin * cols_, (end - begin) * cols_},
                   {rows.begin + begin, rows.begin + end});
    });
    if (trouble_.not_finite) {
      return error("tensor {}: holds a number that is not finite; the checkpoint is damaged, fetch it again",
                   tensor_.spec.name);
    }
    if (trouble_.too_large) {
      return error("tensor {}: holds a number that {} cannot: choose another type, such as bf16 or f32",
                   tensor_.spec.name, dtype_info(tensor_.spec.type).name);
    }
    return success();
  }

 private:
  void convert_rows(std::byte* out, std::span<float> values, Range rows) {
    tensor_.rows.decode(values.data(), rows);
    bool finite = true;
    float max_magnitude = 0;
    for (float& value : values) {
      if (tensor_.stored != tensor_.wanted) value = form_of(plain_of(value, tensor_.stored), tensor_.wanted);
      finite &= std::isfinite(value);
      max_magnitude = std::max(max_magnitude, std::fabs(value));
    }
    if (!finite) {
      trouble_.not_finite = true;
    } else if (max_magnitude >= overflow_threshold(tensor_.spec.type)) {
      trouble_.too_large = true;
    } else if (verbatim_) {
      tensor_.rows.copy_bytes(out, rows);
    } else {
      encode_blocks(out, values.data(), tensor_.spec.type, values.size());
    }
  }

  const ExportTensor& tensor_;
  ThreadPool& pool_;
  std::size_t cols_;
  std::size_t row_bytes_;
  bool verbatim_;
  Trouble trouble_;
};

// `writer` is a GgufWriter or a SafetensorsWriter that awaits the plan's tensors.
template <class Writer>
Status write_tensors(Writer& writer, const ExportPlan& plan, ThreadPool& pool, ExportProgress progress) {
  std::vector<std::byte> bytes;
  std::vector<float> values;
  std::uint64_t done_bytes = 0;
  for (const ExportTensor& tensor : plan.tensors) {
    TensorExport conversion(tensor, pool);
    for (std::size_t begin = 0; begin < tensor.rows.num_rows(); begin += conversion.rows_per_batch()) {
      if (!progress(done_bytes, plan.total_bytes)) return error("stopped; nothing was written");
      const std::size_t end = std::min(begin + conversion.rows_per_batch(), tensor.rows.num_rows());
      QN_RETURN_IF_ERROR(conversion.convert(bytes, values, {begin, end}));
      QN_RETURN_IF_ERROR(writer.append(bytes));
      done_bytes += bytes.size();
      plan.source->release_pages();
    }
  }
  QN_RETURN_IF_ERROR(writer.commit());
  progress(done_bytes, plan.total_bytes);
  return success();
}

}  // namespace

Status export_gguf(const std::filesystem::path& path, GgufHeader header, const ExportPlan& plan, ThreadPool& pool,
                   ExportProgress progress) {
  for (const ExportTensor& tensor : plan.tensors) header.add_tensor(tensor.spec);
  QN_TRY(GgufWriter writer, GgufWriter::create(path, header));
  return write_tensors(writer, plan, pool, progress);
}

Status export_safetensors(const std::filesystem::path& folder, const ExportPlan& plan, ThreadPool& pool,
                          ExportProgress progress) {
  SafetensorsSpec spec;
  spec.metadata["format"] = "pt";
  spec.max_shard_bytes = kMaxShardBytes;
  for (const ExportTensor& tensor : plan.tensors) spec.tensors.push_back(tensor.spec);
  QN_TRY(SafetensorsWriter writer, SafetensorsWriter::create(folder, spec));
  return write_tensors(writer, plan, pool, progress);
}

}  // namespace qnext
