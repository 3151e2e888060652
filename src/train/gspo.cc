#include "train/gspo.h"

#include <cmath>

namespace qnext::train {

std::vector<double> group_advantages(std::span<const double> rewards) {
  const auto count = static_cast<double>(rewards.size());
  double mean = 0, variance = 0;
  for (double reward : rewards) mean += reward / count;
  for (double reward : rewards) variance += (reward - mean) * (reward - mean) / count;
  const double deviation = std::sqrt(variance);
  constexpr double kAlike = 1e-9;
  std::vector<double> out;
  for (double reward : rewards) out.push_back(deviation < kAlike ? 0 : (reward - mean) / deviation);
  return out;
}

SequenceWeight sequence_weight(double logprob, double old_logprob, std::int64_t tokens, double advantage,
                               const GspoParams& params) {
  const auto length = static_cast<double>(tokens);
  SequenceWeight out;
  out.ratio = std::exp((logprob - old_logprob) / length);
  out.clipped = advantage > 0 ? out.ratio > 1 + params.clip_high : advantage < 0 && out.ratio < 1 - params.clip_low;
  out.token_weight = out.clipped ? 0 : out.ratio * advantage / length;
  return out;
}

}  // namespace qnext::train
