#pragma once
// CountGuard: one more in a count for as long as it is there. Coroutines hold it, which may outlive who owns the count.

#include <cstddef>
#include <memory>
#include <utility>

namespace qnext {

class CountGuard {
 public:
  explicit CountGuard(std::shared_ptr<std::size_t> count) : count_(std::move(count)) { ++*count_; }
  ~CountGuard() { --*count_; }
  CountGuard(const CountGuard&) = delete;
  CountGuard& operator=(const CountGuard&) = delete;

 private:
  std::shared_ptr<std::size_t> count_;
};

}  // namespace qnext
