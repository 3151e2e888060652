#pragma once
// A thread of its own for one piece of work. Threads start in base/ only.

#include <functional>
#include <thread>

namespace qnext {

// Runs `work` until it returns; join() and the destructor wait for that.
class WorkerThread {
 public:
  explicit WorkerThread(std::function<void()> work) : thread_(std::move(work)) {}
  void join() {
    if (thread_.joinable()) thread_.join();
  }

 private:
  std::jthread thread_;
};

}  // namespace qnext
