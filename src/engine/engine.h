#pragma once
// Engine: requests, memory and time. It owns the sequences, their K/V pages and state slots, and runs them together,
// one mixed batch a step: a row for each sequence that decodes, chunks of prompts for those that do not yet. One thread
// owns it. Sequences never influence each other's tokens: what a request gets depends on itself alone.

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "base/arena.h"
#include "base/result.h"
#include "engine/draft_depth.h"
#include "engine/drafter.h"
#include "engine/engine_config.h"
#include "engine/kv_cache.h"
#include "engine/prefix_cache.h"
#include "engine/prefix_file.h"
#include "engine/request.h"
#include "engine/sampler.h"
#include "engine/scheduler.h"
#include "engine/state_cache.h"
#include "engine/token_history.h"
#include "kernels/ops.h"
#include "model/model.h"

namespace qnext {

// Guesses of one depth: the first after a token that was drawn, the second, and so on.
struct GuessCount {
  std::uint64_t num_tried = 0;  // those before it were right
  std::uint64_t num_right = 0;
};

// Where steps spend their time: what is not the model's is the engine's own.
struct StepTime {
  double total_s = 0;
  double model_s = 0;  // of that, the model's: its layers, logits and guesses
};

struct EngineStats {
  std::uint64_t num_prefill_tokens = 0;
  std::uint64_t num_cached_tokens = 0;  // of prompts, that did not have to run again
  std::uint64_t num_resumed = 0;        // requests that went on from a kept prefix
  std::uint64_t num_decode_tokens = 0;
  std::uint64_t num_drafted_tokens = 0;  // guessed and run
  std::uint64_t num_accepted_tokens =
      0;  // of those, that were right: part of num_decode_tokens, which counts no wrong ones
  std::array<GuessCount, kMaxDrafts> guesses_by_depth = {};
  StepTime prefill = {};  // steps that had prompt tokens among their rows
  StepTime decode = {};   // the others
};

class Engine {
 public:
  // `model` and `ops` must outlive the engine. Errors: a field out of its range (named, with what was found and is
  // allowed); the memory that the config asks for is not there (how much is, and what to change).
  static Result<std::unique_ptr<Engine>> make(const Qwen3Next& model, const Ops& ops, const EngineConfig& config);

  // Errors: check_request's; a prompt that leaves the context no room for an answer; too many requests wait.
  Result<RequestId> submit(Request request);

  // Ends a request at the next step. One that has ended already, or never was, is no error.
  void cancel(RequestId request_id);

  // Runs one batch; nothing when idle. Returns what came of it: each accepted request gets its tokens in order, then
  // exactly one FinishEvent. Valid until the next call. What a step leaves to do (guesses; memory of who has ended) the
  // next one does first, so that no token waits for it: idle() is true after that.
  const std::vector<Event>& step();

  bool idle() const { return running_.empty() && waiting_.empty(); }
  const EngineStats& stats() const { return stats_; }
  const EngineConfig& config() const { return config_; }
  const KvCache& kv_cache() const { return kv_; }
  const StateCache& state_cache() const { return states_; }
  const PrefixCache& prefix_cache() const { return prefixes_; }

  // What is kept of prompts and answers, in a file (engine/prefix_file.h). A file of another model, of other caches or
  // of another kernel table is refused, as is a damaged one. restore() is for an engine that has run nothing yet.
  Result<PrefixFile> save_prefixes(const std::filesystem::path& path) const;
  Result<PrefixFile> restore_prefixes(const std::filesystem::path& path);

  // Every page and slot is held by exactly who should hold it. Aborts when not.
  void check_integrity() const;

 private:
  struct Sequence {
    RequestId request_id;
    Request request;              // but its prompt, which begins `tokens`
    std::vector<TokenId> tokens;  // prompt, then answer; the first kv.num_tokens have run
    std::size_t num_prompt_tokens = 0;
    std::size_t num_cached_tokens = 0;  // of the prompt
    TokenHistory history;
    KvSequence kv;
    StateSlotId state_slot;
    std::vector<StateSlotId> window;  // while its guesses run
    DraftState draft;
    std::size_t num_drafted_tokens = 0, num_accepted_tokens = 0;
    bool cancelled = false;
    bool finished = false;  // its last event is out; its memory goes with drop_finished
    bool is_sound = true;   // its memory is what it should be, of use to later prompts

    std::size_t num_new_tokens() const { return tokens.size() - num_prompt_tokens; }
    std::size_t num_tokens_to_run() const { return tokens.size() - kv.num_tokens; }
    bool decodes() const { return num_new_tokens() > 0; }
    // Rows of the next decode step.
    std::size_t num_decode_rows() const { return 1 + draft.tokens.size(); }
    std::span<const TokenId> prompt() const { return std::span(tokens).first(num_prompt_tokens); }
  };
  // Rows of this step: one sequence's, of which the first num_accepted are what the sequence says.
  struct StepRows {
    Sequence* sequence;
    Range rows;  // of the batch
    std::size_t first_position;
    bool is_prefill;
    std::size_t num_accepted;
  };
  // A prefix to keep: the state after num_rows of this step's rows of a sequence, in a slot of its own.
  struct KeptState {
    Sequence* sequence;
    std::size_t num_tokens;  // of the prefix
    StateSlotId slot;
    bool lasting;
  };

  Engine(const Qwen3Next& model, const Ops& ops, const EngineConfig& config, KvCache kv, StateCache states);

  std::uint64_t prefix_tag(DType kv_type) const;
  void end_unwanted();
  std::size_t num_matching(const Sequence& sequence) const;
  std::size_t last_checkpoint(const Sequence& sequence, std::size_t num_cached_tokens) const;
  bool is_worth_waiting_for(const Sequence& other, std::size_t num_cached_of_other, const Sequence& sequence) const;
  void choose_entrants();
  std::size_t num_pages_missing(const Sequence& sequence) const;
  std::size_t num_entrant_pages(const Sequence& sequence) const;
  void free_pages();
  StepPlan make_plan() const;
  void admit(std::size_t num_admitted);
  double follow_up();
  StepTime run(std::span<const PlannedRows> rows);
  std::optional<StateCheckpoint> plan_checkpoint(Sequence& sequence, std::size_t num_rows);
  void keep_checkpoints();
  Batch make_batch(std::span<const PlannedRows> rows);
  View<float> gather_sampled_rows(View<const float> hidden);
  void report_prompt(const StepRows& step, View<const float> hidden);
  void accept_rows(StepRows& step, View<const float> logits);
  void accept_token(Sequence& sequence, std::span<const float> logits);
  std::size_t num_drafts_wanted(const Sequence& sequence, std::size_t depth) const;
  void draft();
  void count(const StepTime& time, double follow_up_s);
  void end_sequence(Sequence& sequence, FinishEvent finish);
  void emit_finish(const Sequence& sequence, FinishEvent finish);
  void release(Sequence& sequence);
  void drop_finished();

  const Qwen3Next& model_;
  const Ops& ops_;
  EngineConfig config_;
  KvCache kv_;
  StateCache states_;
  PrefixCache prefixes_;
  Sampler sampler_;
  Arena scratch_;
  std::vector<std::unique_ptr<Sequence>> running_;  // in order of admission
  std::deque<std::unique_ptr<Sequence>> waiting_;   // in order of arrival
  std::vector<std::size_t> entrants_;               // of waiting_, those that may enter in this step
  std::vector<KeptState> kept_states_;              // of this step
  std::vector<Event> events_;                       // of this step
  std::vector<TokenId> batch_tokens_;
  std::vector<SequenceSpan> batch_spans_;
  std::vector<std::uint32_t> allowed_;  // of one draw: a bit for each token
  std::vector<StepRows> step_rows_;     // of this step, until the next one has followed it up
  std::vector<float> hidden_;           // [T, D] the trunk's outputs at these rows, where something is guessed
  std::vector<DraftRows> draft_rows_;
  Drafter drafter_;
  DraftDepth draft_depth_;
  bool last_has_prompt_ = false;           // the last step had prompt tokens among its rows
  std::optional<std::size_t> last_depth_;  // of the last step's guesses, if a step can be compared with it
  std::uint32_t next_request_id_ = 0;
  EngineStats stats_;
};

}  // namespace qnext
