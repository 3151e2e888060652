// The DeltaNet's ungrouping, causal conv and SiLU in one pass over the projection.
#include <algorithm>
#include <array>

#include "train/ops.h"
#include "train/part_times.h"
#include "train/tensor_views.h"

namespace qnext::train {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr std::int64_t kRowsPerTask = 64;
constexpr std::int64_t kTapsAtOnce = 4;  // in one pass over a row

// The rows that these taps read, or are read from; zeros for those that are not there.
using TapRows = std::array<const float*, kTapsAtOnce>;

// Columns that lie together in the projection, in an output and, but for z, in the conv's channels.
struct Run {
  std::int64_t source_col = 0;
  std::int64_t width = 0;
  std::size_t output = 0;  // q, k, v, z
  std::int64_t output_col = 0;
  std::int64_t channel = 0;
};

constexpr std::size_t kZ = 3;

std::vector<Run> runs_of(const DeltaNetHeads& heads) {
  const std::int64_t r = heads.Hv / heads.Hk;
  const std::int64_t keys = heads.Hk * heads.Dk;
  std::vector<Run> runs;
  std::int64_t col = 0;
  const auto add = [&](std::int64_t width, std::size_t output, std::int64_t output_col, std::int64_t first_channel) {
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

// out = before + the taps' products. `before` may be `out`.
QN_EVERY_ISA void sum_taps(float* out, const float* before, const TapRows& x, const TapRows& w, std::int64_t width) {
#pragma omp simd
  for (std::int64_t i = 0; i < width; ++i) {
    out[i] = before[i] + w[0][i] * x[0][i] + w[1][i] * x[1][i] + w[2][i] * x[2][i] + w[3][i] * x[3][i];
  }
}

// The same of the gradients that a row's readers have, and what they and the row, x, add to the taps' own.
QN_EVERY_ISA void sum_taps_backward(float* out, const float* before, const std::array<float*, kTapsAtOnce>& d_w,
                                    const TapRows& d_readers, const TapRows& w, const float* x, std::int64_t width) {
#pragma omp simd
  for (std::int64_t i = 0; i < width; ++i) {
    const float d0 = d_readers[0][i], d1 = d_readers[1][i], d2 = d_readers[2][i], d3 = d_readers[3][i];
    out[i] = before[i] + w[0][i] * d0 + w[1][i] * d1 + w[2][i] * d2 + w[3][i] * d3;
    d_w[0][i] += d0 * x[i];
    d_w[1][i] += d1 * x[i];
    d_w[2][i] += d2 * x[i];
    d_w[3][i] += d3 * x[i];
  }
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

// Where each row's document begins, and ends.
struct Documents {
  explicit Documents(const Bounds& bounds) : begin(bounds.back()), end(bounds.back()) {
    for (std::size_t i = 0; i + 1 < bounds.size(); ++i) {
      std::fill(begin.begin() + bounds[i], begin.begin() + bounds[i + 1], bounds[i]);
      std::fill(end.begin() + bounds[i], end.begin() + bounds[i + 1], bounds[i + 1]);
    }
  }
  std::int64_t begin_of(std::int64_t t) const { return begin[static_cast<std::size_t>(t)]; }
  std::int64_t end_of(std::int64_t t) const { return end[static_cast<std::size_t>(t)]; }
  std::vector<std::int64_t> begin, end;
};

// [C, 1, taps] to [taps, C], behind as many rows of zeros as make whole passes.
Tensor taps_first(const Tensor& w) {
  const std::int64_t missing = (kTapsAtOnce - w.size(2) % kTapsAtOnce) % kTapsAtOnce;
  return torch::constant_pad_nd(w.detach().squeeze(1).t(), {0, 0, missing, 0}).contiguous();
}

// q, k, v and z, or their gradients, as [T, width].
using OutputRows = std::array<Matrix, 4>;

OutputRows output_rows(const variable_list& tensors) {
  OutputRows out;
  for (std::size_t i = 0; i < out.size(); ++i) {
    out[i] = matrix(tensors[i].view({tensors[i].size(0), tensors[i].size(1) * tensors[i].size(2)}));
  }
  return out;
}

// What both directions read.
struct Conv {
  Conv(const DeltaNetHeads& heads, const Bounds& bounds, const Tensor& qkvz, const Tensor& w)
      : runs(runs_of(heads)),
        documents(bounds),
        tap_memory(taps_first(w)),
        source(matrix(qkvz)),
        taps(matrix(tap_memory)),
        reach(w.size(2) - 1),
        zeros(static_cast<std::size_t>(std::ranges::max(runs, {}, &Run::width).width)) {}

  std::vector<Run> runs;
  Documents documents;
  Tensor tap_memory;
  ConstMatrix source, taps;
  std::int64_t reach;        // rows from the first that a row reads
  std::vector<float> zeros;  // of the widest run

  TapRows taps_from(std::int64_t tap, const Run& run) const {
    TapRows out;
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = taps.row(tap + static_cast<std::int64_t>(i)) + run.channel;
    return out;
  }

  // The sum of the taps for row t: what SiLU is applied to.
  void convolve(float* out, const Run& run, std::int64_t t) const {
    const float* before = zeros.data();
    for (std::int64_t tap = 0; tap < taps.rows; tap += kTapsAtOnce) {
      TapRows x;
      for (std::size_t i = 0; i < x.size(); ++i) {
        const std::int64_t from = t - (taps.rows - 1) + tap + static_cast<std::int64_t>(i);
        x[i] = from < documents.begin_of(t) ? zeros.data() : source.row(from) + run.source_col;
      }
      sum_taps(out, before, x, taps_from(tap, run), run.width);
      before = out;
    }
  }

  // The gradients of row t and, added, of the taps, where d_sums has those of the sums of row `begin` and on.
  void convolve_backward(float* out, Matrix d_taps, const Run& run, ConstMatrix d_sums, std::int64_t begin,
                         std::int64_t t) const {
    const std::int64_t readers_end = std::min(t + reach + 1, documents.end_of(t));
    const float* before = zeros.data();
    for (std::int64_t tap = 0; tap < taps.rows; tap += kTapsAtOnce) {
      TapRows d_readers;
      std::array<float*, kTapsAtOnce> d_w;
      for (std::size_t i = 0; i < d_readers.size(); ++i) {
        const std::int64_t this_tap = tap + static_cast<std::int64_t>(i), reader = t + (taps.rows - 1) - this_tap;
        d_readers[i] = reader < readers_end ? d_sums.row(reader - begin) : zeros.data();
        d_w[i] = d_taps.row(this_tap) + run.channel;
      }
      sum_taps_backward(out, before, d_w, d_readers, taps_from(tap, run), source.row(t) + run.source_col, run.width);
      before = out;
    }
  }
};

struct ConvSilu : torch::autograd::Function<ConvSilu> {
  static variable_list forward(AutogradContext* context, const Tensor& qkvz, const Tensor& w, const Bounds& bounds,
                               const std::vector<std::int64_t>& sizes) {
    const PartTimer timer(Part::kConv);
    const DeltaNetHeads heads{sizes[0], sizes[1], sizes[2], sizes[3]};
    const std::int64_t T = qkvz.size(0);
    variable_list outputs = {torch::empty({T, heads.Hk, heads.Dk}), torch::empty({T, heads.Hk, heads.Dk}),
                             torch::empty({T, heads.Hv, heads.Dv}), torch::empty({T, heads.Hv, heads.Dv})};
    const OutputRows rows = output_rows(outputs);
    const Conv conv(heads, bounds, qkvz, w);
    for_each_block(T, kRowsPerTask, [&](std::int64_t begin, std::int64_t end) {
      for (const Run& run : conv.runs) {
        for (std::int64_t t = begin; t < end; ++t) {
          float* const out = rows[run.output].row(t) + run.output_col;
          if (run.output == kZ) {
            std::copy_n(conv.source.row(t) + run.source_col, run.width, out);
          } else {
            conv.convolve(out, run, t);
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
    const std::vector<std::int64_t> sizes = context->saved_data["sizes"].toIntVector();
    const Conv conv({sizes[0], sizes[1], sizes[2], sizes[3]}, context->saved_data["bounds"].toIntVector(), saved[0],
                    saved[1]);
    for (Tensor& gradient : gradients) gradient = gradient.contiguous();
    const OutputRows d_outputs = output_rows(gradients);
    const std::int64_t T = conv.source.rows, num_taps = conv.taps.rows, C = conv.taps.cols;
    Tensor d_qkvz = torch::empty_like(saved[0]);
    const Matrix d_source = matrix(d_qkvz);
    const Tensor d_taps = torch::zeros({(T + kRowsPerTask - 1) / kRowsPerTask * num_taps, C});
    for_each_block(T, kRowsPerTask, [&](std::int64_t begin, std::int64_t end) {
      const std::int64_t first_tap = begin / kRowsPerTask * num_taps;
      const Matrix d_taps_here = matrix(d_taps).row_range(first_tap, first_tap + num_taps);
      // The rows behind the block that read from it are computed here, too: cheaper than a pass over memory.
      const std::int64_t readers_end = std::min(end + conv.reach, conv.documents.end_of(end - 1));
      std::vector<float> memory(static_cast<std::size_t>(readers_end - begin) * conv.zeros.size());
      for (const Run& run : conv.runs) {
        const auto d_output = [&](std::int64_t t) { return d_outputs[run.output].row(t) + run.output_col; };
        const auto d_input = [&](std::int64_t t) { return d_source.row(t) + run.source_col; };
        if (run.output == kZ) {
          for (std::int64_t t = begin; t < end; ++t) std::copy_n(d_output(t), run.width, d_input(t));
          continue;
        }
        const Matrix d_sums{memory.data(), readers_end - begin, run.width, run.width};
        for (std::int64_t t = begin; t < readers_end; ++t) {
          conv.convolve(d_sums.row(t - begin), run, t);
          silu_backward_inplace(d_sums.row(t - begin), d_output(t), run.width);
        }
        for (std::int64_t t = begin; t < end; ++t) {
          conv.convolve_backward(d_input(t), d_taps_here, run, d_sums, begin, t);
        }
      }
    });
    const Tensor d_w = d_taps.view({-1, num_taps, C}).sum(0).slice(0, num_taps - 1 - conv.reach).t().unsqueeze(1);
    return {d_qkvz, d_w.contiguous(), no_gradient(), no_gradient()};
  }
};

}  // namespace

ConvOutputs conv_silu(const Tensor& qkvz, const Tensor& w, const Bounds& bounds, const DeltaNetHeads& heads) {
  const std::vector<std::int64_t> sizes = {heads.Hk, heads.Hv, heads.Dk, heads.Dv};
  const variable_list outputs = ConvSilu::apply(qkvz.contiguous(), w, bounds, sizes);
  return {outputs[0], outputs[1], outputs[2], outputs[3]};
}

}  // namespace qnext::train
