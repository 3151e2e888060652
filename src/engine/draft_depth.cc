#include "engine/draft_depth.h"

#include <algorithm>
#include <bit>

namespace qnext {
namespace {

constexpr std::size_t kTrialSteps = 4;
constexpr std::size_t kShortestInterval = 64;
constexpr double kNewStep = 0.1;       // its weight in the mean
constexpr double kGuessMemory = 0.95;  // of a guess, when the next one comes: some 20 count
constexpr double kHopeless = 0.1;      // of first guesses right: a trial that began with nothing ends

}  // namespace

DraftDepth::Crowd& DraftDepth::crowd_of(std::size_t num_sequences) {
  const auto index = static_cast<std::size_t>(std::bit_width(num_sequences)) - 1;
  while (crowds_.size() <= index) {
    crowds_.push_back({.times = std::vector<StepTime>(max_depth_ + 1), .interval = kShortestInterval});
  }
  return crowds_[index];
}

bool DraftDepth::is_known(const Crowd& crowd, std::size_t depth) {
  return crowd.times[depth].num_steps >= kTrialSteps;
}

// Of those that are known.
std::size_t DraftDepth::best_depth(const Crowd& crowd) const {
  std::size_t best = 0;
  double best_rate = 0;
  double num_tokens = 1;  // a step's, of one sequence
  double all_right = 1;   // the chance that all guesses so far are
  for (std::size_t depth = 0; depth <= max_depth_ && is_known(crowd, depth); ++depth) {
    if (depth > 0) {
      all_right *= guesses_[depth - 1].value();
      num_tokens += all_right;
    }
    const double rate = num_tokens / std::max(crowd.times[depth].seconds, 1e-9);
    if (rate > best_rate) {
      best = depth;
      best_rate = rate;
    }
  }
  return best;
}

std::size_t DraftDepth::choose(std::size_t num_sequences) {
  if (max_depth_ == 0) return 0;
  Crowd& crowd = crowd_of(num_sequences);
  if (!is_known(crowd, 0)) return 0;
  const std::size_t best = best_depth(crowd);
  if (best < max_depth_ && !is_known(crowd, best + 1)) return best + 1;
  if (crowd.num_trial_steps == 0) {
    if (++crowd.num_steps < crowd.interval) return best;
    crowd.interval = best > crowd.best_before ? kShortestInterval : std::min(2 * crowd.interval, kLongestInterval);
    crowd.best_before = best;
    crowd.num_steps = 0;
    crowd.num_trial_steps = kTrialSteps;
    const bool deeper = best == 0 || (best < max_depth_ && crowd.trial_depth < best);
    crowd.trial_depth = deeper ? best + 1 : best - 1;
    if (deeper) guesses_[best].forget(kTrialSteps);
  }
  const bool has_begun = crowd.num_trial_steps < kTrialSteps;
  if (has_begun && best == 0 && guesses_[0].value() < kHopeless) {
    crowd.num_trial_steps = 0;
    return 0;
  }
  --crowd.num_trial_steps;
  return crowd.trial_depth;
}

void DraftDepth::record_step(std::size_t num_sequences, std::size_t depth, double seconds) {
  StepTime& time = crowd_of(num_sequences).times[depth];
  ++time.num_steps;
  const double weight = std::max(kNewStep, 1.0 / static_cast<double>(time.num_steps));
  time.seconds += weight * (seconds - time.seconds);
}

void DraftDepth::record_guesses(std::size_t num_guesses, std::size_t num_right) {
  for (std::size_t i = 0; i < std::min(num_guesses, num_right + 1); ++i) {
    guesses_[i].right = guesses_[i].right * kGuessMemory + (i < num_right ? 1 : 0);
    guesses_[i].tried = guesses_[i].tried * kGuessMemory + 1;
  }
}

}  // namespace qnext
