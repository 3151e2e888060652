#pragma once
// Where a step's time goes: each op's forward and backward, and the optimiser, add to their part.

#include <array>
#include <chrono>

namespace qnext::train {

enum class Part { kProject, kNorm, kConv, kDeltaRule, kAttention, kExperts, kHead, kOptimizer };
inline constexpr std::array kPartNames = {"project",   "norm",    "conv", "delta_rule",
                                          "attention", "experts", "head", "optimizer"};
using PartTimes = std::array<double, kPartNames.size()>;  // seconds, by Part

// Adds its own lifetime to a part. Ops run one at a time, so times need no lock and never overlap.
class PartTimer {
 public:
  explicit PartTimer(Part part) : part_(part) {}
  ~PartTimer();
  PartTimer(const PartTimer&) = delete;
  PartTimer& operator=(const PartTimer&) = delete;

 private:
  Part part_;
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

// Since the last call.
PartTimes take_part_times();

}  // namespace qnext::train
