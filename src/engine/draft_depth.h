#pragma once
// DraftDepth: how many tokens to draft, from what drafting has brought so far. Each depth's tokens a second are
// measured, 0 included; the best is used, and the others are tried again now and then, more and more rarely while they
// lose. So drafting turns itself off where it costs more than it brings. What it decides shows in the speed alone.

#include <cstddef>
#include <vector>

namespace qnext {

class DraftDepth {
 public:
  // Depths 0 to max_depth.
  explicit DraftDepth(std::size_t max_depth) : max_depth_(max_depth) {}

  std::size_t max_depth() const { return max_depth_; }

  // For the next step, of num_sequences (at least 1) that decode.
  std::size_t choose(std::size_t num_sequences);

  // A step that drafted `depth` tokens for each of num_sequences yielded num_tokens in `seconds`.
  void record(std::size_t num_sequences, std::size_t depth, std::size_t num_tokens, double seconds);

 private:
  struct Speed {
    double num_tokens = 0, seconds = 0;  // older steps count less and less
    std::size_t num_steps = 0;
    double tokens_per_s() const { return seconds > 0 ? num_tokens / seconds : 0; }
  };
  // What holds for one sequence does not hold for many: 1, 2-3, 4-7, ... have speeds of their own.
  struct Crowd {
    std::vector<Speed> speeds;        // by depth
    std::size_t trial_depth = 0;      // being tried now, or next
    std::size_t num_trial_steps = 0;  // left of a trial
    std::size_t num_steps = 0;        // since the last trial
    std::size_t interval = 0;         // steps from a trial to the next
    std::size_t best_before = 0;      // the best depth when the last trial began
  };

  Crowd& crowd_of(std::size_t num_sequences);
  static std::size_t best_depth(const Crowd& crowd);

  std::size_t max_depth_;
  std::vector<Crowd> crowds_;
};

}  // namespace qnext
