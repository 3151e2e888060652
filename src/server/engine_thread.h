#pragma once
// EngineThread: the one thread that owns an engine's state. Others submit and cancel; events come back in order.

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "base/worker_thread.h"
#include "engine/engine.h"

namespace qnext {

// What the engine is doing, for /metrics and /health.
struct EngineLoad {
  std::size_t num_requests = 0;   // accepted and not ended
  std::size_t num_sequences = 0;  // that may run at once
  EngineStats stats = {};
  std::size_t num_kept_prefixes = 0;
  PrefixCounts prefixes = {};
  std::size_t num_kv_pages_used = 0;
};

class EngineThread {
 public:
  using Ticket = std::uint64_t;
  // Called on the engine's thread: must be quick and must not block. The last event of a ticket is a FinishEvent.
  using OnEvent = std::function<void(Event event)>;

  // `engine` must outlive this, and nobody else may touch it meanwhile. Its own queue has room for max_requests.
  EngineThread(Engine& engine, std::size_t max_requests);
  ~EngineThread() { stop(); }
  EngineThread(const EngineThread&) = delete;
  EngineThread& operator=(const EngineThread&) = delete;

  // Cancels what there is and waits for the thread: no event comes after this, and no request is accepted.
  void stop();

  // Nothing when max_requests run and wait. What the engine refuses comes as a
  // FinishEvent with an error.
  std::optional<Ticket> try_submit(Request request, OnEvent on_event);

  // Ends a ticket within a step; one that has ended already is no error.
  void cancel(Ticket ticket);

  EngineLoad load() const;  // as of the last step

 private:
  struct Submission {
    Ticket ticket;
    Request request;
    OnEvent on_event;
  };
  struct Running {
    Ticket ticket;
    OnEvent on_event;
  };

  void run();
  EngineLoad measure_load() const;
  bool wait_for_work();  // false: the end
  void start(Submission submission);
  void deliver(const Event& event);

  Engine& engine_;
  std::size_t max_requests_;
  mutable std::mutex mutex_;
  std::condition_variable has_work_;
  std::vector<Submission> submissions_;  // guarded by mutex_, as are the next four
  std::vector<Ticket> cancellations_;
  std::size_t num_requests_ = 0;
  EngineLoad load_;  // but num_requests
  bool stopping_ = false;
  Ticket next_ticket_ = 1;

  std::vector<Submission> new_submissions_;  // of the engine's thread alone, as are the rest
  std::vector<Ticket> new_cancellations_;
  std::unordered_map<std::uint32_t, Running> running_;  // by request id
  std::unordered_map<Ticket, RequestId> request_of_ticket_;
  WorkerThread thread_;  // last: runs once all of the above is there
};

}  // namespace qnext
