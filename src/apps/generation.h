#pragma once
// Generation: a prompt through the engine, its answer as text while it comes. What `run`, `chat` and `compare` share.

#include <CLI/CLI.hpp>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "apps/command.h"
#include "apps/model_files.h"
#include "base/function_ref.h"
#include "base/result.h"
#include "engine/engine.h"
#include "engine/request.h"
#include "kernels/ops.h"
#include "model/model.h"

namespace qnext {

// The sampling flags; what is not given comes from the model's recommendation, or else from kFallback*.
struct SamplingOptions {
  std::optional<float> temperature, top_p, min_p;
  std::optional<float> repetition_penalty, presence_penalty, frequency_penalty;
  std::optional<std::size_t> top_k;
  std::optional<std::uint64_t> seed;  // none: another one each time
  std::vector<std::string> stops;
  bool ignore_eos = false;
};
void add_sampling_options(CLI::App& command, SamplingOptions& options);

// --thinking and --no-thinking; neither leaves it to the chat template.
void add_thinking_flag(CLI::App& command, std::optional<bool>& thinking);

// What the family's instruct models recommend, for models that recommend nothing.
inline constexpr float kFallbackTemperature = 0.7f;
inline constexpr float kFallbackTopP = 0.8f;
inline constexpr std::size_t kFallbackTopK = 20;

// A seed that was not given is drawn here, so that it can be reported.
SamplingParams choose_sampling(const SamplingOptions& options, const GenerationDefaults& defaults);

// The model's own, or none with --ignore-eos.
std::vector<TokenId> choose_stop_tokens(const SamplingOptions& options, const GenerationDefaults& defaults);

struct AnswerRequest {
  std::vector<TokenId> prompt;
  std::size_t max_new_tokens = 0;
  SamplingParams sampling;
  std::vector<TokenId> stop_token_ids;
  std::vector<std::string> stop_texts;
};

struct Answer {
  std::string text;
  std::vector<TokenId> token_ids;  // the stop token is none of them
  std::string finish_reason;       // "stop", "length" or "interrupted"
  std::size_t num_prompt_tokens = 0;
  std::size_t num_cached_tokens = 0;    // of the prompt: an earlier answer() had run them
  std::size_t num_drafted_tokens = 0;   // guessed ahead
  std::size_t num_accepted_tokens = 0;  // of those, that were right
  double prompt_s = 0;                  // up to the first token
  double decode_s = 0;                  // of the tokens after the first
  double prompt_tokens_per_s() const;
  double decode_tokens_per_s() const;  // 0 when there was at most one token
};

// Told each piece of text as it becomes certain; an error ends the answer.
using OnText = FunctionRef<Status(std::string_view piece)>;

// A model, an engine of one sequence, and what they run on.
class Generator {
 public:
  // Errors: the model's, the engine's.
  static Result<std::unique_ptr<Generator>> load(const std::string& model_path, const MachineOptions& machine);

  // Makes the engine anew. Errors: Engine::make's.
  Status open(const EngineConfig& config);

  // One answer, start to end; Ctrl-C (console.h) ends it early and is no error. Requires open(). `tokenizer` may be
  // null: then there is no text, and stop_texts must be empty. Errors: a prompt that is too long or not this model's;
  // on_text's.
  Result<Answer> answer(const AnswerRequest& request, const Tokenizer* tokenizer, OnText on_text);

  const Qwen3Next& model() const { return *model_; }
  const Ops& ops() const { return *ops_; }
  std::size_t context_tokens() const { return engine_->config().context_tokens; }

  // "12 prompt tokens at 345.6 t/s, 48 tokens at 56.7 t/s; avx512, 2 threads"
  std::string stats_text(const Answer& answer) const;

 private:
  Generator() = default;

  Machine machine_;
  std::unique_ptr<const Qwen3Next> model_;
  std::optional<Ops> ops_;
  std::unique_ptr<Engine> engine_;
};

}  // namespace qnext
