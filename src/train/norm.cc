// Norms over the last axis, and RoPE: one row at a time, each row's scale kept for backward.
#include <cmath>

#include "train/loops.h"
#include "train/ops.h"
#include "train/part_times.h"
#include "train/tensor_views.h"

namespace qnext::train {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr std::int64_t kRowsPerTask = 128;

// 1 / sqrt(mean(x^2) + eps); `mean_of` is N for the RMS norms and 1 for the L2 norm.
QN_EVERY_ISA float inverse_norm(const float* x, std::int64_t width, float mean_of, float eps) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < width; ++i) sum += x[i] * x[i];
  return 1.0f / std::sqrt(sum / mean_of + eps);
}

QN_EVERY_ISA void scale_row(float* out, const float* x, const float* w, float offset, float inverse,
                            std::int64_t width) {
#pragma omp simd
  for (std::int64_t i = 0; i < width; ++i) out[i] = x[i] * inverse * (offset + w[i]);
}

// With n = x * inverse: dn = d_out (offset + w); dx = inverse (dn - n mean(n dn)); dw += d_out n.
QN_EVERY_ISA void scale_row_backward(float* d_x, float* d_w, const float* d_out, const float* x, const float* w,
                                     float offset, float inverse, float mean_of, std::int64_t width) {
  float dot = 0;
#pragma omp simd reduction(+ : dot)
  for (std::int64_t i = 0; i < width; ++i) dot += d_out[i] * (offset + w[i]) * x[i];
  const float along = dot * inverse * inverse / mean_of;
#pragma omp simd
  for (std::int64_t i = 0; i < width; ++i) {
    d_x[i] = inverse * (d_out[i] * (offset + w[i]) - x[i] * along);
    d_w[i] += d_out[i] * x[i] * inverse;
  }
}

QN_EVERY_ISA void gate_row(float* out, const float* x, const float* z, const float* w, float inverse,
                           std::int64_t width) {
#pragma omp simd
  for (std::int64_t i = 0; i < width; ++i) out[i] = x[i] * inverse * w[i] * z[i] * sigmoid_in_loop(z[i]);
}

// d_normed <- the gradient of the normed row before its weight is applied times w, as scale_row_backward takes d_out.
QN_EVERY_ISA void gate_row_backward(float* d_normed, float* d_z, const float* d_out, const float* x, const float* z,
                                    const float* w, float inverse, std::int64_t width) {
#pragma omp simd
  for (std::int64_t i = 0; i < width; ++i) {
    const float sigma = sigmoid_in_loop(z[i]);
    d_normed[i] = d_out[i] * z[i] * sigma;
    d_z[i] = d_out[i] * w[i] * x[i] * inverse * sigma * (1.0f + z[i] * (1.0f - sigma));
  }
}

// Adds up what each block of rows contributes to a weight's gradient, in the blocks' order.
class WeightGradient {
 public:
  WeightGradient(std::int64_t num_rows, std::int64_t width)
      : parts_(torch::zeros({(num_rows + kRowsPerTask - 1) / kRowsPerTask, width})) {}
  float* part_of(std::int64_t begin_row) { return matrix(parts_).row(begin_row / kRowsPerTask); }
  Tensor sum() const { return parts_.sum(0); }

 private:
  Tensor parts_;
};

// x rsqrt(sum(x^2) / mean_of + eps) (offset + w) of each row; also the rows' scales, for backward.
struct NormedRows {
  Tensor out, inverse;
};
NormedRows norm_rows(const Tensor& x, const Tensor& w, double offset, double mean_of, double eps) {
  const Matrix in = matrix(x);
  const NormedRows normed{torch::empty_like(x), torch::empty({in.rows})};
  const Matrix result = matrix(normed.out);
  float* const scales = normed.inverse.data_ptr<float>();
  const float* const weight = w.data_ptr<float>();
  for_each_block(in.rows, kRowsPerTask, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      scales[row] = inverse_norm(in.row(row), in.cols, static_cast<float>(mean_of), static_cast<float>(eps));
      scale_row(result.row(row), in.row(row), weight, static_cast<float>(offset), scales[row], in.cols);
    }
  });
  return normed;
}

// The gradients of x, to which `d_added` is added where it is given, and of w.
struct NormGradients {
  Tensor x, w;
};
NormGradients norm_rows_backward(const Tensor& d_out, const Tensor& x, const Tensor& w, const Tensor& inverse,
                                 double offset, double mean_of, const Tensor* d_added = nullptr) {
  const Tensor d_x = torch::empty_like(x);
  const Matrix in = matrix(x), d_in = matrix(d_x), d_result = matrix(d_out);
  const Matrix added = d_added == nullptr ? Matrix{} : matrix(*d_added);
  const float *const weight = w.data_ptr<float>(), *const scales = inverse.data_ptr<float>();
  WeightGradient d_w(in.rows, in.cols);
  for_each_block(in.rows, kRowsPerTask, [&](std::int64_t begin, std::int64_t end) {
    float* const d_weight = d_w.part_of(begin);
    for (std::int64_t row = begin; row < end; ++row) {
      scale_row_backward(d_in.row(row), d_weight, d_result.row(row), in.row(row), weight, static_cast<float>(offset),
                         scales[row], static_cast<float>(mean_of), in.cols);
      if (d_added != nullptr) add_scaled(d_in.row(row), added.row(row), 1, in.cols);
    }
  });
  return {d_x, d_w.sum()};
}

// Of the mean and of the sum, with weights around 1 and around 0.
struct ScaledNorm : torch::autograd::Function<ScaledNorm> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& w, double offset, double mean_of,
                        double eps) {
    const PartTimer timer(Part::kNorm);
    const NormedRows normed = norm_rows(x, w, offset, mean_of, eps);
    context->save_for_backward({x, w, normed.inverse});
    context->saved_data["offset"] = offset;
    context->saved_data["mean_of"] = mean_of;
    return normed.out;
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const PartTimer timer(Part::kNorm);
    const auto saved = context->get_saved_variables();
    const NormGradients d =
        norm_rows_backward(gradients[0].contiguous(), saved[0], saved[1], saved[2],
                           context->saved_data["offset"].toDouble(), context->saved_data["mean_of"].toDouble());
    return {d.x, d.w, no_gradient(), no_gradient(), no_gradient()};
  }
};

// A sum and its zero-centred norm; their gradients meet here.
struct StreamNorm : torch::autograd::Function<StreamNorm> {
  static variable_list forward(AutogradContext* context, at::TensorList terms, const Tensor& w, double eps) {
    const PartTimer timer(Part::kNorm);
    const Tensor stream = terms.size() == 1 ? terms[0].view_as(terms[0]) : sum_of(terms);
    const NormedRows normed = norm_rows(stream, w, 1.0, static_cast<double>(stream.size(-1)), eps);
    context->save_for_backward({stream, w, normed.inverse});
    context->saved_data["terms"] = static_cast<std::int64_t>(terms.size());
    return {stream, normed.out};
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const PartTimer timer(Part::kNorm);
    const auto saved = context->get_saved_variables();
    const Tensor d_stream = gradients[0].contiguous();
    const NormGradients d = norm_rows_backward(gradients[1].contiguous(), saved[0], saved[1], saved[2], 1.0,
                                               static_cast<double>(saved[0].size(-1)), &d_stream);
    variable_list out(static_cast<std::size_t>(context->saved_data["terms"].toInt()), d.x);
    out.insert(out.end(), {d.w, no_gradient()});
    return out;
  }
};

struct GatedNorm : torch::autograd::Function<GatedNorm> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& z, const Tensor& w, double eps) {
    const PartTimer timer(Part::kNorm);
    const Matrix in = matrix(x), gate = matrix(z);
    Tensor out = torch::empty_like(x);
    Tensor inverse = torch::empty({in.rows});
    const Matrix result = matrix(out);
    float* const scales = inverse.data_ptr<float>();
    const float* const weight = w.data_ptr<float>();
    for_each_block(in.rows, kRowsPerTask, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        scales[row] = inverse_norm(in.row(row), in.cols, static_cast<float>(in.cols), static_cast<float>(eps));
        gate_row(result.row(row), in.row(row), gate.row(row), weight, scales[row], in.cols);
      }
    });
    context->save_for_backward({x, z, w, inverse});
    return out;
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const PartTimer timer(Part::kNorm);
    const auto saved = context->get_saved_variables();
    const Tensor d_out = gradients[0].contiguous();
    const float* w = saved[2].data_ptr<float>();
    Tensor d_x = torch::empty_like(saved[0]), d_z = torch::empty_like(saved[1]);
    const Matrix in = matrix(saved[0]), gate = matrix(saved[1]), d_in = matrix(d_x), d_gate = matrix(d_z);
    const Matrix d_result = matrix(d_out);
    const float* const scales = saved[3].data_ptr<float>();
    WeightGradient d_w(in.rows, in.cols);
    for_each_block(in.rows, kRowsPerTask, [&](std::int64_t begin, std::int64_t end) {
      float* const d_weight = d_w.part_of(begin);
      std::vector<float> d_normed(static_cast<std::size_t>(in.cols));
      for (std::int64_t row = begin; row < end; ++row) {
        const float scale = scales[row];
        gate_row_backward(d_normed.data(), d_gate.row(row), d_result.row(row), in.row(row), gate.row(row), w, scale,
                          in.cols);
        scale_row_backward(d_in.row(row), d_weight, d_normed.data(), in.row(row), w, 0.0f, scale,
                           static_cast<float>(in.cols), in.cols);
      }
    });
    return {d_x, d_z, d_w.sum(), no_gradient()};
  }
};

// Rotates by the angles times `direction`, 1 or -1.
Tensor rotated(const Tensor& x, const Tensor& cosines, const Tensor& sines, float direction) {
  Tensor out = x.clone();
  const std::int64_t half = cosines.size(1), num_heads = x.size(1), width = x.size(2);
  const float *const cosine_rows = cosines.data_ptr<float>(), *const sine_rows = sines.data_ptr<float>();
  float* const heads = out.data_ptr<float>();
  for_each_block(x.size(0), kRowsPerTask, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin * num_heads; row < end * num_heads; ++row) {
      const float* cosine = cosine_rows + row / num_heads * half;
      const float* sine = sine_rows + row / num_heads * half;
      float* head = heads + row * width;
      for (std::int64_t j = 0; j < half; ++j) {
        const float first = head[j], second = head[j + half];
        head[j] = first * cosine[j] - direction * second * sine[j];
        head[j + half] = second * cosine[j] + direction * first * sine[j];
      }
    }
  });
  return out;
}

struct Rope : torch::autograd::Function<Rope> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& cosines, const Tensor& sines) {
    const PartTimer timer(Part::kNorm);
    context->save_for_backward({cosines, sines});
    return rotated(x, cosines, sines, 1);
  }
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const PartTimer timer(Part::kNorm);
    const auto saved = context->get_saved_variables();
    return {rotated(gradients[0].contiguous(), saved[0], saved[1], -1), no_gradient(), no_gradient()};
  }
};

}  // namespace

Tensor zero_centred_norm(const Tensor& x, const Tensor& w, double eps) {
  return ScaledNorm::apply(x.contiguous(), w, 1.0, static_cast<double>(x.size(-1)), eps);
}

NormedStream normed_stream(at::TensorList terms, const Tensor& w, double eps) {
  const variable_list out = StreamNorm::apply(terms, w, eps);
  return {out[0], out[1]};
}

Tensor gated_norm(const Tensor& x, const Tensor& z, const Tensor& w, double eps) {
  return GatedNorm::apply(x.contiguous(), z.contiguous(), w, eps);
}

Tensor l2_norm(const Tensor& x, double scale) {
  return ScaledNorm::apply(x.contiguous(), torch::full({x.size(-1)}, scale), 0.0, 1.0, 1e-6);
}

RopeAngles rope_angles(const Bounds& bounds, std::int64_t R, double theta) {
  const std::int64_t half = R / 2;
  RopeAngles out{torch::empty({bounds.back(), half}), torch::empty({bounds.back(), half})};
  std::vector<double> frequencies;
  for (std::int64_t j = 0; j < half; ++j) {
    frequencies.push_back(std::pow(theta, -2.0 * static_cast<double>(j) / static_cast<double>(R)));
  }
  for (std::size_t document = 0; document + 1 < bounds.size(); ++document) {
    for (std::int64_t t = bounds[document]; t < bounds[document + 1]; ++t) {
      for (std::int64_t j = 0; j < half; ++j) {
        const double angle = static_cast<double>(t - bounds[document]) * frequencies[static_cast<std::size_t>(j)];
        out.cosines.data_ptr<float>()[t * half + j] = static_cast<float>(std::cos(angle));
        out.sines.data_ptr<float>()[t * half + j] = static_cast<float>(std::sin(angle));
      }
    }
  }
  return out;
}

Tensor rope(const Tensor& x, const RopeAngles& angles) {
  return Rope::apply(x.contiguous(), angles.cosines, angles.sines);
}

}  // namespace qnext::train
