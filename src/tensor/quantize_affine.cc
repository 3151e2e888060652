#include "tensor/quantize_affine.h"

#include <algorithm>
#include <cmath>

namespace qnext {
namespace {

// Which offsets a block can have: any, or those of one sign (dmin's, for all of a super-block).
enum class OffsetSign { kAny, kNegative, kPositive };

Lanes allowed_offsets(Lanes offsets, OffsetSign sign) {
  if (sign == OffsetSign::kNegative) return min_lanes(offsets, Lanes{});
  if (sign == OffsetSign::kPositive) return max_lanes(offsets, Lanes{});
  return offsets;
}

// Weighted sums over a sub-block. With its codes fixed they give the squared error of every (scale, offset).
template <class Number>  // float, or Lanes for four sets of codes
struct AffineSums {
  Number w, x, xx;   // of the values alone
  Number q, qq, qx;  // with the codes

  Number error(Number scale, Number offset) const {
    return xx - 2 * (scale * qx + offset * x) + scale * scale * qq + 2 * scale * offset * q + offset * offset * w;
  }
  Number best_offset(Number scale) const { return divide_or_zero(x - scale * q, w); }
};

struct AffineFits {
  Lanes scales, offsets, errors;
};

// Least squares for each lane's codes, within the allowed offsets.
AffineFits best_fits(const AffineSums<Lanes>& sums, OffsetSign sign) {
  const Lanes determinant = sums.w * sums.qq - sums.q * sums.q;
  const auto distinct_codes = determinant > 1e-6f * sums.w * sums.qq;
  Lanes scales = distinct_codes ? divide_or_zero(sums.w * sums.qx - sums.q * sums.x, determinant) : Lanes{};
  Lanes offsets = sums.best_offset(scales);
  const auto allowed = allowed_offsets(offsets, sign) == offsets;
  offsets = allowed ? offsets : Lanes{};
  scales = max_lanes(allowed ? scales : divide_or_zero(sums.qx, sums.qq), Lanes{});
  return {scales, offsets, sums.error(scales, offsets)};
}

class AffineSubBlock {
 public:
  AffineSubBlock() = default;
  AffineSubBlock(const SubBlock& sub, int max_code) : sub_(sub), max_code_(splat(static_cast<float>(max_code))) {
    low_ = high_ = sub.x[0];
    for (std::size_t i = 0; i < sub.num_elements; ++i) {
      const Lanes weighted = sub.weights[i] * sub.x[i];
      low_ = min_lanes(low_, sub.x[i]);
      high_ = max_lanes(high_, sub.x[i]);
      sums_.w += sub.weights[i];
      sums_.x += weighted;
      sums_.xx += weighted * sub.x[i];
    }
  }

  float low() const { return low_[0]; }
  Lanes lows() const { return low_; }
  Lanes highs() const { return high_; }
  Lanes max_code() const { return max_code_; }
  const AffineSums<Lanes>& value_sums() const { return sums_; }

  // The sums for the codes that each lane's (scale, offset) rounds the values to.
  AffineSums<Lanes> code_sums(Lanes scales, Lanes offsets) const {
    const Lanes factors = divide_or_zero(splat(1), scales);
    const Lanes shifts = -offsets * factors;
    AffineSums<Lanes> sums = sums_;
    for (std::size_t i = 0; i < sub_.num_elements; ++i) {
      const Lanes codes = round_lanes(clamp_lanes(sub_.x[i] * factors + shifts, Lanes{}, max_code_));
      const Lanes weighted = sub_.weights[i] * codes;
      sums.q += weighted;
      sums.qq += weighted * codes;
      sums.qx += weighted * sub_.x[i];
    }
    return sums;
  }

  // The squared error of values rounded so, free of the cancellation in AffineSums::error. Costs a pass.
  Lanes exact_errors(Lanes scales, Lanes offsets) const {
    const Lanes factors = divide_or_zero(splat(1), scales);
    Lanes errors{};
    for (std::size_t i = 0; i < sub_.num_elements; ++i) {
      const Lanes above = sub_.x[i] - offsets;
      const Lanes rest = above - scales * round_lanes(clamp_lanes(above * factors, Lanes{}, max_code_));
      errors += sub_.weights[i] * rest * rest;
    }
    return errors;
  }

  void write_codes(std::uint8_t* codes, float scale, float offset) const {
    const float factor = divide_or_zero(1, scale);
    for (std::size_t i = 0; i < sub_.num_elements; ++i) {
      const float code = std::clamp((sub_.x[i][0] - offset) * factor, 0.0f, max_code_[0]);
      codes[i] = static_cast<std::uint8_t>(std::lrintf(code));
    }
  }

 private:
  SubBlock sub_{};
  Lanes max_code_{};
  Lanes low_{}, high_{};
  AffineSums<Lanes> sums_{};  // of the values; no codes
};

// The best real (scale, offset) of a sub-block, in every lane by itself: from both ends of its range drawn in by
// several parts of a step (a lane's low end, by turns its high end), rounded and fitted; then refitted once.
AffineFits search_real_fits(const AffineSubBlock& sub, OffsetSign sign) {
  // In steps between codes: two bits clip less of a step than four or five.
  const bool two_bits = sub.max_code()[0] < 4;
  const Lanes low_shifts = two_bits ? Lanes{-0.05f, 0.1f, 0.25f, 0.4f} : Lanes{-0.2f, 0.2f, 0.6f, 1.0f};
  const float first_high_shift = two_bits ? -0.1f : -0.3f;
  const float high_shift_step = two_bits ? 0.15f : 0.35f;

  const Lanes lows = allowed_offsets(sub.lows(), sign);
  const Lanes steps = (max_lanes(sub.highs(), lows) - lows) / sub.max_code();
  AffineFits best = best_fits(sub.value_sums(), sign);  // all codes 0
  const auto keep_better = [&](const AffineFits& fits) {
    const auto better = fits.errors < best.errors;
    best.scales = better ? fits.scales : best.scales;
    best.offsets = better ? fits.offsets : best.offsets;
    best.errors = better ? fits.errors : best.errors;
  };
  const Lanes offsets = allowed_offsets(lows + low_shifts * steps, sign);
  for (int shift_idx = 0; shift_idx < 5; ++shift_idx) {
    const float high_shift = first_high_shift + high_shift_step * static_cast<float>(shift_idx);
    const Lanes ends = max_lanes(sub.highs(), lows) - high_shift * steps;
    keep_better(best_fits(sub.code_sums((ends - offsets) / sub.max_code(), offsets), sign));
  }
  keep_better(best_fits(sub.code_sums(best.scales, best.offsets), sign));
  return best;
}

class AffineSuperSearch {
 public:
  AffineSuperSearch(const BlockValues& values, const AffineShape& shape) : values_(values), shape_(shape) {
    float sum_of_lows = 0;
    for (std::size_t s = 0; s < shape.num_subs; ++s) {
      const std::size_t first = s * shape.sub_elements;
      subs_[s] = {{&values.x[first], &values.weights[first], shape.sub_elements}, shape.max_code};
      sum_of_lows += subs_[s].low();
    }
    sign_ = sum_of_lows > 0 ? OffsetSign::kPositive : OffsetSign::kNegative;
  }

  AffineBlock run() {
    choose_real_fits();
    choose_units();
    float best_error = fit_integers();
    AffineBlock best = block_;
    for (int refit = 0; refit < kNumRefits; ++refit) {
      refit_units();
      const float error = fit_integers();
      if (!(error < best_error)) break;
      best_error = error;
      best = block_;
    }
    for (std::size_t s = 0; s < shape_.num_subs; ++s) {
      subs_[s].write_codes(&best.codes[s * shape_.sub_elements], best.d * static_cast<float>(best.scales[s]),
                           best.offset_unit * static_cast<float>(best.mins[s]));
    }
    return best;
  }

 private:
  static constexpr int kNumRefits = 2;  // of d and dmin

  void choose_real_fits() {
    for (std::size_t s = 0; s < shape_.num_subs; ++s) {
      const AffineFits fits = search_real_fits(subs_[s], sign_);
      const std::size_t lane = lane_of_least(fits.errors);
      const AffineSums<Lanes> sums = subs_[s].code_sums(splat(fits.scales[lane]), splat(fits.offsets[lane]));
      const AffineFits refit = best_fits(sums, sign_);
      real_scales_[s] = refit.scales[0];
      max_scale_ = std::max(max_scale_, refit.scales[0]);
      max_offset_ = std::max(max_offset_, std::fabs(refit.offsets[0]));
      keep_sums(s, sums, 0);
    }
  }

  void keep_sums(std::size_t s, const AffineSums<Lanes>& sums, std::size_t lane) {
    sums_[s] = {sums.w[lane], sums.x[lane], sums.xx[lane], sums.q[lane], sums.qq[lane], sums.qx[lane]};
  }

  // With codes fixed, a sub-block's error is a quadratic of (scale, offset), known from its sums: to choose d and dmin
  // among many trials takes no pass over the elements. First d, then dmin, then d again.
  void choose_units() {
    const float unit_sign = sign_ == OffsetSign::kPositive ? 1.0f : -1.0f;
    const float max_scale = static_cast<float>(shape_.max_scale);
    float offset_unit = unit_sign * max_offset_ / max_scale;
    const auto error_of_d = [&](Lanes trials) { return error_of_units(trials, splat(offset_unit)); };
    float d = best_trial(max_scale_, error_of_d);
    offset_unit = best_trial(unit_sign * max_offset_, [&](Lanes trials) { return error_of_units(splat(d), trials); });
    d = best_trial(max_scale_, error_of_d);
    store_units(d, offset_unit);
    for (std::size_t s = 0; s < shape_.num_subs; ++s) {
      block_.scales[s] = static_cast<std::uint8_t>(nearest_integers(splat(real_scales_[s]), splat(block_.d))[0]);
    }
  }

  // Trials put the largest of the values that are to be integers times the trial at max_scale + 1/2, and at less.
  template <class ErrorOf>
  float best_trial(float largest, ErrorOf error_of) const {
    constexpr int kNumPasses = 6;
    constexpr float kStep = 0.012f;
    Lanes parts = 1.0f - kStep * Lanes{0, 1, 2, 3};
    float best = 0;
    float best_error = 0;
    for (int pass = 0; pass < kNumPasses; ++pass, parts -= kStep * kNumLanes) {
      const Lanes trials = largest / ((static_cast<float>(shape_.max_scale) + 0.5f) * parts);
      const Lanes errors = error_of(trials);
      const std::size_t lane = lane_of_least(errors);
      if (pass == 0 || errors[lane] < best_error) {
        best = trials[lane];
        best_error = errors[lane];
      }
    }
    return best;
  }

  Lanes error_of_units(Lanes d, Lanes offset_units) const {
    Lanes total{};
    for (std::size_t s = 0; s < shape_.num_subs; ++s) {
      const AffineSums<float>& sums = sums_[s];
      const Lanes scales = d * nearest_integers(splat(real_scales_[s]), d);
      const Lanes best_offsets = (sums.x - scales * sums.q) * divide_or_zero(1, sums.w);
      const Lanes offsets = offset_units * nearest_integers(best_offsets, offset_units);
      total += sums.xx - 2 * (scales * sums.qx + offsets * sums.x) + scales * scales * sums.qq +
               2 * scales * offsets * sums.q + offsets * offsets * sums.w;
    }
    return total;
  }

  Lanes nearest_integers(Lanes values, Lanes units) const {
    const Lanes max_scale = splat(static_cast<float>(shape_.max_scale));
    return round_lanes(clamp_lanes(divide_or_zero(values, units), Lanes{}, max_scale));
  }

  void store_units(float d, float offset_unit) {
    block_.d = values_.round_to_f16(d);
    block_.offset_unit = values_.round_to_f16(offset_unit);
  }

  // For d and dmin as stored, the best integers near the present ones, with codes rounded anew. Returns the error.
  float fit_integers() {
    float total = 0;
    for (std::size_t s = 0; s < shape_.num_subs; ++s) total += fit_integers_of(s);
    return total;
  }

  // Neighbouring scales side by side, each with the integers just below and above the offset that would suit it best.
  float fit_integers_of(std::size_t s) {
    const Lanes max_scale = splat(static_cast<float>(shape_.max_scale));
    const Lanes neighbours = static_cast<float>(block_.scales[s]) + Lanes{-1, 0, 1, 2};
    const Lanes scales = clamp_lanes(neighbours, Lanes{}, max_scale);
    const Lanes real_scales = block_.d * scales;
    const Lanes best_offsets = (sums_[s].x - real_scales * sums_[s].q) * divide_or_zero(1, sums_[s].w);
    const Lanes real_mins = divide_or_zero(best_offsets, splat(block_.offset_unit));
    float least = 0;
    AffineSums<Lanes> least_sums{};
    std::size_t least_lane = 0;
    for (const float side : {-0.5f, 0.5f}) {
      const Lanes mins = round_lanes(clamp_lanes(real_mins + side, Lanes{}, max_scale));
      const Lanes offsets = block_.offset_unit * mins;
      const AffineSums<Lanes> sums = subs_[s].code_sums(real_scales, offsets);
      const Lanes errors = sums.error(real_scales, offsets);
      const std::size_t lane = lane_of_least(errors);
      if (side < 0 || errors[lane] < least) {
        least = errors[lane];
        least_sums = sums;
        least_lane = lane;
        block_.scales[s] = static_cast<std::uint8_t>(scales[lane]);
        block_.mins[s] = static_cast<std::uint8_t>(mins[lane]);
      }
    }
    keep_sums(s, least_sums, least_lane);
    return least;
  }

  // Least squares of d and the offset unit together; integers and codes fixed.
  void refit_units() {
    float dd = 0, du = 0, uu = 0, dx = 0, ux = 0;
    for (std::size_t s = 0; s < shape_.num_subs; ++s) {
      const auto scale = static_cast<float>(block_.scales[s]);
      const auto min = static_cast<float>(block_.mins[s]);
      dd += scale * scale * sums_[s].qq;
      du += scale * min * sums_[s].q;
      uu += min * min * sums_[s].w;
      dx += scale * sums_[s].qx;
      ux += min * sums_[s].x;
    }
    const float determinant = dd * uu - du * du;
    if (determinant > 1e-6f * dd * uu) {
      store_units((uu * dx - du * ux) / determinant, (dd * ux - du * dx) / determinant);
    } else {  // only one of the two has a part in the values, or both the same one
      store_units(dd > 0 ? (dx - block_.offset_unit * du) / dd : block_.d,
                  uu > 0 ? (ux - block_.d * du) / uu : block_.offset_unit);
    }
  }

  const BlockValues& values_;
  const AffineShape& shape_;
  OffsetSign sign_ = OffsetSign::kNegative;
  float max_scale_ = 0;   // of the real fits
  float max_offset_ = 0;  // magnitude
  std::array<AffineSubBlock, 16> subs_;
  std::array<float, 16> real_scales_{};
  std::array<AffineSums<float>, 16> sums_{};
  AffineBlock block_;
};

}  // namespace

AffineBlock search_affine_super_block(const BlockValues& values, const AffineShape& shape) {
  return AffineSuperSearch(values, shape).run();
}

AffineBlock search_affine_block(const BlockValues& values, int max_code) {
  constexpr int kNumRefits = 2;
  const SubBlock block = {values.x.data(), values.weights.data(), kSmallBlock};
  const AffineSubBlock sub(block, max_code);
  std::array<Lanes, kSmallBlock> above_low;  // a range far from zero would cancel in the sums
  for (std::size_t i = 0; i < kSmallBlock; ++i) above_low[i] = block.x[i] - sub.lows();
  const AffineFits fits =
      search_real_fits(AffineSubBlock({above_low.data(), block.weights, kSmallBlock}, max_code), OffsetSign::kAny);
  const std::size_t best = lane_of_least(fits.errors);

  // The offset as f16, rounded up and down; for each the scale is fitted anew. A range of zero is met from below.
  Lanes offsets = (fits.offsets[best] + sub.low()) * Lanes{1 - 0x1p-11f, 1 - 0x1p-12f, 1, 1 + 0x1p-11f};
  for (std::size_t lane = 0; lane < kNumLanes; ++lane) offsets[lane] = values.round_to_f16(offsets[lane]);
  const Lanes spans = max_lanes((sub.highs() - offsets) / sub.max_code(), Lanes{});
  Lanes scales = fits.scales[best] > 0 ? splat(fits.scales[best]) : spans;
  for (int refit = 0; refit < kNumRefits; ++refit) {
    const AffineSums<Lanes> sums = sub.code_sums(scales, offsets);
    scales = max_lanes(divide_or_zero(sums.qx - offsets * sums.q, sums.qq), Lanes{});
  }
  for (std::size_t lane = 0; lane < kNumLanes; ++lane) scales[lane] = values.round_to_f16(scales[lane]);
  const std::size_t lane = lane_of_least(sub.exact_errors(scales, offsets));
  AffineBlock out = {.d = scales[lane], .offset_unit = offsets[lane]};
  sub.write_codes(out.codes.data(), out.d, out.offset_unit);
  return out;
}

}  // namespace qnext
