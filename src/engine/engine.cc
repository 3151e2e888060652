#include "engine/engine.h"

#include <algorithm>
#include <chrono>

#include "base/cpu.h"

namespace qnext {
namespace {

constexpr double kGiB = 1024.0 * 1024.0 * 1024.0;

std::size_t num_pages_of(const EngineConfig& config) {
  return config.num_pages.value_or(config.num_sequences * ceil_div(config.context_tokens, config.page_tokens));
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

std::size_t engine_memory_bytes(const ModelConfig& model, const EngineConfig& config) {
  return num_pages_of(config) * KvStore::shape_for(model, config.kv_type, config.page_tokens).page_bytes() +
         config.num_sequences * model.state_bytes();
}

Result<std::unique_ptr<Engine>> Engine::make(const Qwen3Next& model, const Ops& ops, const EngineConfig& config) {
  QN_CHECK(config.context_tokens >= 2 && config.num_sequences >= 1 && config.page_tokens >= 1 &&
               config.prefill_chunk_tokens >= 1,
           "context {} sequences {} page {} chunk {}", config.context_tokens, config.num_sequences, config.page_tokens,
           config.prefill_chunk_tokens);
  const std::size_t needed_bytes = engine_memory_bytes(model.config(), config);
  const std::size_t available_bytes = available_memory_bytes();
  if (needed_bytes > available_bytes) {
    return error(
        "{} sequences of {} tokens need {:.2f} GiB of cache, but only {:.2f} GiB of memory is available; ask for a "
        "shorter context, fewer sequences, or bf16 keys and values",
        config.num_sequences, config.context_tokens, static_cast<double>(needed_bytes) / kGiB,
        static_cast<double>(available_bytes) / kGiB);
  }
  QN_TRY(KvCache kv,
         KvCache::make(KvStore::shape_for(model.config(), config.kv_type, config.page_tokens), num_pages_of(config)));
  QN_TRY(StateCache states, StateCache::make(StateStore::shape_for(model.config()), config.num_sequences));
  return std::unique_ptr<Engine>(new Engine(model, ops, config, std::move(kv), std::move(states)));
}

Engine::Engine(const Qwen3Next& model, const Ops& ops, const EngineConfig& config, KvCache kv, StateCache states)
    : model_(model),
      ops_(ops),
      config_(config),
      kv_(std::move(kv)),
      states_(std::move(states)),
      sampler_(model.config().V) {
  running_.reserve(config.num_sequences);
  batch_spans_.reserve(config.num_sequences);
  batch_tokens_.reserve(config.num_sequences + config.prefill_chunk_tokens);
}

Result<RequestId> Engine::submit(Request request) {
  QN_RETURN_IF_ERROR(check_request(request, model_.config().V));
  if (request.prompt.size() >= config_.context_tokens) {
    return error("the prompt has {} tokens, and the context only {}: it must leave room for at least one new token",
                 request.prompt.size(), config_.context_tokens);
  }
  if (kv_.pages_for(request.prompt.size() + 1) > kv_.num_pages()) {
    return error("the prompt has {} tokens, more than the {} of all K/V pages", request.prompt.size(),
                 kv_.num_pages() * config_.page_tokens);
  }
  if (waiting_.size() >= config_.max_waiting) {
    return error("{} requests wait already; try again later", waiting_.size());
  }
  auto sequence = std::make_unique<Sequence>();
  sequence->request_id = RequestId{next_request_id_++};
  sequence->history.add_prompt(request.prompt);
  sequence->pending = request.prompt;
  sequence->request = std::move(request);
  waiting_.push_back(std::move(sequence));
  return waiting_.back()->request_id;
}

void Engine::cancel(RequestId request_id) {
  const auto mark = [&](const std::unique_ptr<Sequence>& sequence) {
    if (sequence->request_id == request_id) sequence->cancelled = true;
  };
  std::for_each(running_.begin(), running_.end(), mark);
  std::for_each(waiting_.begin(), waiting_.end(), mark);
}

const std::vector<Event>& Engine::step() {
  events_.clear();
  end_cancelled();
  const StepPlan plan = this->plan();
  admit(plan.num_admitted);
  if (!plan.rows.empty()) run(plan.rows);
  if (plan.exhausted_sequence_idx) {
    finish(*running_[*plan.exhausted_sequence_idx], FinishReason::kError,
           "all K/V pages are taken and no sequence could go on; ask for shorter contexts or fewer sequences at once");
  }
  drop_finished();
  return events_;
}

void Engine::end_cancelled() {
  for (const auto& sequence : running_) {
    if (sequence->cancelled) finish(*sequence, FinishReason::kCancelled);
  }
  drop_finished();
  std::erase_if(waiting_, [&](const std::unique_ptr<Sequence>& sequence) {
    if (!sequence->cancelled) return false;
    events_.push_back({sequence->request_id, FinishEvent{.reason = FinishReason::kCancelled,
                                                         .stop_token_id = {},
                                                         .error = {},
                                                         .num_prompt_tokens = sequence->request.prompt.size()}});
    return true;
  });
}

StepPlan Engine::plan() const {
  std::vector<RunningSequence> running;
  for (const auto& sequence : running_) {
    const bool decodes = sequence->decodes();
    running.push_back(
        {.num_prompt_tokens_left = decodes ? 0 : sequence->num_pending(),
         .num_pages_missing = decodes ? kv_.num_pages_missing(sequence->kv, sequence->kv.num_tokens + 1) : 0});
  }
  std::vector<WaitingRequest> waiting;
  for (const auto& sequence : waiting_) {
    if (waiting.size() == states_.num_free_slots()) break;  // no more can enter
    const std::size_t num_prompt_tokens = sequence->request.prompt.size();
    waiting.push_back({.num_prompt_tokens = num_prompt_tokens, .num_pages = kv_.pages_for(num_prompt_tokens + 1)});
  }
  return plan_step({.running = running,
                    .waiting = waiting,
                    .num_free_pages = kv_.num_free_pages(),
                    .num_free_slots = states_.num_free_slots()},
                   {.prefill_chunk_tokens = config_.prefill_chunk_tokens});
}

void Engine::admit(std::size_t num_admitted) {
  for (std::size_t i = 0; i < num_admitted; ++i) {
    auto sequence = std::move(waiting_.front());
    waiting_.pop_front();
    const auto slot = states_.try_acquire();
    const bool reserved = kv_.try_reserve(sequence->kv, sequence->request.prompt.size() + 1);
    QN_CHECK(slot.has_value() && reserved, "admitted without memory: slot {}, pages {}", slot.has_value(), reserved);
    sequence->state_slot = *slot;
    running_.push_back(std::move(sequence));
  }
}

void Engine::run(std::span<const PlannedRows> rows) {
  const auto start = std::chrono::steady_clock::now();
  batch_tokens_.clear();
  batch_spans_.clear();
  std::size_t num_prefill_tokens = 0;
  for (const PlannedRows& planned : rows) {
    Sequence& sequence = *running_[planned.sequence_idx];
    const std::size_t first_position = sequence.kv.num_tokens;
    const bool reserved = kv_.try_reserve(sequence.kv, first_position + planned.num_tokens);
    QN_CHECK(reserved, "planned {} rows without pages", planned.num_tokens);
    const auto tokens = std::span(sequence.pending).subspan(sequence.num_pending_run, planned.num_tokens);
    const std::size_t begin = batch_tokens_.size();
    batch_tokens_.insert(batch_tokens_.end(), tokens.begin(), tokens.end());
    batch_spans_.push_back({.rows = {begin, batch_tokens_.size()},
                            .first_position = first_position,
                            .kv_pages = sequence.kv.pages,
                            .state_slot = sequence.state_slot,
                            .window_slots = {}});
    if (planned.is_prefill) num_prefill_tokens += planned.num_tokens;
  }

  const Arena::Scope scope(scratch_);
  const Caches caches{kv_.store(), states_.store()};
  const View<float> hidden =
      model_.forward(ops_, scratch_, {.token_ids = batch_tokens_, .spans = batch_spans_}, caches);

  // Only a sequence's last row meets the head, and only when nothing of its prompt is left.
  View<float> last = make_scratch(scratch_, {rows.size(), hidden.dim(1)});
  std::vector<Sequence*> samplers;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    Sequence& sequence = *running_[rows[i].sequence_idx];
    sequence.num_pending_run += rows[i].num_tokens;
    sequence.kv.num_tokens += rows[i].num_tokens;
    if (sequence.num_pending() > 0) continue;
    std::copy_n(hidden.row(batch_spans_[i].rows.end - 1), hidden.dim(1), last.row(samplers.size()));
    samplers.push_back(&sequence);
  }
  if (!samplers.empty()) {
    const View<float> logits = model_.logits(ops_, scratch_, last.slice(0, 0, samplers.size()));
    for (std::size_t i = 0; i < samplers.size(); ++i) accept(*samplers[i], {logits.row(i), logits.dim(1)});
  }
  stats_.num_prefill_tokens += num_prefill_tokens;
  stats_.num_decode_tokens += batch_tokens_.size() - num_prefill_tokens;
  (num_prefill_tokens > 0 ? stats_.prefill_s : stats_.decode_s) += seconds_since(start);
}

void Engine::accept(Sequence& sequence, std::span<const float> logits) {
  const Request& request = sequence.request;
  const Result<TokenId> sampled = sampler_.sample(logits, sequence.history, request.sampling, sequence.kv.num_tokens);
  if (!sampled.ok()) return finish(sequence, FinishReason::kError, sampled.message());
  const TokenId token_id = *sampled;
  if (std::find(request.stop_token_ids.begin(), request.stop_token_ids.end(), token_id) !=
      request.stop_token_ids.end()) {
    return finish(sequence, FinishReason::kStop, {}, token_id);
  }
  TokenEvent event{.token_id = token_id, .logprob = std::nullopt, .top_logprobs = {}};
  if (request.num_logprobs) {
    Logprobs logprobs = logprobs_of(logits, token_id, *request.num_logprobs);
    event.logprob = logprobs.chosen;
    event.top_logprobs = std::move(logprobs.top);
  }
  events_.push_back({sequence.request_id, std::move(event)});
  sequence.history.add_answer(token_id);
  sequence.pending.assign(1, token_id);
  sequence.num_pending_run = 0;
  ++sequence.num_new_tokens;
  const bool context_full = request.prompt.size() + sequence.num_new_tokens >= config_.context_tokens;
  if (sequence.num_new_tokens == request.max_new_tokens || context_full) finish(sequence, FinishReason::kLength);
}

void Engine::finish(Sequence& sequence, FinishReason reason, std::string error, std::optional<TokenId> stop_token) {
  events_.push_back({sequence.request_id, FinishEvent{.reason = reason,
                                                      .stop_token_id = stop_token,
                                                      .error = std::move(error),
                                                      .num_prompt_tokens = sequence.request.prompt.size(),
                                                      .num_new_tokens = sequence.num_new_tokens}});
  kv_.release(sequence.kv);
  states_.release(sequence.state_slot);
  sequence.finished = true;
}

void Engine::drop_finished() {
  std::erase_if(running_, [](const std::unique_ptr<Sequence>& sequence) { return sequence->finished; });
}

void Engine::check_integrity() const {
  std::vector<const KvSequence*> holders;
  std::vector<StateSlotId> slots;
  for (const auto& sequence : running_) {
    holders.push_back(&sequence->kv);
    slots.push_back(sequence->state_slot);
  }
  kv_.check_integrity(holders);
  states_.check_integrity(slots);
}

}  // namespace qnext
