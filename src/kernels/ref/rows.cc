#include <cmath>

#include "kernels/ref/ref_kernels.h"

namespace qnext {
namespace {

double sigmoid(double x) {
  return 1.0 / (1.0 + std::exp(-x));
}
double silu(double x) {
  return x * sigmoid(x);
}

double sum_of_squares(const float* x, std::size_t width) {
  double sum = 0.0;
  for (std::size_t i = 0; i < width; ++i) sum += static_cast<double>(x[i]) * x[i];
  return sum;
}

void norm_row(float* out, const float* x, std::span<const float> weight, float eps) {
  const double mean = sum_of_squares(x, weight.size()) / static_cast<double>(weight.size());
  const double scale = 1.0 / std::sqrt(mean + eps);
  for (std::size_t i = 0; i < weight.size(); ++i) out[i] = static_cast<float>(x[i] * scale * weight[i]);
}

void rms_norm(View<float> out, View<const float> x, std::span<const float> weight, float eps, Range rows) {
  for (std::size_t row_idx = rows.begin; row_idx < rows.end; ++row_idx) {
    if (x.rank() == 2) {
      norm_row(out.row(row_idx), x.row(row_idx), weight, eps);
      continue;
    }
    for (std::size_t head_idx = 0; head_idx < x.dim(1); ++head_idx) {
      norm_row(out.row(row_idx, head_idx), x.row(row_idx, head_idx), weight, eps);
    }
  }
}

void rms_norm_gated(View<float> out, View<const float> x, View<const float> gate, std::span<const float> weight,
                    float eps, Range rows) {
  const auto width = static_cast<double>(weight.size());
  for (std::size_t t = rows.begin; t < rows.end; ++t) {
    for (std::size_t h = 0; h < x.dim(1); ++h) {
      const double scale = 1.0 / std::sqrt(sum_of_squares(x.row(t, h), weight.size()) / width + eps);
      for (std::size_t i = 0; i < weight.size(); ++i) {
        out(t, h, i) = static_cast<float>(x(t, h, i) * scale * weight[i] * silu(gate(t, h, i)));
      }
    }
  }
}

void l2_norm_inplace(View<float> x, float scale, float eps, Range rows) {
  for (std::size_t t = rows.begin; t < rows.end; ++t) {
    for (std::size_t h = 0; h < x.dim(1); ++h) {
      const double factor = scale / std::sqrt(sum_of_squares(x.row(t, h), x.dim(2)) + eps);
      for (std::size_t i = 0; i < x.dim(2); ++i) x(t, h, i) = static_cast<float>(x(t, h, i) * factor);
    }
  }
}

void rope_inplace(View<float> x, View<const float> cos, View<const float> sin, Range rows) {
  const std::size_t num_angles = cos.dim(1);
  for (std::size_t t = rows.begin; t < rows.end; ++t) {
    for (std::size_t h = 0; h < x.dim(1); ++h) {
      for (std::size_t i = 0; i < num_angles; ++i) {
        const double lower = x(t, h, i);
        const double upper = x(t, h, i + num_angles);
        x(t, h, i) = static_cast<float>(lower * cos(t, i) - upper * sin(t, i));
        x(t, h, i + num_angles) = static_cast<float>(upper * cos(t, i) + lower * sin(t, i));
      }
    }
  }
}

void silu_mul(View<float> out, View<const float> gate, View<const float> up, Range rows) {
  for (std::size_t t = rows.begin; t < rows.end; ++t) {
    for (std::size_t i = 0; i < out.dim(1); ++i) out(t, i) = static_cast<float>(silu(gate(t, i)) * up(t, i));
  }
}

void sigmoid_gate_inplace(View<float> x, View<const float> gate, Range rows) {
  for (std::size_t t = rows.begin; t < rows.end; ++t) {
    for (std::size_t h = 0; h < x.dim(1); ++h) {
      for (std::size_t i = 0; i < x.dim(2); ++i) {
        x(t, h, i) = static_cast<float>(x(t, h, i) * sigmoid(gate(t, h, i)));
      }
    }
  }
}

void add_gated(View<float> out, View<const float> x, View<const float> gate, Range rows) {
  for (std::size_t t = rows.begin; t < rows.end; ++t) {
    const double share = sigmoid(gate(t, 0));
    for (std::size_t i = 0; i < out.dim(1); ++i) out(t, i) = static_cast<float>(out(t, i) + share * x(t, i));
  }
}

}  // namespace

void add_rows(KernelTable& table) {
  table.rms_norm = rms_norm;
  table.rms_norm_gated = rms_norm_gated;
  table.l2_norm_inplace = l2_norm_inplace;
  table.rope_inplace = rope_inplace;
  table.silu_mul = silu_mul;
  table.sigmoid_gate_inplace = sigmoid_gate_inplace;
  table.add_gated = add_gated;
}

}  // namespace qnext
