// qnext serve: the model for OpenAI's clients, over HTTP.
#include "server/server.h"

#include <fcntl.h>
#include <spawn.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "apps/command.h"
#include "apps/console.h"
#include "apps/generation.h"
#include "apps/hub_cache.h"
#include "apps/load_model.h"
#include "apps/model_files.h"
#include "base/cpu.h"
#include "base/env.h"
#include "tensor/checked_file.h"

namespace qnext {
namespace {

constexpr std::size_t kDefaultContext = 16384;
constexpr std::size_t kDefaultPrefixBytes = std::size_t{2} << 30;
constexpr std::size_t kMaxKeptPrefixes = 1024;  // each is compared with every prompt
constexpr std::size_t kMaxKeyFileBytes = std::size_t{1} << 20;

struct ServeOptions {
  std::string model;
  std::string name;
  std::vector<std::string> aliases;
  std::string api_key, api_key_file;
  std::string tls_certificate, tls_key;
  std::size_t num_parallel = 4;
  std::size_t max_waiting = 256;
  std::optional<std::size_t> prefix_bytes;
  std::string prefix_file;
  bool opens_page = false;
  ServerConfig server;
  MachineOptions machine;
  ContextOptions context;
};

// The file's, the folder's or the Hub repository's name: what people call the model.
std::string default_name(const std::string& path) {
  const std::filesystem::path given(path);
  if (const auto repo = repo_of_path(given)) return *repo;
  const std::filesystem::path last = given.has_filename() ? given.filename() : given.parent_path().filename();
  return last.extension() == ".gguf" ? last.stem().string() : last.string();
}

Result<std::vector<std::string>> read_keys(const ServeOptions& options) {
  std::vector<std::string> out;
  if (!options.api_key.empty()) out.push_back(options.api_key);
  if (options.api_key_file.empty()) return out;
  QN_TRY(const std::string text, read_file(options.api_key_file, kMaxKeyFileBytes));
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    std::string line = text.substr(begin, end - begin);
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (!line.empty()) out.push_back(std::move(line));
    begin = end + 1;
  }
  if (out.empty()) return error("{}: expected an API key on each line, found none", options.api_key_file);
  return out;
}

Result<ServedModel> served_model(const ServeOptions& options, const TextFiles& files, const ModelConfig& config,
                                 std::size_t context_tokens) {
  QN_TRY(const Tokenizer* tokenizer, require_tokenizer(files, options.model));
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  ServedModel out{.name = options.name.empty() ? default_name(options.model) : options.name,
                  .aliases = options.aliases,
                  .tokenizer = *tokenizer,
                  .chat_template = files.chat_template,
                  .chat_template_source = files.chat_template_source,
                  .bos_token = files.bos_token,
                  .eos_token = files.eos_token,
                  .default_sampling = choose_sampling({}, files.generation),
                  .stop_token_ids = files.generation.stop_token_ids,
                  .vocabulary_tokens = config.V,
                  .context_tokens = context_tokens,
                  .max_answers = options.server.max_requests,
                  .created_s = std::chrono::duration_cast<std::chrono::seconds>(now).count()};
  // A tokenizer may know more tokens than the model has rows for.
  std::erase_if(out.stop_token_ids, [&](TokenId id) { return static_cast<std::size_t>(id) >= config.V; });
  out.grammars = std::make_shared<AnswerGrammars>(out.tokenizer, out.stop_token_ids, config.V);
  return out;
}

// How many states the memory for prefixes holds; unless told, it is a part of what is free beside `config`.
std::size_t num_kept_prefixes(const ServeOptions& options, const ModelConfig& model, const EngineConfig& config) {
  const std::size_t available = available_memory_bytes();
  const std::size_t rest = available - std::min(available, engine_memory_bytes(model, config));
  const std::size_t num_bytes = options.prefix_bytes.value_or(std::min(kDefaultPrefixBytes, rest / 4));
  if (num_bytes == 0) return 0;
  return std::clamp(num_bytes / std::max<std::size_t>(model.state_bytes(), 1), std::size_t{1}, kMaxKeptPrefixes);
}

void log_request(const RequestLog& log) {
  std::string line =
      fmt::format("request id={} route={} status={}", log.id, log.route, log.client_left ? 499 : log.status);
  if (log.prompt_tokens > 0) {
    line += fmt::format(" prompt_tokens={} cached_tokens={} new_tokens={}", log.prompt_tokens, log.cached_tokens,
                        log.new_tokens);
    if (log.drafted_tokens > 0) {
      line += fmt::format(" drafted_tokens={} accepted_tokens={}", log.drafted_tokens, log.accepted_tokens);
    }
    if (log.first_token_s) {
      line += fmt::format(" first_token_ms={:.0f}", *log.first_token_s * 1e3);
      const double decode_s = log.seconds - *log.first_token_s;
      if (log.new_tokens > 1 && decode_s > 0)
        line += fmt::format(" tokens_per_s={:.1f}", static_cast<double>(log.new_tokens - 1) / decode_s);
    }
  }
  write_stderr(line + fmt::format(" ms={:.0f}\n", log.seconds * 1e3));
}

// Where there is a screen to show it on; the address was printed all the same. The browser, which may outlive us, gets
// neither our port nor our terminal.
void open_page(std::string address) {
  if (!env("DISPLAY") && !env("WAYLAND_DISPLAY")) return;
  std::string program = "xdg-open";
  char* const arguments[] = {program.data(), address.data(), nullptr};
  posix_spawn_file_actions_t files;
  posix_spawnattr_t attributes;
  ::posix_spawn_file_actions_init(&files);
  for (const int file : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    ::posix_spawn_file_actions_addopen(&files, file, "/dev/null", O_RDWR, 0);
  }
  ::posix_spawn_file_actions_addclosefrom_np(&files, STDERR_FILENO + 1);
  ::posix_spawnattr_init(&attributes);
  ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID);
  pid_t child = 0;
  if (::posix_spawnp(&child, program.c_str(), &files, &attributes, arguments, environ) != 0) {
    write_stderr("note: no xdg-open here to open the page with\n");
  }
  ::posix_spawnattr_destroy(&attributes);
  ::posix_spawn_file_actions_destroy(&files);
}

std::string prefix_file_text(const PrefixFile& file) {
  return fmt::format("{} prefixes, {:.2f} GiB", file.num_prefixes, gib(file.num_bytes));
}

// A file that is of no use costs time, not answers: prompts run again.
void restore_prefixes(Engine& engine, const std::string& path) {
  std::error_code ignored;
  if (path.empty() || !std::filesystem::exists(path, ignored)) return;
  const auto restored = engine.restore_prefixes(path);
  write_stderr(restored.ok()
                   ? fmt::format("restored {}: {}\n", path, prefix_file_text(*restored))
                   : fmt::format("note: {}; it will be replaced when the server stops\n", restored.message()));
}

// Said at the start, not after hours of serving.
Status check_prefix_file(const ServeOptions& options) {
  if (options.prefix_file.empty()) return success();
  if (options.prefix_bytes == 0U) return error("--prefix-file: nothing is kept with --prefix-cache 0");
  const std::filesystem::path path(options.prefix_file);
  const std::filesystem::path folder = path.has_parent_path() ? path.parent_path() : ".";
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) return error("{}: expected a file, found a folder", path.string());
  if (std::filesystem::exists(path, ignored) && !CheckedFile::is_one(path)) {
    return error("{}: this is no file of kept prefixes, and would be overwritten; name another", path.string());
  }
  if (!std::filesystem::is_directory(folder, ignored) || ::access(folder.c_str(), W_OK) != 0) {
    return error("{}: cannot write into {}", path.string(), folder.string());
  }
  return success();
}

// What is served, once it is loaded.
struct Loaded {
  std::unique_ptr<const Qwen3Next> model;
  EngineConfig config;
  std::unique_ptr<Engine> engine;
  std::optional<ServedModel> served;
};

Status load(Loaded& out, const ServeOptions& options, const TextFiles& files, const Ops& ops) {
  QN_TRY(out.model, load_model(options.model, ops, options.machine));
  const ModelConfig& model = out.model->config();
  std::size_t context_tokens = options.context.context_tokens;
  if (context_tokens == 0) {
    const std::size_t longest = model.max_context_tokens;
    context_tokens = longest == 0 ? kDefaultContext : std::min(longest, kDefaultContext);
  }
  out.config = {.context_tokens = context_tokens,
                .num_sequences = options.num_parallel,
                .max_waiting = options.num_parallel + options.max_waiting,
                .kv_type = options.context.kv_type,
                .max_drafts = options.context.drafts_for(model.has_mtp),
                .adapts_drafts = !options.context.fixed_drafts};
  out.config.num_kept_prefixes = num_kept_prefixes(options, model, out.config);
  QN_TRY(out.engine, Engine::make(*out.model, ops, out.config));
  QN_TRY(out.served, served_model(options, files, model, context_tokens));
  restore_prefixes(*out.engine, options.prefix_file);
  return success();
}

std::string address_of(const ServerConfig& config, std::uint16_t port) {
  const bool is_v6 = config.host.find(':') != std::string::npos;
  return fmt::format("{}://{}:{}/", config.tls ? "https" : "http", is_v6 ? "[" + config.host + "]" : config.host, port);
}

std::string what_is_served(const Loaded& loaded, const Machine& machine) {
  const EngineConfig& config = loaded.config;
  return fmt::format(
      "serving {}: {} tokens of context, {} at once, {} prefixes kept, {} tokens guessed ahead, {:.2f} GiB of K/V ({}) "
      "and states; "
      "{}, {} threads\n",
      loaded.served->name, config.context_tokens, config.num_sequences, config.num_kept_prefixes, config.max_drafts,
      gib(engine_memory_bytes(loaded.model->config(), config)), dtype_info(config.kv_type).name, machine.table->name,
      machine.pool->num_threads());
}

Result<ExitCode> serve(ServeOptions options) {
  QN_RETURN_IF_ERROR(check_prefix_file(options));
  QN_TRY(options.server.api_keys, read_keys(options));
  if (!options.tls_certificate.empty()) {
    QN_TRY(options.server.tls, load_tls(options.tls_certificate, options.tls_key));
  }
  options.server.max_requests = options.num_parallel + options.max_waiting;
  QN_TRY(const TextFiles files, load_text_files(options.model));
  QN_RETURN_IF_ERROR(require_tokenizer(files, options.model));
  QN_TRY(Machine machine, make_machine(options.machine));
  const Ops ops(*machine.table, *machine.pool);

  Loaded loaded;  // outlives the server, which is there before
  Server server(options.server, log_request);
  QN_RETURN_IF_ERROR(server.open());
  QN_RETURN_IF_ERROR(load(loaded, options, files, ops));
  server.start(*loaded.engine, *loaded.served);
  if (const auto note = model_note(options.model)) write_stderr(fmt::format("note: {}\n", *note));
  const std::string address = address_of(options.server, server.port());
  QN_RETURN_IF_ERROR(write_stdout(address + "v1\n"));
  write_stderr(fmt::format("chat page: {}\n{}", address, what_is_served(loaded, machine)));
  if (options.opens_page) open_page(address);
  server.run([] { return interrupted(); });
  if (!options.prefix_file.empty()) {
    QN_TRY(const PrefixFile saved, loaded.engine->save_prefixes(options.prefix_file));
    write_stderr(fmt::format("saved {}: {}\n", options.prefix_file, prefix_file_text(saved)));
  }
  write_stderr("stopped\n");
  return ExitCode::kDone;
}

void add_server_options(CLI::App& command, ServeOptions& options) {
  command.add_option("--host", options.server.host, "Address to listen at (default: 127.0.0.1, this machine only)")
      ->type_name("IP");
  command.add_option("--port", options.server.port, "Port to listen at; 0: any that is free (default: 8080)")
      ->check(CLI::Range(0, 65535))
      ->type_name("N");
  command
      .add_option("--name", options.name,
                  "What clients call the model (default: the file's or folder's name; OWNER/NAME of a pulled one)")
      ->type_name("NAME");
  command.add_option("--alias", options.aliases, "Another name for it; may be given several times")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->type_name("NAME");
  const auto has_text = [](const std::string& text) {  // an unset variable must not open the server to all
    return std::string(text.empty() ? "is empty" : "");
  };
  command.add_option("--api-key", options.api_key, "Ask clients for this key")->type_name("KEY")->check(has_text);
  command.add_option("--api-key-file", options.api_key_file, "Ask clients for one of this file's keys, one a line")
      ->type_name("FILE")
      ->check(has_text);
  CLI::Option* certificate = command.add_option("--tls-cert", options.tls_certificate,
                                                "Speak HTTPS with this certificate (PEM, its chain after it)");
  CLI::Option* key = command.add_option("--tls-key", options.tls_key, "The certificate's private key (PEM)");
  certificate->type_name("FILE")->needs(key);
  key->type_name("FILE")->needs(certificate);
  command
      .add_option("--cors", options.server.cors_origin,
                  "Let pages of this origin ask, such as http://localhost:3000; *: all")
      ->type_name("ORIGIN");
  command.add_flag("--open", options.opens_page, "Open the chat page in a browser");
  command.add_option("--parallel", options.num_parallel, "Answers that are computed at once; more wait (default: 4)")
      ->check(CLI::Range(1, 1024))
      ->type_name("N");
  command
      .add_option("--prefix-cache", options.prefix_bytes,
                  "Memory for states of prompts and answers, so that what begins like them need not run again; 0: none "
                  "(default: a quarter of what is free, at most 2G)")
      ->transform(CLI::AsSizeValue(false))
      ->type_name("SIZE");
  command
      .add_option("--prefix-file", options.prefix_file,
                  "Take up what FILE keeps of prompts and answers, and write it there when the server stops")
      ->type_name("FILE");
  command
      .add_option_function<unsigned>(
          "--drain", [&options](unsigned seconds) { options.server.drain = std::chrono::seconds(seconds); },
          "Seconds that running answers get to end when the server is to stop (default: 30)")
      ->check(CLI::Range(0, 86400))
      ->type_name("S");
  command
      .add_option_function<unsigned>(
          "--deadline", [&options](unsigned seconds) { options.server.deadline = std::chrono::seconds(seconds); },
          "Seconds that an answer may take, its wait included; then it ends with what there is (default: no limit)")
      ->check(CLI::Range(1, 86400))
      ->type_name("S");
  command.add_option("--queue", options.max_waiting, "Answers that may wait; more are refused with 429 (default: 256)")
      ->check(CLI::Range(0, 1 << 20))
      ->type_name("N");
}

}  // namespace

void add_serve_command(CLI::App& root, Action& action) {
  auto options = std::make_shared<ServeOptions>();
  CLI::App& command = *root.add_subcommand("serve", "Serve the model to OpenAI's clients over HTTP.");
  add_model_option(command, options->model, "A folder (config.json + safetensors) or a .gguf file");
  add_server_options(command, *options);
  add_context_options(command, options->context);
  add_machine_options(command, options->machine);
  command.footer(
      "Prints the base URL for clients once the model is loaded; until then the port answers 503. A line for each\n"
      "request goes to stderr, without its text.\n"
      "Ctrl-C or SIGTERM lets running answers end, for as long as --drain says. docs/serving.md lists endpoints and "
      "limits.\n\n"
      "Examples:\n"
      "  qnext serve model.gguf\n"
      "  qnext serve model.gguf --port 9000 --parallel 8 --context 32K --api-key-file keys.txt\n"
      "  curl http://127.0.0.1:8080/v1/chat/completions --json '{\"model\": \"model\", \"messages\": "
      "[{\"role\": \"user\", \"content\": \"Hi\"}]}'");
  command.callback([options, &action] { action = [options] { return serve(*options); }; });
}

}  // namespace qnext
