#pragma once
// DraftDepth: how many tokens to draft, from what steps with and without guesses took, and how often guesses were
// right. The depth that should give most tokens a second is used; one less or one more is tried for a few steps now and
// then, more and more rarely while that brings nothing, since a step with many wrong guesses takes twice its time;
// where guesses were wrong before and the first ones of a trial are, that is all of it. So drafting turns itself off
// where it costs more than it brings. What is decided here shows in the speed alone.

#include <cstddef>
#include <vector>

namespace qnext {

class DraftDepth {
 public:
  static constexpr std::size_t kLongestInterval = 512;  // steps from one trial to the next, at most

  // Depths 0 to max_depth.
  explicit DraftDepth(std::size_t max_depth) : max_depth_(max_depth), guesses_(max_depth) {}

  // For the next step, of num_sequences (at least 1) that decode.
  std::size_t choose(std::size_t num_sequences);

  // A step that ran `depth` guesses of each of num_sequences.
  void record_step(std::size_t num_sequences, std::size_t depth, double seconds);

  // Of one sequence's guesses (at most max_depth) the first num_right were.
  void record_guesses(std::size_t num_guesses, std::size_t num_right);

 private:
  // The chance that a guess is right where all before it were; recent ones count more.
  struct Chance {
    double right = 0, tried = 0;
    double value() const { return tried > 0 ? right / tried : 0; }
    void forget(double num_kept) {  // so that a trial's few guesses weigh as much as all before
      if (tried <= num_kept) return;
      right *= num_kept / tried;
      tried = num_kept;
    }
  };
  struct StepTime {
    double seconds = 0;  // recent steps count more
    std::size_t num_steps = 0;
  };
  // What a step takes is another matter for many sequences: 1, 2-3, 4-7, ... are looked at apart.
  struct Crowd {
    std::vector<StepTime> times;      // by depth
    std::size_t trial_depth = 0;      // being tried now, or last
    std::size_t num_trial_steps = 0;  // left of a trial
    std::size_t num_steps = 0;        // since the last trial
    std::size_t interval = 0;         // steps from a trial to the next
    std::size_t best_before = 0;      // the best depth when the last trial began
  };

  Crowd& crowd_of(std::size_t num_sequences);
  static bool is_known(const Crowd& crowd, std::size_t depth);
  std::size_t best_depth(const Crowd& crowd) const;

  std::size_t max_depth_;
  std::vector<Chance> guesses_;  // first, second, ...
  std::vector<Crowd> crowds_;
};

}  // namespace qnext
