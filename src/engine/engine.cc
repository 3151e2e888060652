#include "engine/engine.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <limits>
#include <string_view>

#include "base/cpu.h"

namespace qnext {
namespace {

// Beyond every use; they keep products of sizes far from overflow.
constexpr std::size_t kMaxContextTokens = std::size_t{1} << 27;
constexpr std::size_t kMaxSequences = std::size_t{1} << 16;
constexpr std::size_t kMaxPageTokens = std::size_t{1} << 16;
constexpr std::size_t kMaxPrefillChunkTokens = std::size_t{1} << 16;

double gib(std::size_t num_bytes) {
  return static_cast<double>(num_bytes) / (1024.0 * 1024.0 * 1024.0);
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

Status check_range(std::string_view field, std::size_t value, Range allowed) {
  if (value >= allowed.begin && value < allowed.end) return success();
  return error("{}: found {}, expected {} to {}", field, value, allowed.begin, allowed.end - 1);
}

std::size_t pages_a_sequence(const EngineConfig& config) {
  return ceil_div(config.context_tokens, config.page_tokens);
}

std::size_t num_pages_of(const EngineConfig& config) {
  return config.num_pages.value_or(config.num_sequences * pages_a_sequence(config));
}

Status check_engine_config(const ModelConfig& model, const EngineConfig& config) {
  QN_RETURN_IF_ERROR(check_range("context_tokens", config.context_tokens, {2, kMaxContextTokens + 1}));
  QN_RETURN_IF_ERROR(check_range("num_sequences", config.num_sequences, {1, kMaxSequences + 1}));
  QN_RETURN_IF_ERROR(check_range("page_tokens", config.page_tokens, {1, kMaxPageTokens + 1}));
  QN_RETURN_IF_ERROR(check_range("prefill_chunk_tokens", config.prefill_chunk_tokens, {1, kMaxPrefillChunkTokens + 1}));
  // Every request waits for the step that admits it.
  if (config.max_waiting == 0) return error("max_waiting: found 0, expected at least 1");
  if (config.context_tokens > model.max_context_tokens) {
    return error("context_tokens: found {}, but the model was made for {} tokens; ask for at most that",
                 config.context_tokens, model.max_context_tokens);
  }
  if (config.kv_type != DType::kF32 && config.kv_type != DType::kBF16) {
    return error("kv_type: found {}, expected f32 or bf16", dtype_info(config.kv_type).name);
  }
  // A sequence that runs alone can then always fill its context.
  return check_range("num_pages", num_pages_of(config),
                     {pages_a_sequence(config), std::size_t{std::numeric_limits<std::uint32_t>::max()} + 1});
}

}  // namespace

std::size_t engine_memory_bytes(const ModelConfig& model, const EngineConfig& config) {
  const KvStore kv = KvStore::shape_for(model, config.kv_type, config.page_tokens);
  const double num_bytes = static_cast<double>(num_pages_of(config)) * static_cast<double>(kv.page_bytes()) +
                           static_cast<double>(config.num_sequences) * static_cast<double>(model.state_bytes());
  return num_bytes < 0x1p62 ? static_cast<std::size_t>(num_bytes) : SIZE_MAX;
}

Result<std::unique_ptr<Engine>> Engine::make(const Qwen3Next& model, const Ops& ops, const EngineConfig& config) {
  QN_RETURN_IF_ERROR(check_engine_config(model.config(), config));
  const std::size_t needed_bytes = engine_memory_bytes(model.config(), config);
  const std::size_t available_bytes = available_memory_bytes();
  if (needed_bytes > available_bytes) {
    return error(
        "{} sequences of {} tokens, with keys and values in {}, need {:.2f} GiB of cache, but only {:.2f} GiB of "
        "memory is available; ask for a shorter context or fewer sequences{}",
        config.num_sequences, config.context_tokens, dtype_info(config.kv_type).name, gib(needed_bytes),
        gib(available_bytes), config.kv_type == DType::kF32 ? ", or for keys and values in bf16" : "");
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
  samplers_.reserve(config.num_sequences);
  batch_tokens_.reserve(config.num_sequences + config.prefill_chunk_tokens);
}

Result<RequestId> Engine::submit(Request request) {
  QN_RETURN_IF_ERROR(check_request(request, model_.config().V));
  if (request.prompt.size() >= config_.context_tokens) {
    return error("prompt: {} tokens, and the context is {}; shorten it to leave room for at least one new token",
                 request.prompt.size(), config_.context_tokens);
  }
  if (waiting_.size() >= config_.max_waiting) {
    return error("{} requests wait already, the most that may; try again later", waiting_.size());
  }
  auto sequence = std::make_unique<Sequence>();
  sequence->request_id = RequestId{next_request_id_++};
  sequence->tokens = std::move(request.prompt);
  sequence->num_prompt_tokens = sequence->tokens.size();
  sequence->request = std::move(request);
  sequence->history.add_prompt(sequence->tokens);
  waiting_.push_back(std::move(sequence));
  return waiting_.back()->request_id;
}

void Engine::cancel(RequestId request_id) {
  const auto mark = [&](const std::unique_ptr<Sequence>& sequence) {
    if (sequence->request_id == request_id) sequence->cancelled = true;
  };
  std::ranges::for_each(running_, mark);
  std::ranges::for_each(waiting_, mark);
}

const std::vector<Event>& Engine::step() {
  events_.clear();
  end_cancelled();
  const StepPlan plan = make_plan();
  admit(plan.num_admitted);
  if (!plan.rows.empty()) run(plan.rows);
  if (plan.exhausted_sequence_idx) {
    end_sequence(*running_[*plan.exhausted_sequence_idx],
                 {.reason = FinishReason::kError,
                  .error = fmt::format("all {} K/V pages are taken and no sequence can go on; run fewer sequences at "
                                       "once, or give the cache more pages",
                                       kv_.num_pages())});
  }
  drop_finished();
  if (kPoison && idle()) check_integrity();
  return events_;
}

void Engine::end_cancelled() {
  for (const auto& sequence : running_) {
    if (sequence->cancelled) end_sequence(*sequence, {.reason = FinishReason::kCancelled});
  }
  drop_finished();
  std::erase_if(waiting_, [&](const std::unique_ptr<Sequence>& sequence) {
    if (sequence->cancelled) emit_finish(*sequence, {.reason = FinishReason::kCancelled});
    return sequence->cancelled;
  });
}

StepPlan Engine::make_plan() const {
  std::vector<RunningSequence> running;
  for (const auto& sequence : running_) {
    const bool decodes = sequence->decodes();
    running.push_back(
        {.num_prompt_tokens_left = decodes ? 0 : sequence->num_tokens_to_run(),
         .num_pages_missing = decodes ? kv_.num_pages_missing(sequence->kv, sequence->tokens.size()) : 0});
  }
  std::vector<WaitingRequest> waiting;
  for (const auto& sequence : waiting_) {
    if (waiting.size() == states_.num_free_slots()) break;  // no more can enter
    waiting.push_back({.num_prompt_tokens = sequence->num_prompt_tokens,
                       .num_pages = kv_.pages_for(sequence->num_prompt_tokens + 1)});
  }
  return plan_step({.running = running,
                    .waiting = waiting,
                    .num_free_pages = kv_.num_free_pages(),
                    .num_free_slots = states_.num_free_slots()},
                   {.prefill_chunk_tokens = config_.prefill_chunk_tokens});
}

void Engine::admit(std::size_t num_admitted) {
  for (std::size_t i = 0; i < num_admitted; ++i) {
    std::unique_ptr<Sequence> sequence = std::move(waiting_.front());
    waiting_.pop_front();
    const std::optional<StateSlotId> slot = states_.try_acquire();
    const bool reserved = kv_.try_reserve(sequence->kv, sequence->num_prompt_tokens + 1);
    QN_CHECK(slot.has_value() && reserved, "admitted without memory: slot {}, pages {}", slot.has_value(), reserved);
    sequence->state_slot = *slot;
    running_.push_back(std::move(sequence));
  }
}

void Engine::run(std::span<const PlannedRows> rows) {
  const auto start = std::chrono::steady_clock::now();
  const Arena::Scope scope(scratch_);
  const Batch batch = make_batch(rows);
  const View<float> hidden =
      model_.forward(ops_, scratch_, batch, {.kv = kv_.store(), .state = states_.store()});  // [T, D]
  const View<float> last = gather_last_rows(hidden, rows);
  if (!samplers_.empty()) {
    const View<float> logits = model_.logits(ops_, scratch_, last);
    for (std::size_t i = 0; i < samplers_.size(); ++i) accept_token(*samplers_[i], {logits.row(i), logits.dim(1)});
  }

  std::size_t num_prefill_tokens = 0;
  for (const PlannedRows& planned : rows) num_prefill_tokens += planned.is_prefill ? planned.num_tokens : 0;
  stats_.num_prefill_tokens += num_prefill_tokens;
  stats_.num_decode_tokens += batch_tokens_.size() - num_prefill_tokens;
  (num_prefill_tokens > 0 ? stats_.prefill_s : stats_.decode_s) += seconds_since(start);
}

Batch Engine::make_batch(std::span<const PlannedRows> rows) {
  batch_tokens_.clear();
  batch_spans_.clear();
  for (const PlannedRows& planned : rows) {
    Sequence& sequence = *running_[planned.sequence_idx];
    const bool reserved = kv_.try_reserve(sequence.kv, sequence.kv.num_tokens + planned.num_tokens);
    QN_CHECK(reserved, "planned {} rows without pages", planned.num_tokens);
    const auto tokens = std::span(sequence.tokens).subspan(sequence.kv.num_tokens, planned.num_tokens);
    const std::size_t begin = batch_tokens_.size();
    batch_tokens_.insert(batch_tokens_.end(), tokens.begin(), tokens.end());
    batch_spans_.push_back({.rows = {begin, batch_tokens_.size()},
                            .first_position = sequence.kv.num_tokens,
                            .kv_pages = sequence.kv.pages,
                            .state_slot = sequence.state_slot,
                            .window_slots = {}});
  }
  return {.token_ids = batch_tokens_, .spans = batch_spans_};
}

// Notes that the rows have run. The sequences that have nothing left to run become samplers_; returns their last rows,
// the only ones that meet the head.
View<float> Engine::gather_last_rows(View<const float> hidden, std::span<const PlannedRows> rows) {
  samplers_.clear();
  View<float> last = make_scratch(scratch_, {rows.size(), hidden.dim(1)});
  for (std::size_t i = 0; i < rows.size(); ++i) {
    Sequence& sequence = *running_[rows[i].sequence_idx];
    sequence.kv.num_tokens += rows[i].num_tokens;
    if (sequence.num_tokens_to_run() > 0) continue;
    std::copy_n(hidden.row(batch_spans_[i].rows.end - 1), hidden.dim(1), last.row(samplers_.size()));
    samplers_.push_back(&sequence);
  }
  return last.slice(0, 0, samplers_.size());
}

void Engine::accept_token(Sequence& sequence, std::span<const float> logits) {
  const Request& request = sequence.request;
  const Result<TokenId> sampled = sampler_.sample(logits, sequence.history, request.sampling, sequence.tokens.size());
  if (!sampled.ok()) return end_sequence(sequence, {.reason = FinishReason::kError, .error = sampled.message()});
  const TokenId token_id = *sampled;
  if (std::ranges::find(request.stop_token_ids, token_id) != request.stop_token_ids.end()) {
    return end_sequence(sequence, {.reason = FinishReason::kStop, .stop_token_id = token_id});
  }
  TokenEvent event{.token_id = token_id};
  if (request.num_logprobs) {
    Logprobs logprobs = logprobs_of(logits, token_id, *request.num_logprobs);
    event.logprob = logprobs.chosen;
    event.top_logprobs = std::move(logprobs.top);
  }
  events_.push_back({sequence.request_id, std::move(event)});
  sequence.history.add_answer(token_id);
  sequence.tokens.push_back(token_id);
  if (sequence.num_new_tokens() == request.max_new_tokens || sequence.tokens.size() == config_.context_tokens) {
    end_sequence(sequence, {.reason = FinishReason::kLength});
  }
}

void Engine::emit_finish(const Sequence& sequence, FinishEvent finish) {
  finish.num_prompt_tokens = sequence.num_prompt_tokens;
  finish.num_new_tokens = sequence.num_new_tokens();
  events_.push_back({sequence.request_id, std::move(finish)});
}

void Engine::end_sequence(Sequence& sequence, FinishEvent finish) {
  emit_finish(sequence, std::move(finish));
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
