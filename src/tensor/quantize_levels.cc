#include "tensor/quantize_levels.h"

#include <algorithm>
#include <cmath>
#include <tuple>

namespace qnext {
namespace {

// ---- Rounding to levels ----

class LinearRounder {
 public:
  explicit LinearRounder(const LinearLevels& levels)
      : first_(splat(static_cast<float>(levels.first))), last_(splat(static_cast<float>(levels.last))) {}
  float first() const { return first_[0]; }
  float last() const { return last_[0]; }
  Lanes nearest(Lanes values) const { return round_lanes(clamp_lanes(values, first_, last_)); }

 private:
  Lanes first_, last_;
};

// Climbs from level to level where a value lies above the middle between them.
class TableRounder {
 public:
  explicit TableRounder(const TableLevels& levels) : first_(levels.front()), last_(levels.back()) {
    for (std::size_t i = 0; i < kNumSteps; ++i) {
      middles_[i] = splat(0.5f * static_cast<float>(levels[i] + levels[i + 1]));
      steps_[i] = splat(static_cast<float>(levels[i + 1] - levels[i]));
    }
  }
  float first() const { return first_; }
  float last() const { return last_; }
  Lanes nearest(Lanes values) const {
    Lanes levels = splat(first_);
    for (std::size_t i = 0; i < kNumSteps; ++i) levels += values > middles_[i] ? steps_[i] : Lanes{};
    return levels;
  }

 private:
  static constexpr std::size_t kNumSteps = std::tuple_size_v<TableLevels> - 1;
  float first_, last_;
  std::array<Lanes, kNumSteps> middles_, steps_;
};

// ---- One scale ----

// Weighted sums over a sub-block. With its levels fixed they give the squared error of every scale.
template <class Number>  // float, or Lanes for four sets of levels
struct LevelSums {
  Number xx;      // of the values alone
  Number lx, ll;  // with the levels

  Number error(Number scale) const { return xx - 2 * scale * lx + scale * scale * ll; }
  Number best_scale() const { return divide_or_zero(lx, ll); }
};

template <class Rounder>
class LevelSubBlock {
 public:
  LevelSubBlock() = default;
  LevelSubBlock(const SubBlock& sub, const Rounder& rounder) : sub_(sub), rounder_(&rounder) {
    for (std::size_t i = 0; i < sub.num_elements; ++i) {
      if (std::fabs(sub.x[i][0]) > std::fabs(extreme_)) extreme_ = sub.x[i][0];
      xx_ += sub.weights[i] * sub.x[i] * sub.x[i];
    }
  }

  // The sums for the levels that each lane's scale rounds the values to.
  LevelSums<Lanes> level_sums(Lanes scales) const {
    const Lanes factors = divide_or_zero(splat(1), scales);
    LevelSums<Lanes> sums = {xx_, Lanes{}, Lanes{}};
    for (std::size_t i = 0; i < sub_.num_elements; ++i) {
      const Lanes levels = rounder_->nearest(sub_.x[i] * factors);
      const Lanes weighted = sub_.weights[i] * levels;
      sums.lx += weighted * sub_.x[i];
      sums.ll += weighted * levels;
    }
    return sums;
  }

  // The best real scale in every lane by itself: from the largest magnitude laid on the first and the last level, and
  // by parts within and beyond them, rounded and fitted; then refitted. Scales may be negative.
  Lanes search_scales() const {
    constexpr int kNumPasses = 3;  // for each end
    constexpr int kNumRefits = 1;
    Lanes best{};
    Lanes best_errors = xx_;
    const auto keep_better = [&](Lanes trials) {
      const LevelSums<Lanes> sums = level_sums(trials);
      const Lanes scales = sums.best_scale();
      const Lanes errors = sums.error(scales);
      const auto better = errors < best_errors;
      best = better ? scales : best;
      best_errors = better ? errors : best_errors;
    };
    for (const float end : {rounder_->first(), rounder_->last()}) {
      const float outermost = 1 + 0.45f / std::fabs(end);
      const float step = (outermost - 0.7f) / (kNumPasses * kNumLanes);
      for (int pass = 0; pass < kNumPasses; ++pass) {
        const Lanes parts = outermost - step * (Lanes{0, 1, 2, 3} + static_cast<float>(pass * kNumLanes));
        keep_better(extreme_ / (end * parts));
      }
    }
    for (int refit = 0; refit < kNumRefits; ++refit) keep_better(best);
    return best;
  }

  // The lane whose scale, as it stands, has the least error.
  std::size_t best_lane(Lanes scales) const { return lane_of_least(level_sums(scales).error(scales)); }

  void write_levels(std::int8_t* levels, float scale) const {
    const Lanes factors = splat(divide_or_zero(1, scale));
    for (std::size_t i = 0; i < sub_.num_elements; ++i) {
      levels[i] = static_cast<std::int8_t>(rounder_->nearest(sub_.x[i] * factors)[0]);
    }
  }

 private:
  SubBlock sub_{};
  const Rounder* rounder_ = nullptr;
  float extreme_ = 0;  // the value of the largest magnitude
  Lanes xx_{};
};

// ---- Super-blocks ----

template <class Rounder>
class LevelSuperSearch {
 public:
  LevelSuperSearch(const BlockValues& values, const Rounder& rounder, const LevelShape& shape)
      : values_(values), shape_(shape), min_scale_(splat(-0.5f * static_cast<float>(shape.num_scales))) {
    for (std::size_t s = 0; s < shape.num_subs; ++s) {
      const std::size_t first = s * shape.sub_elements;
      subs_[s] = {{&values.x[first], &values.weights[first], shape.sub_elements}, rounder};
    }
  }

  LevelBlock run() {
    choose_real_scales();
    choose_d();
    float best_error = fit_integers();
    LevelBlock best = block_;
    for (int refit = 0; refit < kNumRefits; ++refit) {
      refit_d();
      const float error = fit_integers();
      if (!(error < best_error)) break;
      best_error = error;
      best = block_;
    }
    for (std::size_t s = 0; s < shape_.num_subs; ++s) {
      subs_[s].write_levels(&best.levels[s * shape_.sub_elements], best.d * static_cast<float>(best.scales[s]));
    }
    return best;
  }

 private:
  static constexpr int kNumRefits = 2;  // of d

  void choose_real_scales() {
    for (std::size_t s = 0; s < shape_.num_subs; ++s) {
      const LevelSums<Lanes> sums = subs_[s].level_sums(subs_[s].search_scales());
      const Lanes scales = sums.best_scale();
      const std::size_t lane = lane_of_least(sums.error(scales));
      keep_sums(s, sums, lane);
      if (std::fabs(scales[lane]) > std::fabs(largest_scale_)) largest_scale_ = scales[lane];
    }
  }

  void keep_sums(std::size_t s, const LevelSums<Lanes>& sums, std::size_t lane) {
    sums_[s] = {sums.xx[lane], sums.lx[lane], sums.ll[lane]};
  }

  // With levels fixed, a sub-block's error is a quadratic of its scale: to choose d among many trials takes no pass
  // over the elements. Trials lay the largest real scale on either end of the integers, a little beyond, and within.
  void choose_d() {
    constexpr int kNumPasses = 4;  // for each end
    constexpr float kStep = 0.012f;
    float best_error = 0;
    float best = 0;
    for (const float end : {min_scale_[0] - 0.5f, -min_scale_[0] - 0.5f}) {
      Lanes parts = 1.0f - kStep * Lanes{0, 1, 2, 3};
      for (int pass = 0; pass < kNumPasses; ++pass, parts -= kStep * kNumLanes) {
        const Lanes trials = largest_scale_ / (end * parts);
        const Lanes errors = errors_of_d(trials);
        const std::size_t lane = lane_of_least(errors);
        if (best == 0 || errors[lane] < best_error) {
          best_error = errors[lane];
          best = trials[lane];
        }
      }
    }
    block_.d = values_.round_to_f16(best);
    for (std::size_t s = 0; s < shape_.num_subs; ++s) {
      block_.scales[s] = static_cast<std::int8_t>(nearest_integers(sums_[s].best_scale(), splat(block_.d))[0]);
    }
  }

  Lanes errors_of_d(Lanes d) const {  // above what the real scales have
    Lanes total{};
    for (std::size_t s = 0; s < shape_.num_subs; ++s) {
      const float best_scale = sums_[s].best_scale();
      const Lanes rest = d * nearest_integers(best_scale, d) - best_scale;
      total += sums_[s].ll * rest * rest;
    }
    return total;
  }

  Lanes nearest_integers(float scale, Lanes d) const {
    return round_lanes(clamp_lanes(divide_or_zero(splat(scale), d), min_scale_, -min_scale_ - 1.0f));
  }

  // For d as stored, the best integers near the present ones, with levels rounded anew. Returns the error.
  float fit_integers() {
    float total = 0;
    for (std::size_t s = 0; s < shape_.num_subs; ++s) {
      const Lanes neighbours = static_cast<float>(block_.scales[s]) + Lanes{-1, 0, 1, 2};
      const Lanes scales = clamp_lanes(neighbours, min_scale_, -min_scale_ - 1.0f);
      const Lanes real_scales = block_.d * scales;
      const LevelSums<Lanes> sums = subs_[s].level_sums(real_scales);
      const Lanes errors = sums.error(real_scales);
      const std::size_t lane = lane_of_least(errors);
      block_.scales[s] = static_cast<std::int8_t>(scales[lane]);
      keep_sums(s, sums, lane);
      total += errors[lane];
    }
    return total;
  }

  // Least squares of d; integers and levels fixed.
  void refit_d() {
    float lx = 0, ll = 0;
    for (std::size_t s = 0; s < shape_.num_subs; ++s) {
      const auto scale = static_cast<float>(block_.scales[s]);
      lx += scale * sums_[s].lx;
      ll += scale * scale * sums_[s].ll;
    }
    block_.d = values_.round_to_f16(divide_or_zero(lx, ll));
  }

  const BlockValues& values_;
  const LevelShape& shape_;
  Lanes min_scale_;
  float largest_scale_ = 0;  // real, of the largest magnitude
  std::array<LevelSubBlock<Rounder>, 16> subs_;
  std::array<LevelSums<float>, 16> sums_{};
  LevelBlock block_;
};

template <class Rounder>
LevelBlock search_block(const BlockValues& values, const Rounder& rounder) {
  const LevelSubBlock<Rounder> sub({values.x.data(), values.weights.data(), kSmallBlock}, rounder);
  Lanes scales = sub.search_scales();
  for (std::size_t lane = 0; lane < kNumLanes; ++lane) scales[lane] = values.round_to_f16(scales[lane]);
  LevelBlock out = {.d = scales[sub.best_lane(scales)]};
  sub.write_levels(out.levels.data(), out.d);
  return out;
}

}  // namespace

LevelBlock search_level_super_block(const BlockValues& values, const LinearLevels& levels, const LevelShape& shape) {
  return LevelSuperSearch(values, LinearRounder(levels), shape).run();
}

LevelBlock search_level_super_block(const BlockValues& values, const TableLevels& levels, const LevelShape& shape) {
  return LevelSuperSearch(values, TableRounder(levels), shape).run();
}

LevelBlock search_level_block(const BlockValues& values, const LinearLevels& levels) {
  return search_block(values, LinearRounder(levels));
}

LevelBlock search_level_block(const BlockValues& values, const TableLevels& levels) {
  return search_block(values, TableRounder(levels));
}

PowerBlock search_power_block(const BlockValues& values) {
  constexpr int kMaxExponent = 252;  // 12 * 2^(252 - 128) is the largest finite value
  const TableRounder rounder(kSortedMxfp4Levels);
  const LevelSubBlock<TableRounder> sub({values.x.data(), values.weights.data(), kSmallBlock}, rounder);
  // The largest magnitude lies in [1/2, 1): 2^-4 lays it in [8, 16) of 12; neighbouring powers may suit the rest.
  Lanes scales{};
  std::array<int, kNumLanes> exponents{};
  for (std::size_t lane = 0; lane < kNumLanes; ++lane) {
    exponents[lane] = std::clamp(std::ilogb(values.unit) + 128 - 5 + static_cast<int>(lane), 0, kMaxExponent);
    scales[lane] = static_cast<float>(std::ldexp(1 / values.unit, exponents[lane] - 128));
  }
  const std::size_t best = sub.best_lane(scales);
  PowerBlock out = {.exponent = static_cast<std::uint8_t>(exponents[best])};
  sub.write_levels(out.levels.data(), scales[best]);
  return out;
}

}  // namespace qnext
