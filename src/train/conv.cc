// The DeltaNet's ungrouping, causal conv and SiLU in one pass over the projection.
#include <algorithm>

#include "train/ops.h"
#include "train/part_times.h"
#include "train/tensor_views.h"

namespace qnext::train {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr std::int64_t kRowsPerTask = 64;

// Columns that lie together in the projection, in an output and, but for z, in the conv's channels.
struct Run {
  std::int64_t source_col = 0;
  std::int64_t width = 0;
  int output = 0;  // q, k, v, z
  std::int64_t output_col = 0;
  std::int64_t channel = 0;
};

constexpr int kZ = 3;

std::vector<Run> runs_of(const DeltaNetHeads& heads) {
  const std::int64_t r = heads.Hv / heads.Hk;
  const std::int64_t keys = heads.Hk * heads.Dk;
  std::vector<Run> runs;
  std::int64_t col = 0;
  const auto add = [&](std::int64_t width, int output, std::int64_t output_col, std::int64_t first_channel) {
    runs.push_back({col, width, output, output_col, first_channel + output_col});
    col += width;
  };
  for (std::int64_t head = 0; head < heads.Hk; ++head) {
    add(heads.Dk, 0, head * heads.Dk, 0);
    add(heads.Dk, 1, head * heads.Dk, keys);
    add(r * heads.Dv, 2, head * r * heads.Dv, 2 * keys);
    add(r * heads.Dv, kZ, head * r * heads.Dv, 0);
  }
  return runs;
}

QN_EVERY_ISA void add_product(float* out, const float* x, const float* w, std::int64_t width) {
#pragma omp simd
  for (std::int64_t i = 0; i < width; ++i) out[i] += w[i] * x[i];
}

QN_EVERY_ISA void silu_inplace(float* x, std::int64_t width) {
#pragma omp simd
  for (std::int64_t i = 0; i < width; ++i) x[i] *= sigmoid_in_loop(x[i]);
}

// before <- d_out * silu'(before)
QN_EVERY_ISA void silu_backward_inplace(float* before, const float* d_out, std::int64_t width) {
#pragma omp simd
  for (std::int64_t i = 0; i < width; ++i) {
    const float sigma = sigmoid_in_loop(before[i]);
    before[i] = d_out[i] * sigma * (1.0f + before[i] * (1.0f - sigma));
  }
}

// The sum of the taps for row t of a document that began at `begin`: what SiLU is applied to.
void convolve(float* out, const Run& run, ConstMatrix source, ConstMatrix taps, std::int64_t begin, std::int64_t t) {
  std::fill_n(out, run.width, 0.0f);
  for (std::int64_t tap = 0; tap < taps.rows; ++tap) {
    const std::int64_t from = t - (taps.rows - 1) + tap;
    if (from < begin) continue;
    add_product(out, source.row(from) + run.source_col, taps.row(tap) + run.channel, run.width);
  }
}

// Where each row's document begins, and ends.
struct Documents {
  explicit Documents(const Bounds& bounds) : begin(bounds.back()), end(bounds.back()) {
    for (std::size_t i = 0; i + 1 < bounds.size(); ++i) {
      std::fill(begin.begin() + bounds[i], begin.begin() + bounds[i + 1], bounds[i]);
      std::fill(end.begin() + bounds[i], end.begin() + bounds[i + 1], bounds[i + 1]);
    }
  }
  std::vector<std::int64_t> begin, end;
};

Tensor taps_first(const Tensor& w) {  // [C, 1, taps] to [taps, C]
  return w.detach().squeeze(1).t().contiguous();
}

struct ConvSilu : torch::autograd::Function<ConvSilu> {
  static variable_list forward(AutogradContext* context, const Tensor& qkvz, const Tensor& w, const Bounds& bounds,
                               const std::vector<std::int64_t>& sizes) {
    const PartTimer timer(Part::kConv);
    const DeltaNetHeads heads{sizes[0], sizes[1], sizes[2], sizes[3]};
    const std::int64_t T = qkvz.size(0);
    variable_list outputs = {torch::empty({T, heads.Hk, heads.Dk}), torch::empty({T, heads.Hk, heads.Dk}),
                             torch::empty({T, heads.Hv, heads.Dv}), torch::empty({T, heads.Hv, heads.Dv})};
    const Tensor taps = taps_first(w);
    const Matrix source = matrix(qkvz), tap_rows = matrix(taps);
    const Documents documents(bounds);
    const std::vector<Run> runs = runs_of(heads);
    for_each_block(T, kRowsPerTask, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = begin; t < end; ++t) {
        for (const Run& run : runs) {
          const Tensor& target = outputs[static_cast<std::size_t>(run.output)];
          float* out = target.data_ptr<float>() + t * target.size(1) * target.size(2) + run.output_col;
          if (run.output == kZ) {
            std::copy_n(source.row(t) + run.source_col, run.width, out);
          } else {
            convolve(out, run, source, tap_rows, documents.begin[static_cast<std::size_t>(t)], t);
            silu_inplace(out, run.width);
          }
        }
      }
    });
    context->save_for_backward({qkvz, w});
    context->saved_data["bounds"] = bounds;
    context->saved_data["sizes"] = sizes;
    return outputs;
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const PartTimer timer(Part::kConv);
    const auto saved = context->get_saved_variables();
    const Bounds bounds = context->saved_data["bounds"].toIntVector();
    const std::vector<std::int64_t> sizes = context->saved_data["sizes"].toIntVector();
    const std::vector<Run> runs = runs_of({sizes[0], sizes[1], sizes[2], sizes[3]});
    const Tensor taps = taps_first(saved[1]);
    const Matrix source = matrix(saved[0]), tap_rows = matrix(taps);
    const std::int64_t T = source.rows;
    const Documents documents(bounds);
    for (Tensor& gradient : gradients) gradient = gradient.contiguous();
    const auto d_output = [&](const Run& run, std::int64_t t) {
      const Tensor& gradient = gradients[static_cast<std::size_t>(run.output)];
      return gradient.data_ptr<float>() + t * gradient.size(1) * gradient.size(2) + run.output_col;
    };
    const Tensor before = torch::empty({T, tap_rows.cols});  // gradients before SiLU
    const Matrix d_before = matrix(before);
    for_each_block(T, kRowsPerTask, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = begin; t < end; ++t) {
        for (const Run& run : runs) {
          if (run.output == kZ) continue;
          float* row = d_before.row(t) + run.channel;
          convolve(row, run, source, tap_rows, documents.begin[static_cast<std::size_t>(t)], t);
          silu_backward_inplace(row, d_output(run, t), run.width);
        }
      }
    });
    Tensor d_qkvz = torch::empty_like(saved[0]);
    const Matrix d_source = matrix(d_qkvz);
    Tensor d_taps = torch::zeros({(T + kRowsPerTask - 1) / kRowsPerTask, tap_rows.rows, tap_rows.cols});
    for_each_block(T, kRowsPerTask, [&](std::int64_t begin, std::int64_t end) {
      float* d_tap = d_taps.data_ptr<float>() + begin / kRowsPerTask * tap_rows.rows * tap_rows.cols;
      for (std::int64_t t = begin; t < end; ++t) {
        for (const Run& run : runs) {
          float* out = d_source.row(t) + run.source_col;
          if (run.output == kZ) {
            std::copy_n(d_output(run, t), run.width, out);
            continue;
          }
          std::fill_n(out, run.width, 0.0f);
          for (std::int64_t tap = 0; tap < tap_rows.rows; ++tap) {
            const std::int64_t reader = t + (tap_rows.rows - 1) - tap;  // the row that this tap carries row t to
            if (reader >= documents.end[static_cast<std::size_t>(t)]) continue;
            const float* d_reader = d_before.row(reader) + run.channel;
            add_product(out, d_reader, tap_rows.row(tap) + run.channel, run.width);
            add_product(d_tap + tap * tap_rows.cols + run.channel, d_reader, source.row(t) + run.source_col, run.width);
          }
        }
      }
    });
    const Tensor d_w = d_taps.sum(0).t().unsqueeze(1).contiguous();
    return {d_qkvz, d_w, no_gradient(), no_gradient()};
  }
};

}  // namespace

ConvOutputs conv_silu(const Tensor& qkvz, const Tensor& w, const Bounds& bounds, const DeltaNetHeads& heads) {
  const std::vector<std::int64_t> sizes = {heads.Hk, heads.Hv, heads.Dk, heads.Dv};
  const variable_list outputs = ConvSilu::apply(qkvz.contiguous(), w, bounds, sizes);
  return {outputs[0], outputs[1], outputs[2], outputs[3]};
}

}  // namespace qnext::train
