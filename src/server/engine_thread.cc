#include "server/engine_thread.h"

namespace qnext {

EngineThread::EngineThread(Engine& engine, std::size_t max_requests)
    : engine_(engine), max_requests_(max_requests), load_(measure_load()), thread_([this] { run(); }) {}

void EngineThread::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    has_work_.notify_one();
  }
  thread_.join();
}

std::optional<EngineThread::Ticket> EngineThread::try_submit(Request request, OnEvent on_event) {
  const std::lock_guard lock(mutex_);
  if (stopping_ || num_requests_ >= max_requests_) return std::nullopt;
  ++num_requests_;
  const Ticket ticket = next_ticket_++;
  submissions_.push_back({ticket, std::move(request), std::move(on_event)});
  has_work_.notify_one();
  return ticket;
}

void EngineThread::cancel(Ticket ticket) {
  const std::lock_guard lock(mutex_);
  cancellations_.push_back(ticket);
  has_work_.notify_one();
}

EngineLoad EngineThread::load() const {
  const std::lock_guard lock(mutex_);
  EngineLoad out = load_;
  out.num_requests = num_requests_;
  return out;
}

EngineLoad EngineThread::measure_load() const {
  const KvCache& kv = engine_.kv_cache();
  return {.num_sequences = engine_.config().num_sequences,
          .stats = engine_.stats(),
          .num_kept_prefixes = engine_.prefix_cache().num_prefixes(),
          .prefixes = engine_.prefix_cache().counts(),
          .num_kv_pages_used = kv.num_pages() - kv.num_free_pages()};
}

bool EngineThread::wait_for_work() {
  std::unique_lock lock(mutex_);
  load_ = measure_load();
  has_work_.wait(lock,
                 [this] { return stopping_ || !engine_.idle() || !submissions_.empty() || !cancellations_.empty(); });
  new_submissions_.swap(submissions_);
  new_cancellations_.swap(cancellations_);
  return !stopping_;
}

void EngineThread::run() {
  while (wait_for_work()) {
    for (Submission& submission : new_submissions_) start(std::move(submission));
    new_submissions_.clear();
    for (const Ticket ticket : new_cancellations_) {
      const auto found = request_of_ticket_.find(ticket);
      if (found != request_of_ticket_.end()) engine_.cancel(found->second);
    }
    new_cancellations_.clear();
    for (const Event& event : engine_.step()) deliver(event);
  }
  for (const Submission& submission : new_submissions_) {  // never started
    submission.on_event({RequestId{}, FinishEvent{.reason = FinishReason::kCancelled}});
  }
  for (const auto& [ticket, request_id] : request_of_ticket_) engine_.cancel(request_id);
  while (!engine_.idle()) {
    for (const Event& event : engine_.step()) deliver(event);
  }
}

void EngineThread::start(Submission submission) {
  const auto request_id = engine_.submit(std::move(submission.request));
  if (!request_id.ok()) {
    {
      const std::lock_guard lock(mutex_);
      --num_requests_;
    }
    submission.on_event({RequestId{}, FinishEvent{.reason = FinishReason::kError, .error = request_id.message()}});
    return;
  }
  running_.emplace(request_id->value, Running{submission.ticket, std::move(submission.on_event)});
  request_of_ticket_.emplace(submission.ticket, *request_id);
}

void EngineThread::deliver(const Event& event) {
  const auto found = running_.find(event.request_id.value);
  QN_CHECK(found != running_.end(), "an event of a request that has ended");
  if (!std::holds_alternative<FinishEvent>(event.what)) return found->second.on_event(event);
  const Running ended = std::move(found->second);
  running_.erase(found);
  request_of_ticket_.erase(ended.ticket);
  {
    const std::lock_guard lock(mutex_);
    --num_requests_;
  }
  ended.on_event(event);
}

}  // namespace qnext
