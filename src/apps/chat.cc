#include "apps/chat.h"

#include "apps/console.h"
#include "apps/thinking.h"
#include "tensor/atomic_file.h"

namespace qnext {
namespace {

constexpr std::size_t kMaxConversationBytes = std::size_t{256} << 20;
constexpr const char* kPrompt = "> ";
constexpr const char* kContinuedPrompt = "| ";

std::string trimmed(std::string text) {
  const auto is_space = [](char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; };
  while (!text.empty() && is_space(text.back())) text.pop_back();
  const auto first = std::find_if_not(text.begin(), text.end(), is_space);
  return {first, text.end()};
}

// What the program says, apart from the model: on stderr, so that stdout is the conversation alone.
void say(std::string_view text) {
  write_stderr(fmt::format("{}\n", text));
}

}  // namespace

const std::map<std::string, Chat::CommandInfo>& Chat::commands() {
  static const std::map<std::string, CommandInfo> kCommands = {
      {"/help", {"", "show this list", &Chat::help}},
      {"/clear", {"", "forget the conversation; the system message stays", &Chat::clear}},
      {"/system", {"[TEXT]", "set the system message and start over; without TEXT, remove it", &Chat::set_system}},
      {"/save", {"FILE", "write the conversation as JSON", &Chat::save}},
      {"/load", {"FILE", "go on with a conversation that /save wrote", &Chat::load}},
      {"/stats", {"", "tokens and speed so far", &Chat::stats}},
      {"/exit", {"", "leave (so does Ctrl-D)", &Chat::exit}},
  };
  return kCommands;
}

Chat::Chat(const ChatOptions& options, const TextFiles& files, Generator& generator)
    : options_(options), files_(files), generator_(generator) {
  if (!options.system.empty()) messages_.push_back({"system", options.system});
}

Result<ExitCode> Chat::run() {
  const bool interactive = stdin_is_terminal();
  LineReader reader;
  std::string text;  // of a message that goes on over several lines
  bool warned = false;
  for (;;) {
    if (interactive) write_stderr(text.empty() ? kPrompt : kContinuedPrompt);
    std::string line;
    const LineReader::Outcome outcome = reader.read(line);
    if (outcome == LineReader::Outcome::kInterrupted) {
      if (warned || terminated()) break;
      warned = true;
      clear_interrupt();
      text.clear();
      say("\n(Ctrl-C again, or /exit, to leave)");
      continue;
    }
    if (outcome == LineReader::Outcome::kEnd) break;
    if (outcome == LineReader::Outcome::kTooLong) {
      say(fmt::format("a line of more than {} bytes: not sent", LineReader::kMaxLineBytes));
      continue;
    }
    warned = false;
    const bool goes_on = line.ends_with('\\');
    if (goes_on) line.back() = '\n';
    text += line;
    if (goes_on) continue;
    QN_TRY(const Next next, handle_line(trimmed(std::exchange(text, {}))));
    if (next == Next::kExit || terminated()) break;
    clear_interrupt();
  }
  if (interactive) write_stderr("\n");
  return terminated() ? ExitCode::kInterrupted : ExitCode::kDone;
}

Result<Chat::Next> Chat::handle_line(const std::string& line) {
  if (line.empty()) return Next::kGoOn;
  if (const Status valid = expect_utf8(line, "this line"); !valid.ok()) {
    say(valid.message());
    return Next::kGoOn;
  }
  if (line.front() == '/') return handle_command(line);
  QN_RETURN_IF_ERROR(answer(line));
  return Next::kGoOn;
}

Result<Chat::Next> Chat::handle_command(const std::string& line) {
  const std::size_t name_end = line.find_first_of(" \t\n");
  const std::string name = line.substr(0, name_end);
  const std::string argument = name_end == std::string::npos ? "" : trimmed(line.substr(name_end));
  const auto found = commands().find(name);
  if (found == commands().end()) {
    say(fmt::format("{}: no such command; /help lists them", escaped(name)));
    return Next::kGoOn;
  }
  return (this->*found->second.command)(argument);
}

Status Chat::answer(const std::string& text) {
  messages_.push_back({"user", text});
  Result<Answer> result = generate();
  if (!result.ok()) {
    // A full context or an odd template is no reason to leave; a closed stdout is.
    if (stdout_failed()) return std::move(result).take_error();
    messages_.pop_back();
    say(fmt::format("not sent: {}\n(/clear starts over; --context N at the start makes room)", result.message()));
    return success();
  }
  messages_.push_back({"assistant", result->text});
  ++num_answers_;
  num_answer_tokens_ += result->token_ids.size();
  if (result->finish_reason == "interrupted") say("(stopped)");
  if (result->finish_reason == "length") {
    say(options_.max_new_tokens && result->token_ids.size() == *options_.max_new_tokens
            ? "(cut at --max-tokens)"
            : "(the context is full: /clear starts over; --context N at the start makes room)");
  }
  last_answer_ = std::move(*result);
  return success();
}

Result<Answer> Chat::generate() {
  QN_TRY(const std::string prompt, render_prompt(files_, options_.model, messages_, options_.thinking));
  QN_TRY(const std::vector<TokenId> ids, files_.tokenizer->encode(prompt));
  if (ids.size() >= generator_.context_tokens()) {
    return error("the conversation has {} tokens, the context {}", ids.size(), generator_.context_tokens());
  }
  const std::size_t room = generator_.context_tokens() - ids.size();
  const AnswerRequest request{.prompt = ids,
                              .max_new_tokens = std::min(options_.max_new_tokens.value_or(room), room),
                              .sampling = choose_sampling(options_.sampling, files_.generation),
                              .stop_token_ids = choose_stop_tokens(options_.sampling, files_.generation),
                              .stop_texts = options_.sampling.stops};
  const bool inside = opens_thinking(prompt);
  ThinkingStyle style(stdout_takes_colour(), inside);
  QN_TRY(Answer answer, generator_.answer(request, &*files_.tokenizer,
                                          [&](std::string_view piece) { return write_stdout(style.feed(piece)); }));
  QN_RETURN_IF_ERROR(write_stdout(style.finish() + "\n"));
  // The template closes a block only where it sees it opened.
  if (inside) answer.text.insert(0, "<think>\n");
  return answer;
}

Result<Chat::Next> Chat::help(const std::string&) {
  std::string text;
  for (const auto& [name, info] : commands()) {
    text += fmt::format("{:<16} {}\n", fmt::format("{} {}", name, info.argument), info.description);
  }
  say(text + "A line that ends with \\ goes on in the next. Ctrl-C stops an answer.");
  return Next::kGoOn;
}

Result<Chat::Next> Chat::clear(const std::string&) {
  std::erase_if(messages_, [](const Message& message) { return message.role != "system"; });
  say("the conversation is forgotten");
  return Next::kGoOn;
}

Result<Chat::Next> Chat::set_system(const std::string& argument) {
  messages_.clear();
  if (!argument.empty()) messages_.push_back({"system", argument});
  say(argument.empty() ? "no system message now; the conversation starts over"
                       : "system message set; the conversation starts over");
  return Next::kGoOn;
}

Result<Chat::Next> Chat::save(const std::string& argument) {
  const auto write = [&]() -> Status {
    if (argument.empty()) return error("/save: expected a file name");
    return write_file(argument, conversation_json(messages_));
  };
  const Status status = write();
  say(status.ok() ? fmt::format("{} messages written to {}", messages_.size(), argument) : status.message());
  return Next::kGoOn;
}

Result<Chat::Next> Chat::load(const std::string& argument) {
  const auto read = [&]() -> Result<std::vector<Message>> {
    if (argument.empty()) return error("/load: expected a file name");
    QN_TRY(const std::string json, read_file(argument, kMaxConversationBytes));
    return parse_conversation(json, argument);
  };
  Result<std::vector<Message>> messages = read();
  if (messages.ok()) messages_ = std::move(*messages);
  say(messages.ok() ? fmt::format("{} messages read from {}", messages_.size(), argument) : messages.message());
  return Next::kGoOn;
}

Result<Chat::Next> Chat::stats(const std::string&) {
  std::string text = fmt::format("messages {}, answers {} of {} tokens together, context of {} tokens",
                                 messages_.size(), num_answers_, num_answer_tokens_, generator_.context_tokens());
  if (last_answer_) text += fmt::format("\nlast answer: {}", generator_.stats_text(*last_answer_));
  say(text);
  return Next::kGoOn;
}

Result<Chat::Next> Chat::exit(const std::string&) {
  return Next::kExit;
}

namespace {

constexpr std::size_t kDefaultContextTokens = 16384;
// For the next message, for the last one asked anew, and two turns back.
constexpr std::size_t kKeptPrefixes = 4;

Result<ExitCode> chat(const ChatOptions& options) {
  QN_TRY(const TextFiles files, load_text_files(options.model));
  QN_TRY([[maybe_unused]] const Tokenizer* tokenizer, require_tokenizer(files, options.model));
  if (!files.chat_template) return error("{}: expected a chat template, found none: chat needs one", options.model);
  QN_TRY(const auto generator, Generator::load(options.model, options.machine));
  const std::size_t longest = generator->model().config().max_context_tokens;
  std::size_t context_tokens = options.context.context_tokens;
  if (context_tokens == 0)
    context_tokens = longest == 0 ? kDefaultContextTokens : std::min(longest, kDefaultContextTokens);
  QN_RETURN_IF_ERROR(generator->open({.context_tokens = context_tokens,
                                      .kv_type = options.context.kv_type,
                                      .max_drafts = options.context.drafts_for(generator->model().config().has_mtp),
                                      .adapts_drafts = !options.context.fixed_drafts,
                                      .num_kept_prefixes = kKeptPrefixes}));
  if (const auto note = model_note(options.model)) say(fmt::format("note: {}", *note));
  if (stdin_is_terminal()) say("/help lists the commands; Ctrl-C stops an answer; Ctrl-D leaves");
  return Chat(options, files, *generator).run();
}

}  // namespace

void add_chat_command(CLI::App& root, Action& action) {
  auto options = std::make_shared<ChatOptions>();
  CLI::App& command = *root.add_subcommand("chat", "Talk with a model.");
  add_model_option(command, options->model, "A folder (config.json + safetensors) or a .gguf file");
  command.add_option("--system", options->system, "A system message before the conversation")->type_name("TEXT");
  add_thinking_flag(command, options->thinking);
  command.add_option("--max-tokens", options->max_new_tokens, "Longest answer (default: up to the context's end)")
      ->check(CLI::Range(std::size_t{1}, std::size_t{1} << 24))
      ->type_name("N");
  add_sampling_options(command, options->sampling);
  add_context_options(command, options->context);
  add_machine_options(command, options->machine);
  command.footer(
      "The context is 16K tokens unless --context says otherwise. Thinking is dimmed on a terminal. Ctrl-C stops an\n"
      "answer, which stays in the conversation; at the prompt, twice leaves. Lines from a pipe work as well.\n\n"
      "Examples:\n"
      "  qnext chat model.gguf\n"
      "  qnext chat model.gguf --system 'Answer in one sentence.' --temperature 0.6");
  command.callback([options, &action] { action = [options] { return chat(*options); }; });
}

}  // namespace qnext
