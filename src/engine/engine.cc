#include "engine/engine.h"

#include <algorithm>
#include <chrono>
#include <cstdint>

#include "base/cpu.h"
#include "engine/time_adder.h"
#include "tensor/checked_file.h"

namespace qnext {
namespace {

// On its way through a prompt a sequence's state is kept every so many tokens, for prompts that part from it midway.
constexpr std::size_t kCheckpointTokens = 512;
static_assert(kCheckpointTokens % kDeltaChunk == 0, "cuts must not show in the results");

}  // namespace

Result<std::unique_ptr<Engine>> Engine::make(const Qwen3Next& model, const Ops& ops, const EngineConfig& config) {
  QN_RETURN_IF_ERROR(check_engine_config(model.config(), config));
  const std::size_t needed_bytes = engine_memory_bytes(model.config(), config);
  const std::size_t available_bytes = available_memory_bytes();
  if (needed_bytes > available_bytes) {
    return error(
        "{} sequences of {} tokens, with keys and values in {}, need {:.2f} GiB of cache, but only {:.2f} GiB of "
        "memory is available; ask for a shorter context or fewer sequences{}",
        config.num_sequences, config.context_tokens, dtype_info(config.kv_type).name, gib(needed_bytes),
        gib(available_bytes), config.kv_type == DType::kQ8_0 ? "" : ", or for smaller keys and values (q8_0)");
  }
  QN_TRY(KvCache kv,
         KvCache::make(KvStore::shape_for(model.config(), config.kv_type, config.page_tokens), num_kv_pages(config)));
  QN_TRY(StateCache states, StateCache::make(StateStore::shape_for(model.config()), num_state_slots(config)));
  return std::unique_ptr<Engine>(new Engine(model, ops, config, std::move(kv), std::move(states)));
}

Engine::Engine(const Qwen3Next& model, const Ops& ops, const EngineConfig& config, KvCache kv, StateCache states)
    : model_(model),
      ops_(ops),
      config_(config),
      kv_(std::move(kv)),
      states_(std::move(states)),
      prefixes_(kv_, states_, config.num_kept_prefixes),
      sampler_(model.config().V),
      allowed_(ceil_div(model.config().V, std::size_t{32})),
      drafter_(model, ops),
      draft_depth_(config.max_drafts) {
  running_.reserve(config.num_sequences);
  batch_spans_.reserve(config.num_sequences);
  step_rows_.reserve(config.num_sequences);
  const std::size_t max_rows = config.num_sequences * (1 + config.max_drafts) + config.prefill_chunk_tokens;
  batch_tokens_.reserve(max_rows);
  if (config.max_drafts > 0) hidden_.reserve(max_rows * model.config().D);
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
  const double follow_up_s = follow_up();
  const auto start = std::chrono::steady_clock::now();
  end_unwanted();
  choose_entrants();
  free_pages();
  const StepPlan plan = make_plan();
  admit(plan.num_admitted);
  if (!plan.rows.empty()) {
    StepTime time = run(plan.rows);
    time.total_s = seconds_since(start);
    count(time, follow_up_s);
  }
  if (plan.exhausted_sequence_idx) {
    end_sequence(*running_[*plan.exhausted_sequence_idx],
                 {.reason = FinishReason::kError,
                  .error = fmt::format("all {} K/V pages are taken and no sequence can go on; run fewer sequences at "
                                       "once, or give the cache more pages",
                                       kv_.num_pages())});
  }
  if (kPoison && idle()) check_integrity();
  return events_;
}

// What the last step left to do: nobody waits for it, so that step's tokens went out first. Returns the seconds, which
// are of that step.
double Engine::follow_up() {
  const auto start = std::chrono::steady_clock::now();
  StepTime& sum = last_has_prompt_ ? stats_.prefill : stats_.decode;
  if (config_.max_drafts > 0 && !step_rows_.empty()) {
    const TimeAdder adder(sum.model_s);
    draft();
  }
  step_rows_.clear();
  drop_finished();
  const double seconds = seconds_since(start);
  sum.total_s += seconds;
  return seconds;
}

void Engine::end_unwanted() {
  const auto now = std::chrono::steady_clock::now();
  const auto reason = [&](const Sequence& sequence) -> std::optional<FinishReason> {
    if (sequence.cancelled) return FinishReason::kCancelled;
    if (sequence.request.deadline && *sequence.request.deadline <= now) return FinishReason::kDeadline;
    return std::nullopt;
  };
  for (const auto& sequence : running_) {
    if (const auto why = reason(*sequence)) end_sequence(*sequence, {.reason = *why});
  }
  drop_finished();
  std::erase_if(waiting_, [&](const std::unique_ptr<Sequence>& sequence) {
    const auto why = reason(*sequence);
    if (why) emit_finish(*sequence, {.reason = *why});
    return why.has_value();
  });
}

// Of a prompt that waits: the tokens that need not run.
std::size_t Engine::num_matching(const Sequence& sequence) const {
  return sequence.request.reports_prompt ? 0 : prefixes_.match(sequence.prompt());
}

// Where the state is kept last on the way through the prompt. A prompt that begins with these tokens has at least one
// more, and resumes in the same grid of chunks: it gets the bits that it would have got alone.
std::size_t Engine::last_checkpoint(const Sequence& sequence, std::size_t num_cached_tokens) const {
  const std::size_t num_lasting =
      std::min(sequence.request.num_lasting_tokens.value_or(SIZE_MAX), sequence.num_prompt_tokens - 1);
  if (num_lasting <= num_cached_tokens) return 0;
  return num_cached_tokens + (num_lasting - num_cached_tokens) / kDeltaChunk * kDeltaChunk;
}

// Whether `other`, whose prompt is not through yet, will soon have kept more of this one's prompt than there is now.
bool Engine::is_worth_waiting_for(const Sequence& other, std::size_t num_cached_of_other,
                                  const Sequence& sequence) const {
  if (other.decodes() || sequence.request.reports_prompt) return false;
  const auto parted = std::ranges::mismatch(other.prompt(), sequence.prompt().first(sequence.num_prompt_tokens - 1));
  const auto num_common = static_cast<std::size_t>(parted.in1 - other.prompt().begin());
  std::size_t num_kept = last_checkpoint(other, num_cached_of_other);
  if (num_kept > num_common) {
    if (num_common < num_cached_of_other) return false;
    num_kept = num_cached_of_other + (num_common - num_cached_of_other) / kCheckpointTokens * kCheckpointTokens;
  }
  return num_kept > other.kv.num_tokens && num_kept >= num_matching(sequence) + kDeltaChunk;
}

// The first of waiting_ that may enter, as many as there are slots: all, but for those whose prompt's beginning is
// just being computed by another.
void Engine::choose_entrants() {
  entrants_.clear();
  const std::size_t num_free = config_.num_sequences - running_.size();
  for (std::size_t i = 0; i < waiting_.size() && entrants_.size() < num_free; ++i) {
    const Sequence& sequence = *waiting_[i];
    const auto holds_up = [&](const Sequence& other, std::size_t num_cached) {
      return prefixes_.max_prefixes() > 0 && is_worth_waiting_for(other, num_cached, sequence);
    };
    const bool must_wait =
        std::ranges::any_of(running_, [&](const auto& other) { return holds_up(*other, other->num_cached_tokens); }) ||
        std::ranges::any_of(entrants_, [&](std::size_t earlier) {
          return holds_up(*waiting_[earlier], num_matching(*waiting_[earlier]));
        });
    if (!must_wait) entrants_.push_back(i);
  }
}

// Free pages that the next row of a running sequence takes. Prompts have had theirs since admission, but for the copy
// of a page that a kept prefix came to share.
std::size_t Engine::num_pages_missing(const Sequence& sequence) const {
  return kv_.num_pages_missing(sequence.kv, sequence.tokens.size() + sequence.draft.tokens.size());
}

std::size_t Engine::num_entrant_pages(const Sequence& sequence) const {
  // Whole pages of a kept prefix are shared, the last one is copied when it is partly filled.
  return kv_.pages_for(sequence.num_prompt_tokens + 1) - num_matching(sequence) / config_.page_tokens;
}

// Kept prefixes give way to those that run, and then to those that may enter.
void Engine::free_pages() {
  const auto num_missing = [&] {
    std::size_t sum = 0;
    for (const auto& sequence : running_) sum += num_pages_missing(*sequence);
    return sum;
  };
  if (num_missing() > kv_.num_free_pages()) {
    for (const auto& sequence : running_) sequence->draft.tokens.clear();  // guesses are worth no page
  }
  while (num_missing() > kv_.num_free_pages() && prefixes_.give_up_one()) {
  }
  std::size_t num_wanted = num_missing();
  for (std::size_t i : entrants_) {
    num_wanted += num_entrant_pages(*waiting_[i]);
    prefixes_.free_pages(num_wanted);
  }
  // Prefixes that share all their pages with each other keep them until one is given up for nothing. Where nobody runs,
  // whose end would make room, somebody has to get in.
  while (running_.empty() && !entrants_.empty() &&
         num_entrant_pages(*waiting_[entrants_.front()]) > kv_.num_free_pages() && prefixes_.give_up_one()) {
  }
}

StepPlan Engine::make_plan() const {
  std::vector<RunningSequence> running;
  std::size_t num_free_pages = kv_.num_free_pages();
  for (const auto& sequence : running_) {
    const std::size_t num_missing = num_pages_missing(*sequence);
    if (sequence->decodes()) {
      running.push_back({.num_prompt_tokens_left = 0, .num_pages_missing = num_missing});
    } else {
      running.push_back({.num_prompt_tokens_left = sequence->num_tokens_to_run(), .num_pages_missing = 0});
      num_free_pages -= num_missing;
    }
  }
  std::vector<WaitingRequest> waiting;
  for (std::size_t i : entrants_) {
    const Sequence& sequence = *waiting_[i];
    waiting.push_back({.num_prompt_tokens = sequence.num_prompt_tokens - num_matching(sequence),
                       .num_pages = num_entrant_pages(sequence)});
  }
  return plan_step({.running = running,
                    .waiting = waiting,
                    .num_free_pages = num_free_pages,
                    .num_free_slots = config_.num_sequences - running_.size()},
                   {.prefill_chunk_tokens = config_.prefill_chunk_tokens});
}

void Engine::admit(std::size_t num_admitted) {
  for (std::size_t i = 0; i < num_admitted; ++i) {
    std::unique_ptr<Sequence> sequence = std::move(waiting_[entrants_[i]]);
    const bool has_prefix = num_matching(*sequence) > 0;
    const std::optional<StateSlotId> slot = has_prefix ? states_.take() : states_.try_acquire();
    QN_CHECK(slot.has_value(), "admitted without a slot");
    sequence->state_slot = *slot;
    if (has_prefix) sequence->num_cached_tokens = prefixes_.resume(sequence->prompt(), sequence->kv, *slot);
    const bool reserved = kv_.try_reserve(sequence->kv, sequence->num_prompt_tokens + 1);
    QN_CHECK(reserved, "admitted without pages");
    stats_.num_cached_tokens += sequence->num_cached_tokens;
    stats_.num_resumed += std::uint64_t{has_prefix};
    running_.push_back(std::move(sequence));
  }
  std::erase(waiting_, nullptr);
}

StepTime Engine::run(std::span<const PlannedRows> rows) {
  const Arena::Scope scope(scratch_);
  const Batch batch = make_batch(rows);
  StepTime time;
  const auto timed = [&](auto&& work) {
    const TimeAdder adder(time.model_s);
    return work();
  };
  const View<float> hidden = timed([&] {
    return model_.forward(ops_, scratch_, batch, {.kv = kv_.store(), .state = states_.store()});  // [T, D]
  });
  const View<float> sampled = gather_sampled_rows(hidden);
  keep_checkpoints();
  for (const StepRows& step : step_rows_) {
    if (step.is_prefill && step.sequence->request.reports_prompt) {
      report_prompt(step, hidden.slice(0, step.rows.begin, step.rows.end));
    }
  }
  if (sampled.dim(0) > 0) {
    View<float> logits = timed([&] { return model_.logits(ops_, scratch_, sampled); });
    for (StepRows& step : step_rows_) {
      if (step.is_prefill && step.sequence->num_tokens_to_run() > 0) continue;  // the prompt goes on
      if (step.sequence->request.max_new_tokens == 0) {
        end_sequence(*step.sequence, {.reason = FinishReason::kLength});
        logits = logits.slice(0, 1, logits.dim(0));
        continue;
      }
      const std::size_t num_rows = step.is_prefill ? 1 : step.rows.count();
      accept_rows(step, logits.slice(0, 0, num_rows));
      logits = logits.slice(0, num_rows, logits.dim(0));
    }
  }
  if (config_.max_drafts > 0) hidden_.assign(hidden.data(), hidden.data() + hidden.num_elements());
  return time;
}

Batch Engine::make_batch(std::span<const PlannedRows> rows) {
  batch_tokens_.clear();
  batch_spans_.clear();
  for (const PlannedRows& planned : rows) {
    Sequence& sequence = *running_[planned.sequence_idx];
    const std::size_t first_position = sequence.kv.num_tokens;
    const std::size_t num_rows = planned.is_prefill ? planned.num_tokens : sequence.num_decode_rows();
    const bool ready = kv_.try_reserve(sequence.kv, first_position + num_rows) &&
                       (planned.is_prefill || states_.try_open_window(sequence.window, num_rows - 1));
    QN_CHECK(ready, "planned {} rows without memory", num_rows);
    const std::size_t begin = batch_tokens_.size();
    const auto tokens = std::span(sequence.tokens).subspan(first_position, planned.num_tokens);
    batch_tokens_.insert(batch_tokens_.end(), tokens.begin(), tokens.end());
    if (!planned.is_prefill) {
      batch_tokens_.insert(batch_tokens_.end(), sequence.draft.tokens.begin(), sequence.draft.tokens.end());
    }
    const Range batch_rows = {begin, batch_tokens_.size()};
    batch_spans_.push_back({.rows = batch_rows,
                            .first_position = first_position,
                            .kv_pages = sequence.kv.pages,
                            .state_slot = sequence.state_slot,
                            .window_slots = sequence.window,
                            .checkpoint = plan_checkpoint(sequence, num_rows)});
    step_rows_.push_back({.sequence = &sequence,
                          .rows = batch_rows,
                          .first_position = first_position,
                          .is_prefill = planned.is_prefill,
                          .num_accepted = num_rows});
  }
  return {.token_ids = batch_tokens_, .spans = batch_spans_};
}

// The state to keep on the way through these rows, if any: the prompt's last, or else the latest of the regular ones.
std::optional<StateCheckpoint> Engine::plan_checkpoint(Sequence& sequence, std::size_t num_rows) {
  if (sequence.decodes() || prefixes_.max_prefixes() == 0) return std::nullopt;
  const std::size_t base = sequence.num_cached_tokens;
  const Range rows = {sequence.kv.num_tokens, sequence.kv.num_tokens + num_rows};
  const std::size_t last = last_checkpoint(sequence, base);
  const bool is_last = last > rows.begin && last <= rows.end;
  const std::size_t num_tokens = is_last ? last : base + (rows.end - base) / kCheckpointTokens * kCheckpointTokens;
  if (num_tokens <= rows.begin || num_tokens == sequence.num_prompt_tokens) return std::nullopt;
  if (prefixes_.match(sequence.prompt().first(num_tokens + 1)) == num_tokens) return std::nullopt;  // there already
  const std::optional<StateSlotId> slot = prefixes_.try_claim_slot(is_last);
  if (!slot) return std::nullopt;
  kept_states_.push_back({.sequence = &sequence, .num_tokens = num_tokens, .slot = *slot, .lasting = is_last});
  return StateCheckpoint{.num_rows = num_tokens - rows.begin, .slot = *slot};
}

void Engine::keep_checkpoints() {
  for (const KeptState& kept : kept_states_) {
    prefixes_.keep_claimed(kept.sequence->prompt().first(kept.num_tokens), kv_.fork(kept.sequence->kv, kept.num_tokens),
                           kept.slot, kept.lasting);
  }
  kept_states_.clear();
}

// Notes that the rows have run. Returns those that meet the head, of sequences that have nothing left to run: a
// prompt's last, and a decode step's all.
View<float> Engine::gather_sampled_rows(View<const float> hidden) {
  View<float> sampled = make_scratch(scratch_, {hidden.dim(0), hidden.dim(1)});
  std::size_t num_sampled = 0;
  for (const StepRows& step : step_rows_) {
    Sequence& sequence = *step.sequence;
    sequence.kv.num_tokens += step.rows.count();
    if (step.is_prefill && sequence.num_tokens_to_run() > 0) continue;
    for (std::size_t row = step.is_prefill ? step.rows.end - 1 : step.rows.begin; row < step.rows.end; ++row) {
      std::copy_n(hidden.row(row), hidden.dim(1), sampled.row(num_sampled++));
    }
  }
  return sampled.slice(0, 0, num_sampled);
}

// A row's logits say how likely the prompt's next token was.
void Engine::report_prompt(const StepRows& step, View<const float> hidden) {
  constexpr std::size_t kRowsAtOnce = 32;  // of logits: 19 MiB with the released vocabulary
  const std::span<const TokenId> prompt = step.sequence->prompt();
  const RequestId id = step.sequence->request_id;
  if (step.first_position == 0) events_.push_back({id, TokenEvent{.token_id = prompt[0], .is_prompt = true}});
  const std::size_t num_rows =
      std::min(hidden.dim(0), prompt.size() - 1 - step.first_position);  // that have a next one
  for (std::size_t begin = 0; begin < num_rows; begin += kRowsAtOnce) {
    const Arena::Scope scope(scratch_);
    const std::size_t end = std::min(begin + kRowsAtOnce, num_rows);
    const View<const float> logits = model_.logits(ops_, scratch_, hidden.slice(0, begin, end));
    for (std::size_t row = begin; row < end; ++row) {
      const TokenId token_id = prompt[step.first_position + row + 1];
      Logprobs logprobs =
          logprobs_of({logits.row(row - begin), logits.dim(1)}, token_id, *step.sequence->request.num_logprobs);
      events_.push_back({id, TokenEvent{.token_id = token_id,
                                        .logprob = logprobs.chosen,
                                        .top_logprobs = std::move(logprobs.top),
                                        .is_prompt = true}});
    }
  }
}

// Draws a token from each row for as long as the guess that the next row ran is the token that is drawn: so guesses
// never show in what is said. Rows after that are as if they had never run.
void Engine::accept_rows(StepRows& step, View<const float> logits) {
  Sequence& sequence = *step.sequence;
  const std::vector<TokenId>& guesses = sequence.draft.tokens;
  sequence.num_drafted_tokens += guesses.size();
  std::size_t num_drawn = 0;
  for (;;) {
    accept_token(sequence, {logits.row(num_drawn), logits.dim(1)});
    ++num_drawn;
    if (sequence.finished || num_drawn == logits.dim(0) || sequence.tokens.back() != guesses[num_drawn - 1]) break;
    ++sequence.num_accepted_tokens;
  }
  if (step.is_prefill) return;
  step.num_accepted = num_drawn;
  states_.commit_window(sequence.state_slot, sequence.window, num_drawn);
  kv_.rollback(sequence.kv, step.first_position + num_drawn);
  stats_.num_drafted_tokens += guesses.size();
  stats_.num_accepted_tokens += num_drawn - 1;
  if (sequence.finished) return;  // an end cut the guesses off: they tell nothing
  draft_depth_.record_guesses(guesses.size(), num_drawn - 1);
  for (std::size_t i = 0; i < std::min(guesses.size(), num_drawn); ++i) {
    ++stats_.guesses_by_depth[i].num_tried;
    stats_.guesses_by_depth[i].num_right += i + 1 < num_drawn ? 1 : 0;
  }
}

void Engine::accept_token(Sequence& sequence, std::span<const float> logits) {
  const Request& request = sequence.request;
  const auto fail = [&](const std::string& why) {
    const bool by_constraint = request.constraint != nullptr;
    end_sequence(sequence, {.reason = FinishReason::kError, .error = why, .by_constraint = by_constraint});
  };
  std::span<const std::uint32_t> allowed;
  if (request.constraint != nullptr) {
    const Result<bool> constrains = request.constraint->mask(allowed_);
    if (!constrains.ok()) return fail(constrains.message());
    if (*constrains) allowed = allowed_;
  }
  const Result<TokenId> sampled =
      sampler_.sample(logits, sequence.history, request.sampling, sequence.tokens.size(), allowed);
  if (!sampled.ok()) return fail(sampled.message());
  const TokenId token_id = *sampled;
  if (std::ranges::find(request.stop_token_ids, token_id) != request.stop_token_ids.end()) {
    end_sequence(sequence, {.reason = FinishReason::kStop, .stop_token_id = token_id});
    sequence.tokens.push_back(token_id);  // no part of the answer, but what follows its last token
    return;
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
  if (request.constraint != nullptr) {
    if (const Status status = request.constraint->accept(token_id); !status.ok()) return fail(status.message());
    if (request.constraint->is_complete()) return end_sequence(sequence, {.reason = FinishReason::kStop});
  }
  if (sequence.num_new_tokens() == request.max_new_tokens || sequence.tokens.size() == config_.context_tokens) {
    end_sequence(sequence, {.reason = FinishReason::kLength});
  }
}

// Never more than the answer may still need beside the token that is drawn anyway.
std::size_t Engine::num_drafts_wanted(const Sequence& sequence, std::size_t depth) const {
  if (sequence.finished || !sequence.decodes() || sequence.draft.is_lost) return 0;
  const std::size_t num_left = std::min(sequence.request.max_new_tokens - sequence.num_new_tokens(),
                                        config_.context_tokens - sequence.tokens.size());
  return std::min(depth, num_left - 1);
}

// What this step's rows will guess. Sequences that ended are brought up to date, for prompts that go on from them.
void Engine::draft() {
  const std::size_t D = model_.config().D;
  std::size_t num_decoding = 0;
  for (const auto& sequence : running_) num_decoding += !sequence->finished && sequence->decodes() ? 1 : 0;
  const std::size_t depth = num_decoding == 0       ? 0
                            : config_.adapts_drafts ? draft_depth_.choose(num_decoding)
                                                    : config_.max_drafts;
  draft_rows_.clear();
  for (const StepRows& step : step_rows_) {
    Sequence& sequence = *step.sequence;
    std::size_t num_drafts = num_drafts_wanted(sequence, depth);
    if (num_drafts > 0 && !kv_.try_reserve(sequence.kv, sequence.kv.num_tokens + num_drafts)) num_drafts = 0;
    // The token after the last row is not there when it could not be drawn.
    const std::size_t num_known = sequence.tokens.size() - 1 - step.first_position;
    const std::size_t num_rows = std::min(step.num_accepted, num_known);
    draft_rows_.push_back({.state = &sequence.draft,
                           .tokens = sequence.tokens,
                           .kv = &sequence.kv,
                           .first_position = step.first_position,
                           .hidden = {hidden_.data() + step.rows.begin * D, {num_rows, D}},
                           .is_prompt = step.is_prefill || sequence.finished,
                           .num_drafts = num_drafts});
  }
  drafter_.run(scratch_, kv_.store(), draft_rows_);
}

void Engine::count(const StepTime& time, double follow_up_s) {
  std::size_t num_prefill_tokens = 0, num_decode_tokens = 0, num_decoding = 0;
  const std::size_t depth = step_rows_.front().rows.count() - 1;
  bool are_alike = true;
  for (const StepRows& step : step_rows_) {
    (step.is_prefill ? num_prefill_tokens : num_decode_tokens) += step.num_accepted;
    num_decoding += step.is_prefill ? 0 : 1;
    are_alike = are_alike && step.rows.count() == depth + 1;
  }
  stats_.num_prefill_tokens += num_prefill_tokens;
  stats_.num_decode_tokens += num_decode_tokens;
  last_has_prompt_ = num_prefill_tokens > 0;
  StepTime& sum = last_has_prompt_ ? stats_.prefill : stats_.decode;
  sum.total_s += time.total_s;
  sum.model_s += time.model_s;
  // Guesses cost what they take to make, too, which follows up the step before. So steps can be compared that had one
  // alike before them, of which no sequence ended and left its rows to be caught up with.
  const bool are_decoding = !last_has_prompt_ && are_alike;
  if (are_decoding && depth == last_depth_) draft_depth_.record_step(num_decoding, depth, follow_up_s + time.total_s);
  const bool has_ended = std::ranges::any_of(step_rows_, [](const StepRows& step) { return step.sequence->finished; });
  last_depth_ = are_decoding && !has_ended ? std::optional(depth) : std::nullopt;
}

void Engine::emit_finish(const Sequence& sequence, FinishEvent finish) {
  finish.num_prompt_tokens = sequence.num_prompt_tokens;
  finish.num_cached_tokens = sequence.num_cached_tokens;
  finish.num_new_tokens = sequence.num_new_tokens();
  finish.num_drafted_tokens = sequence.num_drafted_tokens;
  finish.num_accepted_tokens = sequence.num_accepted_tokens;
  events_.push_back({sequence.request_id, std::move(finish)});
}

void Engine::end_sequence(Sequence& sequence, FinishEvent finish) {
  sequence.is_sound = finish.reason != FinishReason::kError;
  sequence.finished = true;
  emit_finish(sequence, std::move(finish));
}

void Engine::release(Sequence& sequence) {
  const std::span<const TokenId> ran = std::span(sequence.tokens).first(sequence.kv.num_tokens);
  if (sequence.is_sound && !ran.empty() && prefixes_.max_prefixes() > 0) {
    kv_.rollback(sequence.kv, ran.size());  // gives up pages that are reserved, but empty
    prefixes_.keep(ran, std::move(sequence.kv), sequence.state_slot, true);
  } else {
    kv_.release(sequence.kv);
    states_.release(sequence.state_slot);
  }
}

void Engine::drop_finished() {
  std::erase_if(running_, [&](const std::unique_ptr<Sequence>& sequence) {
    if (sequence->finished) release(*sequence);
    return sequence->finished;
  });
}

std::uint64_t Engine::prefix_tag(DType kv_type) const {
  constexpr int kVersion = 2;
  const std::string text = fmt::format("{} {:x} {} {} {} {}", kVersion, weights_fingerprint(model_.weights()),
                                       ops_.table().name, static_cast<int>(kv_type), config_.page_tokens,
                                       config_.max_drafts > 0);  // without guesses, the MTP block's K/V is not there
  return hash_bytes(std::as_bytes(std::span(text)));
}

Result<PrefixFile> Engine::save_prefixes(const std::filesystem::path& path) const {
  return qnext::save_prefixes(path, prefix_tag(config_.kv_type), prefixes_, kv_, states_);
}

Result<PrefixFile> Engine::restore_prefixes(const std::filesystem::path& path) {
  auto restored = qnext::restore_prefixes(path, prefix_tag(config_.kv_type), prefixes_, kv_, states_, ops_.pool());
  if (restored.ok()) return restored;
  const std::optional<std::uint64_t> tag = CheckedFile::tag_of(path);
  for (const DType other : kKvTypes) {
    if (other == config_.kv_type || tag != prefix_tag(other)) continue;
    return error("{}: its keys and values are {}, and here they are {}", path.string(), dtype_info(other).name,
                 dtype_info(config_.kv_type).name);
  }
  return restored;
}

void Engine::check_integrity() const {
  std::vector<const KvSequence*> holders;
  std::vector<StateSlotId> slots;
  for (const auto& sequence : running_) {
    holders.push_back(&sequence->kv);
    slots.push_back(sequence->state_slot);
  }
  prefixes_.append_holders(holders, slots);
  kv_.check_integrity(holders);
  states_.check_integrity(slots);
}

}  // namespace qnext
