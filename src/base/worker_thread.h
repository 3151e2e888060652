#pragma once
// A thread of its own for one piece of work. Threads start in base/ only.

#include <functional>
#include <thread>

namespace qnext {

// Runs `work` until it returns; the destructor waits for that.
class WorkerThread {
 public:
  explicit WorkerThread(std::function<void()> work) : thread_(std::move(work)) {}

 private:
  std::jthread thread_;
};

}  // namespace qnext
