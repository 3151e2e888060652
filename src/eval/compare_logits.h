#pragma once
// How far one model's logits, hidden states and routing lie from a reference's. Pure arithmetic, in f64.

#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include "base/units.h"
#include "tensor/view.h"

namespace qnext {

struct PositionDifference {
  double kl = 0;  // KL(reference || actual) of the next-token distributions, in nats
  double max_logit_difference = 0;
  TokenId reference_top1 = 0;  // ties to the lower id, as greedy decoding
  TokenId actual_top1 = 0;
};

struct LogitDifference {
  std::vector<PositionDifference> positions;
  double mean_kl = 0;
  double max_kl = 0;
  double top1_agreement = 0;  // share of positions with the same best token
  double max_logit_difference = 0;
  double reference_std = 0;  // of all reference logits
  double max_logit_difference_over_std = 0;
};

// Adds positions as they are computed, so that long texts need no [T, V] at once.
// A logit that is not finite on either side counts as an infinite difference.
class LogitComparison {
 public:
  // reference, actual : [T, V], the logits of the same T positions.
  void add(View<const float> reference, View<const float> actual);
  LogitDifference finish() const;  // requires that something was added

 private:
  std::vector<PositionDifference> positions_;
  double sum_ = 0;
  double sum_of_squares_ = 0;
  double count_ = 0;
};

// Sums over all values of a layer, chunk after chunk.
struct HiddenDifference {
  double squared_difference = 0;
  double squared_reference = 0;
  double max_difference = 0;
  bool empty = true;

  void add(std::span<const float> reference, std::span<const float> actual);
  double relative() const;  // |actual - reference| / |reference|, Euclidean; 0 when both are zero
};

// The routers' choices of a layer; experts : [T, A] as numbers, compared as sets.
struct RoutingDifference {
  std::size_t num_same_sets = 0;
  std::size_t num_tokens = 0;
  double max_weight_difference = 0;  // over tokens with the same experts in the same order

  struct Choices {
    std::span<const float> experts;
    std::span<const float> weights;
  };
  void add(const Choices& reference, const Choices& actual, std::size_t experts_a_token);
  double agreement() const;  // 1 when there were no tokens
};

struct LayerDifference {
  HiddenDifference hidden;  // before the layer; the last entry of a list: after the final norm
  RoutingDifference routing;
};

}  // namespace qnext
