#pragma once
// Where an engine's time goes, in seconds.

#include <chrono>

namespace qnext {

inline double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Adds the time until it goes to a sum.
class TimeAdder {
 public:
  explicit TimeAdder(double& sum_s) : sum_s_(sum_s) {}
  ~TimeAdder() { sum_s_ += seconds_since(start_); }
  TimeAdder(const TimeAdder&) = delete;
  TimeAdder& operator=(const TimeAdder&) = delete;

 private:
  double& sum_s_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace qnext
