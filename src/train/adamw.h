#pragma once
// AdamW (Loshchilov & Hutter 2019) on a network's weights, and the learning rate's course.

#include <cstdint>
#include <string>
#include <vector>

#include "train/network.h"

namespace qnext::train {

struct AdamWParams {
  double beta1 = 0.9, beta2 = 0.95, eps = 1e-8;
  double weight_decay = 0.1;
  bool decay_norms = true;  // zero-centred norms too, as Qwen3-Next does: their scale is pulled to 1, not to 0
};

class AdamW {
 public:
  // Moments begin as zeros. Neither A_log, dt_bias nor the DeltaNet's own norm (which decay would pull to 0) decays.
  // Of several ranks, each updates and has the moments of its own share of the weights; owner_of() names the rank.
  // Where the ranks share the experts, each has and updates the part of its own (kEveryRank).
  AdamW(std::vector<NamedWeight> weights, const AdamWParams& params, int rank = 0, int num_ranks = 1,
        bool experts_in_parts = false);

  // One step along .grad, each gradient times `gradient_scale` first; `step` counts from 1 and corrects the moments'
  // bias. Weights without a gradient, or of another rank, stay.
  void step(std::int64_t step, double learning_rate, double gradient_scale);

  // The gradients' squares, summed in float64 in the weights' order: of the whole weights, or of this rank's parts. Not
  // finite if one is not.
  double gradient_squares(bool of_parts) const;
  void clear_gradients();

  const std::vector<NamedWeight>& weights() const { return weights_; }
  static constexpr int kEveryRank = -1;  // each has a part of the weight
  int owner_of(std::size_t weight_idx) const { return owners_[weight_idx]; }
  bool is_part(std::size_t weight_idx) const { return owners_[weight_idx] == kEveryRank; }
  // Whether this rank updates the weight, or its part of it, and has its moments.
  bool updates(std::size_t weight_idx) const { return owners_[weight_idx] == rank_ || is_part(weight_idx); }
  const std::vector<Tensor>& first_moments() const { return first_moments_; }  // by weight; empty of another rank's
  const std::vector<Tensor>& second_moments() const { return second_moments_; }

 private:
  std::vector<NamedWeight> weights_;
  AdamWParams params_;
  std::vector<Tensor> first_moments_, second_moments_;
  std::vector<bool> decays_;
  std::vector<int> owners_;  // rank or kEveryRank
  int rank_;
};

enum class ScheduleKind { kWarmupStableDecay, kCosine };

struct Schedule {
  ScheduleKind kind = ScheduleKind::kWarmupStableDecay;
  std::int64_t steps = 1;
  std::int64_t warmup_steps = 0;
  double peak = 1e-3;
  double final_share = 0.1;  // of the peak, at the last step
  double decay_share = 0.2;  // of the steps, at the end: where warm-up/stable/decay falls, linearly

  double learning_rate(std::int64_t step) const;  // step in [1, steps]
};

}  // namespace qnext::train
