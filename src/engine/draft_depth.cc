#include "engine/draft_depth.h"

#include <algorithm>
#include <bit>

namespace qnext {
namespace {

constexpr std::size_t kTrialSteps = 4;
constexpr std::size_t kShortestInterval = 64;
constexpr std::size_t kLongestInterval = 4096;
constexpr double kMemory = 0.95;  // of a step before, when the next one comes: some 20 count

}  // namespace

DraftDepth::Crowd& DraftDepth::crowd_of(std::size_t num_sequences) {
  const auto index = static_cast<std::size_t>(std::bit_width(num_sequences)) - 1;
  while (crowds_.size() <= index) {
    crowds_.push_back({.speeds = std::vector<Speed>(max_depth_ + 1), .interval = kShortestInterval});
  }
  return crowds_[index];
}

std::size_t DraftDepth::best_depth(const Crowd& crowd) {
  const auto slower = [](const Speed& a, const Speed& b) { return a.tokens_per_s() < b.tokens_per_s(); };
  return static_cast<std::size_t>(std::ranges::max_element(crowd.speeds, slower) - crowd.speeds.begin());
}

std::size_t DraftDepth::choose(std::size_t num_sequences) {
  if (max_depth_ == 0) return 0;
  Crowd& crowd = crowd_of(num_sequences);
  for (std::size_t depth = 0; depth <= max_depth_; ++depth) {
    if (crowd.speeds[depth].num_steps < kTrialSteps) return depth;  // never measured yet
  }
  const std::size_t best = best_depth(crowd);
  if (crowd.num_trial_steps == 0) {
    if (++crowd.num_steps < crowd.interval) return best;
    crowd.interval = best == crowd.best_before ? std::min(2 * crowd.interval, kLongestInterval) : kShortestInterval;
    crowd.best_before = best;
    crowd.num_steps = 0;
    crowd.num_trial_steps = kTrialSteps;
    crowd.trial_depth = (crowd.trial_depth + 1) % (max_depth_ + 1);
    if (crowd.trial_depth == best) crowd.trial_depth = (best + 1) % (max_depth_ + 1);
  }
  --crowd.num_trial_steps;
  return crowd.trial_depth;
}

void DraftDepth::record(std::size_t num_sequences, std::size_t depth, std::size_t num_tokens, double seconds) {
  Speed& speed = crowd_of(num_sequences).speeds[depth];
  speed.num_tokens = speed.num_tokens * kMemory + static_cast<double>(num_tokens);
  speed.seconds = speed.seconds * kMemory + seconds;
  ++speed.num_steps;
}

}  // namespace qnext
