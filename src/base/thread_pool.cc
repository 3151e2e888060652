#include "base/thread_pool.h"

#include "base/check.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace qnext {
namespace {

// Long enough (tens of microseconds) to bridge the gaps between the kernels of a step, short enough not to burn a core
// between requests, nor one that another thread needs.
constexpr int kSpinRounds = 1'000;

inline void pause_cpu() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

ThreadPool::ThreadPool(std::size_t num_threads, std::vector<NumaNode> nodes) : nodes_(std::move(nodes)) {
  QN_CHECK(num_threads >= 1, "a pool of {} threads", num_threads);
  workers_.reserve(num_threads - 1);
  const auto bind = [this, num_threads](std::size_t part_idx) {
    if (nodes_.size() > 1) stay_on_node(node_of_part(nodes_, part_idx, num_threads));
  };
  for (std::size_t part_idx = 1; part_idx < num_threads; ++part_idx) {
    workers_.emplace_back([this, bind, part_idx] {
      bind(part_idx);
      worker_loop(part_idx);
    });
  }
  bind(0);
}

const NumaNode* ThreadPool::node_of(std::size_t part_idx) const {
  return nodes_.size() > 1 ? &node_of_part(nodes_, part_idx, num_threads()) : nullptr;
}

ThreadPool::~ThreadPool() {
  stopping_.store(true, std::memory_order_relaxed);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run(FunctionRef<void(std::size_t)> work) {
  if (workers_.empty()) return work(0);
  work_ = &work;
  num_running_.store(static_cast<std::uint32_t>(workers_.size()), std::memory_order_relaxed);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  work(0);
  // Another part may sit on this very core when threads outnumber cores: after the spin, let it run.
  for (int round = 0; num_running_.load(std::memory_order_acquire) != 0; ++round) {
    if (round < kSpinRounds) {
      pause_cpu();
    } else {
      std::this_thread::yield();
    }
  }
}

void ThreadPool::for_each(std::size_t num_tasks, FunctionRef<void(std::size_t)> task) {
  if (num_tasks == 0) return;
  if (num_tasks == 1) return task(0);
  std::atomic<std::size_t> next_task{0};
  run([&](std::size_t) {
    for (std::size_t task_idx; (task_idx = next_task.fetch_add(1, std::memory_order_relaxed)) < num_tasks;)
      task(task_idx);
  });
}

void ThreadPool::worker_loop(std::size_t part_idx) {
  std::uint32_t seen = 0;
  for (;;) {
    for (int round = 0; generation_.load(std::memory_order_acquire) == seen; ++round) {
      if (round < kSpinRounds) {
        pause_cpu();
      } else {
        generation_.wait(seen, std::memory_order_acquire);
      }
    }
    ++seen;
    if (stopping_.load(std::memory_order_relaxed)) return;
    (*work_)(part_idx);
    num_running_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace qnext
