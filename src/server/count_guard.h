#pragma once
// CountGuard: so many more in a count for as long as it is there. Coroutines hold it, which may outlive who owns the
// count.

#include <cstddef>
#include <memory>
#include <utility>

namespace qnext {

class CountGuard {
 public:
  explicit CountGuard(std::shared_ptr<std::size_t> count, std::size_t amount = 1)
      : count_(std::move(count)), amount_(amount) {
    *count_ += amount_;
  }
  ~CountGuard() { *count_ -= amount_; }
  CountGuard(const CountGuard&) = delete;
  CountGuard& operator=(const CountGuard&) = delete;

 private:
  std::shared_ptr<std::size_t> count_;
  std::size_t amount_;
};

}  // namespace qnext
