#pragma once
// ThreadPool: fork-join over a fixed set of threads. A fork costs about a microsecond: workers spin for the next one
// for a bounded time, then sleep. The only place in the project that starts threads.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <thread>
#include <vector>

#include "base/function_ref.h"
#include "base/numa.h"

namespace qnext {

class ThreadPool {
 public:
  // num_threads >= 1 counts the caller, who works too: 1 starts no thread. Where there are several NUMA nodes each part
  // is bound to one, part 0 with the thread that makes the pool, and so with those that it starts later.
  explicit ThreadPool(std::size_t num_threads, std::vector<NumaNode> nodes = numa_nodes());
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  std::size_t num_threads() const { return workers_.size() + 1; }

  // Where a part runs; null where it makes no difference.
  const NumaNode* node_of(std::size_t part_idx) const;

  // Calls work(part_idx) once for every part_idx in [0, num_threads()), all at once, and returns when all are done.
  // Not reentrant; called by one thread at a time.
  void run(FunctionRef<void(std::size_t part_idx)> work);

  // Calls task(task_idx) for every task_idx in [0, num_tasks), each by whichever thread is free.
  void for_each(std::size_t num_tasks, FunctionRef<void(std::size_t task_idx)> task);

 private:
  void worker_loop(std::size_t part_idx);

  std::vector<NumaNode> nodes_;
  std::vector<std::thread> workers_;
  const FunctionRef<void(std::size_t)>* work_ = nullptr;  // of the fork under way
  alignas(64) std::atomic<std::uint32_t> generation_{0};  // grows by one a fork
  alignas(64) std::atomic<std::uint32_t> num_running_{0};
  std::atomic<bool> stopping_{false};
};

}  // namespace qnext
