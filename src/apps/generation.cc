#include "apps/generation.h"

#include <charconv>
#include <chrono>
#include <limits>
#include <random>

#include "apps/console.h"
#include "apps/load_model.h"
#include "engine/stop_text.h"
#include "text/detokenizer.h"

namespace qnext {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_between(Clock::time_point begin, Clock::time_point end) {
  return std::chrono::duration<double>(end - begin).count();
}

// CLI11 turns what is too large into the largest number; this refuses it.
std::string whole_number(const std::string& text) {
  std::uint64_t value = 0;
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool right = problem == std::errc() && end == text.data() + text.size();
  return right ? "" : fmt::format("expected a whole number from 0 to 2^64 - 1, found {}", escaped(text));
}

// Tokens to text that may be shown: whole characters, and nothing of a stop string.
class AnswerText {
 public:
  AnswerText(const Tokenizer* tokenizer, const std::vector<std::string>& stop_texts) : stop_(stop_texts) {
    if (tokenizer != nullptr) detokenizer_.emplace(*tokenizer);
  }

  std::string feed(TokenId id) { return detokenizer_ ? stop_.feed(detokenizer_->feed(id)) : ""; }
  std::string finish() {
    if (!detokenizer_) return "";
    std::string text = stop_.feed(detokenizer_->finish());
    return text + stop_.finish();
  }
  bool stopped() const { return stop_.stopped(); }

 private:
  std::optional<Detokenizer> detokenizer_;
  StopText stop_;
};

// One request on its way through the engine.
class AnswerRun {
 public:
  AnswerRun(Engine& engine, const Tokenizer* tokenizer, const AnswerRequest& request, OnText on_text)
      : engine_(engine), text_(tokenizer, request.stop_texts), on_text_(on_text) {
    answer_.num_prompt_tokens = request.prompt.size();
  }

  Result<Answer> run(Request request) {
    const Clock::time_point begin = Clock::now();
    Clock::time_point first_token = begin, last_event = begin;
    QN_TRY(const RequestId request_id, engine_.submit(std::move(request)));
    while (!engine_.idle()) {
      const bool had_tokens = !answer_.token_ids.empty();
      const std::vector<Event>& events = engine_.step();
      for (const Event& event : events) QN_RETURN_IF_ERROR(take(event));
      if (!events.empty()) last_event = Clock::now();
      if (!had_tokens && !answer_.token_ids.empty()) first_token = last_event;
      if (interrupted() || text_.stopped() || !shown_.ok()) engine_.cancel(request_id);
    }
    if (answer_.token_ids.empty()) first_token = last_event;
    answer_.prompt_s = seconds_between(begin, first_token);
    answer_.decode_s = seconds_between(first_token, last_event);
    show(text_.finish());
    QN_RETURN_IF_ERROR(shown_);
    return std::move(answer_);
  }

 private:
  Status take(const Event& event) {
    if (const auto* token = std::get_if<TokenEvent>(&event.what)) {
      // The engine may be a step ahead of a stop string or of Ctrl-C.
      if (text_.stopped() || !shown_.ok()) return success();
      answer_.token_ids.push_back(token->token_id);
      show(text_.feed(token->token_id));
      return success();
    }
    const auto& finish = std::get<FinishEvent>(event.what);
    answer_.num_cached_tokens = finish.num_cached_tokens;
    answer_.num_drafted_tokens = finish.num_drafted_tokens;
    answer_.num_accepted_tokens = finish.num_accepted_tokens;
    if (finish.reason == FinishReason::kError) return Error{finish.error};
    const bool by_user = finish.reason == FinishReason::kCancelled && !text_.stopped();
    answer_.finish_reason = by_user ? "interrupted"
                            : finish.reason == FinishReason::kCancelled
                                ? "stop"
                                : std::string(finish_reason_name(finish.reason));
    return success();
  }

  void show(const std::string& piece) {
    if (piece.empty() || !shown_.ok()) return;
    answer_.text += piece;
    shown_ = on_text_(piece);
  }

  Engine& engine_;
  AnswerText text_;
  OnText on_text_;
  Answer answer_;
  Status shown_ = success();
};

}  // namespace

void add_sampling_options(CLI::App& command, SamplingOptions& options) {
  constexpr double kAny = std::numeric_limits<float>::max();
  const auto number = [&](const char* name, std::optional<float>& value, const char* description, double lowest,
                          double highest) {
    command.add_option(name, value, description)->check(CLI::Range(lowest, highest))->type_name("X")->group("Sampling");
  };
  number("--temperature", options.temperature, "0 takes the likeliest token; higher is bolder", 0, kAny);
  number("--top-p", options.top_p, "Keep the likeliest tokens until they make up this share", 0, 1);
  number("--min-p", options.min_p, "Keep tokens at least this much as likely as the likeliest", 0, 1);
  number("--repetition-penalty", options.repetition_penalty, "Divide what was said already by this; 1: no", 1e-3, kAny);
  number("--presence-penalty", options.presence_penalty, "Subtract this from tokens of the answer, once", -100, 100);
  number("--frequency-penalty", options.frequency_penalty, "Subtract this from tokens of the answer, each time", -100,
         100);
  command.add_option("--top-k", options.top_k, "Keep the K likeliest tokens; 0: all")
      ->check(whole_number)
      ->type_name("K")
      ->group("Sampling");
  command.add_option("--seed", options.seed, "Same seed, same answer (default: another one each time)")
      ->check(whole_number)
      ->type_name("S")
      ->group("Sampling");
  command.add_option("--stop", options.stops, "End the answer before this text; may be given several times")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->type_name("TEXT")
      ->group("Sampling");
  command.add_flag("--ignore-eos", options.ignore_eos, "Go on when the model would end its answer")->group("Sampling");
}

void add_thinking_flag(CLI::App& command, std::optional<bool>& thinking) {
  // CLI11 gives an optional<bool> a value even when the flag is absent, so the value is set by hand.
  command.add_flag_function(
      "--thinking,!--no-thinking", [&thinking](std::int64_t count) { thinking = count > 0; },
      "Tell the chat template to let the model think first, or not to");
}

SamplingParams choose_sampling(const SamplingOptions& options, const GenerationDefaults& defaults) {
  const bool recommended = defaults.temperature || defaults.top_p || defaults.top_k || defaults.do_sample;
  SamplingParams out;
  if (recommended) {
    out.temperature = defaults.do_sample.value_or(true) ? defaults.temperature.value_or(1.0f) : 0.0f;
    out.top_p = defaults.top_p.value_or(1.0f);
    out.top_k = defaults.top_k.value_or(0);
  } else {
    out.temperature = kFallbackTemperature;
    out.top_p = kFallbackTopP;
    out.top_k = kFallbackTopK;
  }
  out.temperature = options.temperature.value_or(out.temperature);
  out.top_p = options.top_p.value_or(out.top_p);
  out.top_k = options.top_k.value_or(out.top_k);
  out.min_p = options.min_p.value_or(defaults.min_p.value_or(0.0f));
  out.repetition_penalty = options.repetition_penalty.value_or(defaults.repetition_penalty.value_or(1.0f));
  out.presence_penalty = options.presence_penalty.value_or(0.0f);
  out.frequency_penalty = options.frequency_penalty.value_or(0.0f);
  out.seed = options.seed ? *options.seed : std::random_device{}();
  return out;
}

std::vector<TokenId> choose_stop_tokens(const SamplingOptions& options, const GenerationDefaults& defaults) {
  return options.ignore_eos ? std::vector<TokenId>() : defaults.stop_token_ids;
}

double Answer::prompt_tokens_per_s() const {
  return prompt_s > 0 ? static_cast<double>(num_prompt_tokens - num_cached_tokens) / prompt_s : 0;
}

double Answer::decode_tokens_per_s() const {
  return token_ids.size() > 1 && decode_s > 0 ? static_cast<double>(token_ids.size() - 1) / decode_s : 0;
}

Result<std::unique_ptr<Generator>> Generator::load(const std::string& model_path, const MachineOptions& machine) {
  std::unique_ptr<Generator> out(new Generator);
  QN_TRY(out->machine_, make_machine(machine));
  out->ops_.emplace(*out->machine_.table, *out->machine_.pool);
  QN_TRY(out->model_, load_model(model_path, *out->ops_, machine));
  return out;
}

Status Generator::open(const EngineConfig& config) {
  engine_.reset();
  QN_TRY(engine_, Engine::make(*model_, *ops_, config));
  return success();
}

Result<Answer> Generator::answer(const AnswerRequest& request, const Tokenizer* tokenizer, OnText on_text) {
  QN_CHECK(engine_ != nullptr, "answer() before open()");
  Request engine_request{.prompt = request.prompt,
                         .max_new_tokens = request.max_new_tokens,
                         .sampling = request.sampling,
                         .stop_token_ids = request.stop_token_ids,
                         .num_logprobs = std::nullopt,
                         .num_lasting_tokens = count_lasting_tokens(request.prompt, request.stop_token_ids)};
  // A tokenizer may know more tokens than the model has rows for.
  std::erase_if(engine_request.stop_token_ids,
                [&](TokenId id) { return static_cast<std::size_t>(id) >= model_->config().V; });
  return AnswerRun(*engine_, tokenizer, request, on_text).run(std::move(engine_request));
}

std::string Generator::stats_text(const Answer& answer) const {
  const std::string cached =
      answer.num_cached_tokens > 0 ? fmt::format(", {} of them kept, the rest", answer.num_cached_tokens) : "";
  const std::string guessed =
      answer.num_drafted_tokens > 0
          ? fmt::format(", {} of {} guesses right", answer.num_accepted_tokens, answer.num_drafted_tokens)
          : "";
  return fmt::format("{} prompt tokens{} at {:.1f} t/s, {} tokens at {:.1f} t/s{}; {}, {} threads",
                     answer.num_prompt_tokens, cached, answer.prompt_tokens_per_s(), answer.token_ids.size(),
                     answer.decode_tokens_per_s(), guessed, machine_.table->name, machine_.pool->num_threads());
}

}  // namespace qnext
