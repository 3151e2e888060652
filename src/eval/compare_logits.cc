#include "eval/compare_logits.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/check.h"

namespace qnext {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

TokenId top1(std::span<const float> logits) {
  return static_cast<TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

double log_sum_exp(std::span<const float> logits) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (float logit : logits) sum += std::exp(logit - largest);
  return largest + std::log(sum);
}

PositionDifference difference(std::span<const float> reference, std::span<const float> actual) {
  PositionDifference out{.reference_top1 = top1(reference), .actual_top1 = top1(actual)};
  const auto finite = [](float logit) { return std::isfinite(logit); };
  if (!std::all_of(reference.begin(), reference.end(), finite) || !std::all_of(actual.begin(), actual.end(), finite)) {
    out.kl = out.max_logit_difference = kInfinity;
    return out;
  }
  const double reference_norm = log_sum_exp(reference);
  const double actual_norm = log_sum_exp(actual);
  for (std::size_t i = 0; i < reference.size(); ++i) {
    const double p = reference[i] - reference_norm;  // log-probabilities
    const double q = actual[i] - actual_norm;
    out.kl += std::exp(p) * (p - q);
    out.max_logit_difference =
        std::max(out.max_logit_difference, std::abs(static_cast<double>(reference[i]) - actual[i]));
  }
  out.kl = std::max(out.kl, 0.0);  // below zero only by rounding
  return out;
}

}  // namespace

void LogitComparison::add(View<const float> reference, View<const float> actual) {
  QN_CHECK(reference.dim(0) == actual.dim(0) && reference.dim(1) == actual.dim(1), "[{}, {}] against [{}, {}]",
           reference.dim(0), reference.dim(1), actual.dim(0), actual.dim(1));
  const std::size_t V = reference.dim(1);
  for (std::size_t t = 0; t < reference.dim(0); ++t) {
    positions_.push_back(difference({reference.row(t), V}, {actual.row(t), V}));
    for (std::size_t i = 0; i < V; ++i) {
      const double logit = reference(t, i);
      sum_ += logit;
      sum_of_squares_ += logit * logit;
    }
    count_ += static_cast<double>(V);
  }
}

LogitDifference LogitComparison::finish() const {
  QN_CHECK(!positions_.empty(), "nothing was compared");
  LogitDifference out{.positions = positions_};
  std::size_t num_agreeing = 0;
  for (const PositionDifference& position : positions_) {
    out.mean_kl += position.kl;
    out.max_kl = std::max(out.max_kl, position.kl);
    out.max_logit_difference = std::max(out.max_logit_difference, position.max_logit_difference);
    num_agreeing += position.reference_top1 == position.actual_top1 ? 1 : 0;
  }
  const auto num_positions = static_cast<double>(positions_.size());
  out.mean_kl /= num_positions;
  out.top1_agreement = static_cast<double>(num_agreeing) / num_positions;
  const double mean = sum_ / count_;
  out.reference_std = std::sqrt(std::max(0.0, sum_of_squares_ / count_ - mean * mean));
  out.max_logit_difference_over_std = out.max_logit_difference == 0 ? 0 : out.max_logit_difference / out.reference_std;
  return out;
}

void HiddenDifference::add(std::span<const float> reference, std::span<const float> actual) {
  QN_CHECK(reference.size() == actual.size(), "{} values against {}", reference.size(), actual.size());
  for (std::size_t i = 0; i < reference.size(); ++i) {
    const double expected = reference[i];
    const double difference = std::abs(actual[i] - expected);
    squared_difference += difference * difference;
    squared_reference += expected * expected;
    max_difference = std::isnan(difference) ? kInfinity : std::max(max_difference, difference);
  }
  empty = empty && reference.empty();
}

double HiddenDifference::relative() const {
  return squared_difference == 0 ? 0 : std::sqrt(squared_difference / squared_reference);
}

void RoutingDifference::add(const Choices& reference, const Choices& actual, std::size_t experts_a_token) {
  QN_CHECK(reference.experts.size() == actual.experts.size() && reference.experts.size() == reference.weights.size() &&
               actual.experts.size() == actual.weights.size(),
           "{} choices against {}", reference.experts.size(), actual.experts.size());
  for (std::size_t begin = 0; begin < reference.experts.size(); begin += experts_a_token) {
    const auto expected = reference.experts.subspan(begin, experts_a_token);
    const auto found = actual.experts.subspan(begin, experts_a_token);
    num_same_sets += std::is_permutation(expected.begin(), expected.end(), found.begin()) ? 1 : 0;
    ++num_tokens;
    if (!std::equal(expected.begin(), expected.end(), found.begin())) continue;
    for (std::size_t i = begin; i < begin + experts_a_token; ++i) {
      max_weight_difference =
          std::max(max_weight_difference, std::abs(static_cast<double>(reference.weights[i]) - actual.weights[i]));
    }
  }
}

double RoutingDifference::agreement() const {
  return num_tokens == 0 ? 1.0 : static_cast<double>(num_same_sets) / static_cast<double>(num_tokens);
}

}  // namespace qnext
