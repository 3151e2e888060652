// qnext run: one prompt, one answer.
#include "apps/command.h"
#include "apps/console.h"
#include "apps/conversation.h"
#include "apps/generation.h"
#include "apps/json_text.h"
#include "apps/thinking.h"

namespace qnext {
namespace {

constexpr std::size_t kMaxPromptBytes = std::size_t{64} << 20;

struct RunOptions {
  std::string model;
  std::optional<std::string> prompt;
  std::vector<TokenId> ids;
  std::string system;
  std::optional<bool> thinking;
  std::size_t max_new_tokens = 2048;
  bool raw = false;
  bool json = false;
  SamplingOptions sampling;
  MachineOptions machine;
  ContextOptions context;
};

struct Prompt {
  std::vector<TokenId> ids;
  bool opens_thinking = false;
};

Result<Prompt> make_prompt(const RunOptions& options, const TextFiles& files) {
  if (!options.ids.empty()) return Prompt{.ids = options.ids};
  QN_TRY(const Tokenizer* tokenizer, require_tokenizer(files, options.model));
  QN_TRY(std::string text, text_argument(*options.prompt, kMaxPromptBytes));
  if (!options.raw) {
    std::vector<Message> messages;
    if (!options.system.empty()) messages.push_back({"system", options.system});
    messages.push_back({"user", std::move(text)});
    QN_TRY(text, render_prompt(files, options.model, messages, options.thinking));
  }
  QN_TRY(std::vector<TokenId> ids, tokenizer->encode(text, {.add_special = options.raw}));
  return Prompt{.ids = std::move(ids), .opens_thinking = !options.raw && opens_thinking(text)};
}

nlohmann::ordered_json answer_json(const Answer& answer, const Prompt& prompt, const SamplingParams& sampling) {
  return {{"text", answer.text},
          {"token_ids", answer.token_ids},
          {"prompt_tokens", prompt.ids.size()},
          {"prompt_token_ids", prompt.ids},
          {"finish_reason", answer.finish_reason},
          {"seed", sampling.seed},
          {"timings",
           {{"prompt_ms", answer.prompt_s * 1e3},
            {"prompt_tokens_per_s", answer.prompt_tokens_per_s()},
            {"decode_ms", answer.decode_s * 1e3},
            {"decode_tokens_per_s", answer.decode_tokens_per_s()}}}};
}

// Room for the prompt and the whole answer, unless the user wants another.
std::size_t context_for(const RunOptions& options, const Prompt& prompt, const ModelConfig& config) {
  if (options.context.context_tokens != 0) return options.context.context_tokens;
  const std::size_t wanted = prompt.ids.size() + options.max_new_tokens;
  return config.max_context_tokens == 0 ? wanted : std::min(wanted, config.max_context_tokens);
}

Result<ExitCode> run(const RunOptions& options) {
  if (options.prompt.has_value() == !options.ids.empty()) return usage_error("run: expected PROMPT, - or --ids IDS");
  if (!options.ids.empty() && !options.raw) return usage_error("run: --ids needs --raw: ids are fed as they are");
  QN_TRY(const TextFiles files, load_text_files(options.model));
  QN_TRY(const Prompt prompt, make_prompt(options, files));
  QN_TRY(const auto generator, Generator::load(options.model, options.machine));
  QN_RETURN_IF_ERROR(generator->open({.context_tokens = context_for(options, prompt, generator->model().config()),
                                      .kv_type = options.context.kv_type,
                                      .max_drafts = options.context.drafts_for(generator->model().config().has_mtp),
                                      .adapts_drafts = !options.context.fixed_drafts}));
  if (const auto note = model_note(options.model)) write_stderr(fmt::format("note: {}\n", *note));

  const SamplingParams sampling = choose_sampling(options.sampling, files.generation);
  const AnswerRequest request{.prompt = prompt.ids,
                              .max_new_tokens = options.max_new_tokens,
                              .sampling = sampling,
                              .stop_token_ids = choose_stop_tokens(options.sampling, files.generation),
                              .stop_texts = options.sampling.stops};
  ThinkingStyle style(stdout_takes_colour(), prompt.opens_thinking);
  const Tokenizer* tokenizer = files.tokenizer ? &*files.tokenizer : nullptr;
  const auto show = [&](std::string_view piece) { return options.json ? success() : write_stdout(style.feed(piece)); };
  QN_TRY(const Answer answer, generator->answer(request, tokenizer, show));
  if (options.json) {
    QN_RETURN_IF_ERROR(write_stdout(json_line(answer_json(answer, prompt, sampling))));
  } else {
    const std::string ids = tokenizer == nullptr ? fmt::format("{}", fmt::join(answer.token_ids, ",")) : "";
    QN_RETURN_IF_ERROR(write_stdout(style.finish() + ids + "\n"));
  }
  write_stderr(generator->stats_text(answer) + "\n");
  return answer.finish_reason == "interrupted" ? ExitCode::kInterrupted : ExitCode::kDone;
}

}  // namespace

void add_run_command(CLI::App& root, Action& action) {
  auto options = std::make_shared<RunOptions>();
  CLI::App& command = *root.add_subcommand("run", "Answer one prompt.");
  add_model_option(command, options->model, "A folder (config.json + safetensors) or a .gguf file");
  CLI::Option* prompt = command.add_option("PROMPT", options->prompt, "The prompt; - reads it from stdin");
  command.add_option("--ids", options->ids, "The prompt as token ids, with --raw")
      ->delimiter(',')
      ->excludes(prompt)
      ->type_name("ID,ID,...");
  command.add_flag("--raw", options->raw, "Feed the prompt as it is, without the chat template");
  command.add_option("--system", options->system, "A system message before the prompt")->type_name("TEXT");
  add_thinking_flag(command, options->thinking);
  command.add_option("--max-tokens", options->max_new_tokens, "Longest answer (default: 2048)")
      ->check(CLI::Range(std::size_t{1}, std::size_t{1} << 24))
      ->type_name("N");
  command.add_flag("--json", options->json, "Print one JSON object when the answer is complete (docs/cli.md)");
  add_sampling_options(command, options->sampling);
  add_context_options(command, options->context);
  add_machine_options(command, options->machine);
  command.footer(
      "The answer goes to stdout while it is being written, the statistics to stderr. Ctrl-C ends the answer: what is\n"
      "there stays, and the exit code is 130.\n\n"
      "Examples:\n"
      "  qnext run model.gguf 'Why is the sky blue?'\n"
      "  git diff | qnext run model.gguf - --system 'Review this change.' --max-tokens 500\n"
      "  qnext run model.gguf 'Once upon a time' --raw --temperature 0 --json");
  command.callback([options, &action] { action = [options] { return run(*options); }; });
}

}  // namespace qnext
