#include "train/adamw.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "train/compute.h"
#include "train/expert_parallel.h"
#include "train/tensor_views.h"

namespace qnext::train {
namespace {

constexpr std::int64_t kElementsPerTask = 1 << 16;

struct Update {
  float beta1, beta2, eps, step_size, second_scale, decay, gradient_scale;
};

QN_EVERY_ISA void update(float* weight, float* first, float* second, const float* gradient, std::int64_t count,
                         const Update& u) {
#pragma omp simd
  for (std::int64_t i = 0; i < count; ++i) {
    const float g = gradient[i] * u.gradient_scale;
    first[i] = u.beta1 * first[i] + (1 - u.beta1) * g;
    second[i] = u.beta2 * second[i] + (1 - u.beta2) * g * g;
    weight[i] -= u.decay * weight[i] + u.step_size * first[i] / (std::sqrt(second[i] * u.second_scale) + u.eps);
  }
}

QN_EVERY_ISA double sum_of_squares(const float* x, std::int64_t count) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < count; ++i) sum += static_cast<double>(x[i]) * x[i];
  return sum;
}

bool decays(const std::string& name, bool decay_norms) {
  if (name.ends_with("A_log") || name.ends_with("dt_bias") || name.ends_with("linear_attn.norm.weight")) return false;
  return decay_norms || name.find("norm") == std::string::npos;
}

}  // namespace

AdamW::AdamW(std::vector<NamedWeight> weights, const AdamWParams& params, int rank, int num_ranks,
             bool experts_in_parts)
    : weights_(std::move(weights)), params_(params), rank_(rank) {
  std::vector<std::int64_t> load(static_cast<std::size_t>(num_ranks));  // of each rank, in elements
  for (const NamedWeight& weight : weights_) {
    if (experts_in_parts && is_of_experts(weight.name)) {
      owners_.push_back(kEveryRank);
    } else {
      const auto owner = std::ranges::min_element(load);
      *owner += weight.value.numel();
      owners_.push_back(static_cast<int>(owner - load.begin()));
    }
    const bool own = updates(owners_.size() - 1);
    first_moments_.push_back(own ? torch::zeros(weight.value.sizes()) : Tensor());
    second_moments_.push_back(own ? torch::zeros(weight.value.sizes()) : Tensor());
    decays_.push_back(decays(weight.name, params.decay_norms));
  }
}

void AdamW::step(std::int64_t step, double learning_rate, double gradient_scale) {
  torch::NoGradGuard no_gradients;
  const auto steps = static_cast<double>(step);
  for (std::size_t i = 0; i < weights_.size(); ++i) {
    const Tensor& weight = weights_[i].value;
    if (!weight.grad().defined() || !updates(i)) continue;
    const Tensor gradient = weight.grad().contiguous();
    const Update u{.beta1 = static_cast<float>(params_.beta1),
                   .beta2 = static_cast<float>(params_.beta2),
                   .eps = static_cast<float>(params_.eps),
                   .step_size = static_cast<float>(learning_rate / (1 - std::pow(params_.beta1, steps))),
                   .second_scale = static_cast<float>(1 / (1 - std::pow(params_.beta2, steps))),
                   .decay = decays_[i] ? static_cast<float>(learning_rate * params_.weight_decay) : 0.0f,
                   .gradient_scale = static_cast<float>(gradient_scale)};
    for_each_block(weight.numel(), kElementsPerTask, [&](std::int64_t begin, std::int64_t end) {
      update(weight.data_ptr<float>() + begin, first_moments_[i].data_ptr<float>() + begin,
             second_moments_[i].data_ptr<float>() + begin, gradient.data_ptr<float>() + begin, end - begin, u);
    });
  }
}

double AdamW::gradient_squares(bool of_parts) const {
  double sum = 0;
  for (std::size_t i = 0; i < weights_.size(); ++i) {
    if (is_part(i) != of_parts || !weights_[i].value.grad().defined()) continue;
    const Tensor gradient = weights_[i].value.grad().contiguous();
    sum += sum_of_squares(gradient.data_ptr<float>(), gradient.numel());
  }
  return sum;
}

void AdamW::clear_gradients() {
  for (NamedWeight& weight : weights_) weight.value.mutable_grad() = Tensor();
}

double Schedule::learning_rate(std::int64_t step) const {
  const auto at = static_cast<double>(step), last = static_cast<double>(steps);
  const auto warm = static_cast<double>(warmup_steps);
  if (at <= warm) return peak * at / warm;
  if (kind == ScheduleKind::kCosine) {
    const double progress = (at - warm) / std::max(1.0, last - warm);
    return peak * (final_share + (1 - final_share) * 0.5 * (1 + std::cos(std::numbers::pi * progress)));
  }
  const double decay_steps = std::floor(decay_share * last);
  const double left = last - at;  // of decay_steps, when falling
  if (left >= decay_steps || decay_steps == 0) return peak;
  return peak * (final_share + (1 - final_share) * left / decay_steps);
}

}  // namespace qnext::train
