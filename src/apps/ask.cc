// qnext ask: a question to any server that speaks OpenAI's chat completions.
#include <filesystem>

#include "apps/command.h"
#include "apps/console.h"
#include "apps/event_stream.h"
#include "apps/http_client.h"
#include "apps/json_text.h"
#include "apps/thinking.h"
#include "base/env.h"
#include "tensor/atomic_file.h"

namespace qnext {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kMaxPromptBytes = std::size_t{15} << 20;  // servers take bodies of 16 MiB

struct AskOptions {
  std::string base_url = "http://127.0.0.1:8080/v1";
  std::string model;
  std::string api_key_env;
  std::string prompt, system;
  std::string out;
  std::optional<std::size_t> max_tokens;
  std::optional<double> temperature;
  std::optional<std::int64_t> seed;
  std::size_t num_retries = 4;
  unsigned timeout_s = 300;
};

struct Server {
  std::string base_url;  // without a slash at its end
  std::string api_key;
  std::chrono::seconds timeout;
};

// The text of an error in OpenAI's shape, or the beginning of what came instead.
std::string error_text(const std::string& body) {
  const Json json = Json::parse(body, nullptr, /*allow_exceptions=*/false);
  if (json.is_object() && json.contains("error")) {
    const Json& inner = json["error"];
    if (inner.is_string()) return inner.get<std::string>();
    if (inner.is_object() && inner.value("message", Json()).is_string()) return inner["message"].get<std::string>();
  }
  return body.empty() ? "no explanation" : escaped(std::string_view(body).substr(0, 200));
}

std::string explain(const HttpReply& reply, const Server& server, const AskOptions& options) {
  std::string said =
      fmt::format("{}: the server says {}: {}", server.base_url, reply.status, error_text(reply.error_body));
  switch (reply.status) {
    case 401:
    case 403:
      return said + (server.api_key.empty() ? "; set OPENAI_API_KEY, or name the key's variable with --api-key-env"
                                            : "; the API key that was sent is not accepted");
    case 404:
      return said + fmt::format("; is {} a model of this server, and does the address end in /v1?", options.model);
    case 429:
      return said + "; try again later";
    default:
      return said;
  }
}

bool may_pass(long status) {
  return status == 429 || status == 502 || status == 503 || status == 504;
}

// What comes of an answer, in pieces.
class AnswerReader {
 public:
  explicit AnswerReader(ThinkingStyle& style) : style_(style) {}

  Status feed(std::string_view bytes) {
    if (!is_stream_.has_value()) {
      const std::size_t first = bytes.find_first_not_of(" \t\r\n");
      if (first == std::string_view::npos) return success();
      is_stream_ = bytes[first] != '{';  // some servers send whole answers whatever they are asked for
    }
    if (!*is_stream_) {
      whole_ += bytes;
      return success();
    }
    for (const std::string& event : events_.feed(bytes)) QN_RETURN_IF_ERROR(take(event));
    return success();
  }

  // After the last byte. Error: the answer is not complete.
  Status finish() {
    if (!whole_.empty()) QN_RETURN_IF_ERROR(take(whole_));
    if (finish_reason_.empty() && !done_) return error("the answer broke off");
    return success();
  }

  const std::string& text() const { return text_; }
  const std::string& finish_reason() const { return finish_reason_; }
  bool has_begun() const { return !text_.empty() || thinks_; }

 private:
  Status take(const std::string& data) {
    if (data == "[DONE]") {
      done_ = true;
      return success();
    }
    const Json json = Json::parse(data, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object())
      return error("the server sent what is no JSON: {}", escaped(std::string_view(data).substr(0, 200)));
    if (json.contains("error")) return error("the server says: {}", error_text(data));
    const Json choices = json.value("choices", Json::array());
    if (!choices.is_array() || choices.empty() || !choices[0].is_object()) return success();
    const Json& choice = choices[0];
    const Json part = choice.contains("delta") ? choice["delta"] : choice.value("message", Json::object());
    const auto field = [](const Json& object, const char* name) {
      const Json value = object.is_object() ? object.value(name, Json()) : Json();
      return value.is_string() ? value.get<std::string>() : std::string();
    };
    QN_RETURN_IF_ERROR(show(field(part, "reasoning_content"), field(part, "content")));
    if (const std::string reason = field(choice, "finish_reason"); !reason.empty()) finish_reason_ = reason;
    return success();
  }

  Status show(const std::string& thought, const std::string& content) {
    std::string shown;
    if (!thought.empty()) shown += (std::exchange(thinks_, true) ? "" : "<think>\n") + thought;
    if (!content.empty() && thinks_) shown += "</think>\n\n", thinks_ = false;
    text_ += content;
    return write_stdout(style_.feed(shown + content));
  }

  ThinkingStyle& style_;
  EventStream events_;
  std::optional<bool> is_stream_;
  std::string whole_, text_, finish_reason_;
  bool done_ = false;
  bool thinks_ = false;
};

Result<Server> make_server(const AskOptions& options) {
  Server out{.base_url = options.base_url, .api_key = {}, .timeout = std::chrono::seconds(options.timeout_s)};
  while (out.base_url.ends_with('/')) out.base_url.pop_back();
  const std::string variable = options.api_key_env.empty() ? "OPENAI_API_KEY" : options.api_key_env;
  const auto key = env(variable.c_str());
  if (!key && !options.api_key_env.empty()) return error("--api-key-env: the variable {} is not set", variable);
  out.api_key = key.value_or("");
  if (out.api_key.find_first_of("\r\n") != std::string::npos) return error("{}: the key has a line break", variable);
  return out;
}

// The first that the server lists.
Result<std::string> ask_for_model(const Server& server, const AskOptions& options) {
  std::string body;
  QN_TRY(
      const HttpReply reply,
      http_call({.url = server.base_url + "/models", .bearer_token = server.api_key, .longest_silence = server.timeout},
                [&](std::string_view bytes) {
                  body += bytes;
                  return success();
                }));
  if (!reply.ok()) return error("{}", explain(reply, server, options));
  const Json json = Json::parse(body, nullptr, /*allow_exceptions=*/false);
  const Json list = json.is_object() ? json.value("data", Json()) : Json();
  if (list.is_array() && !list.empty() && list[0].is_object() && list[0].value("id", Json()).is_string()) {
    return list[0]["id"].get<std::string>();
  }
  return error("{}: lists no models; name one with --model", server.base_url);
}

Status expect_writable(const std::string& out) {
  const std::filesystem::path path(out);
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) return error("{}: expected a file, found a folder", out);
  const std::filesystem::path folder = path.has_parent_path() ? path.parent_path() : ".";
  if (!std::filesystem::is_directory(folder, ignored)) return error("{}: there is no folder {}", out, folder.string());
  return success();
}

std::string request_body(const AskOptions& options, const std::string& prompt) {
  Json messages = Json::array();
  if (!options.system.empty()) messages.push_back({{"role", "system"}, {"content", options.system}});
  messages.push_back({{"role", "user"}, {"content", prompt}});
  Json out = {{"model", options.model}, {"messages", std::move(messages)}, {"stream", true}};
  if (options.max_tokens) out["max_tokens"] = *options.max_tokens;
  if (options.temperature) out["temperature"] = *options.temperature;
  if (options.seed) out["seed"] = *options.seed;
  return json_line(out);
}

Result<ExitCode> ask(AskOptions options) {
  QN_TRY(const Server server, make_server(options));
  QN_TRY(const std::string prompt, text_argument(options.prompt, kMaxPromptBytes));
  if (!options.out.empty()) QN_RETURN_IF_ERROR(expect_writable(options.out));
  if (options.model.empty()) {
    QN_TRY(options.model, ask_for_model(server, options));
  }
  const HttpCall call{.url = server.base_url + "/chat/completions",
                      .bearer_token = server.api_key,
                      .json = request_body(options, prompt),
                      .follows_redirects = false,  // a POST would become a GET
                      .longest_silence = server.timeout};
  ThinkingStyle style(stdout_takes_colour(), /*starts_inside=*/false);
  AnswerReader answer(style);
  for (std::size_t num_tries = 0;; ++num_tries) {
    QN_TRY(const HttpReply reply, http_call(call, [&](std::string_view bytes) { return answer.feed(bytes); }));
    if (reply.ok()) break;
    if (!may_pass(reply.status) || num_tries == options.num_retries)
      return error("{}", explain(reply, server, options));
    const std::chrono::seconds delay = retry_delay(reply, num_tries);
    write_stderr(fmt::format("{}: busy ({}); trying again in {} s, {} of {}\n", server.base_url, reply.status,
                             delay.count(), num_tries + 1, options.num_retries));
    if (!wait_unless_interrupted(delay)) return error("interrupted");
  }
  const Status complete = answer.finish();
  QN_RETURN_IF_ERROR(write_stdout(style.finish() + (answer.has_begun() ? "\n" : "")));
  if (!complete.ok()) return error("{}: {}", server.base_url, complete.message());
  if (answer.finish_reason() == "length") write_stderr("note: the answer reached its longest length\n");
  if (!options.out.empty()) QN_RETURN_IF_ERROR(write_file(options.out, answer.text() + "\n"));
  return ExitCode::kDone;
}

}  // namespace

void add_ask_command(CLI::App& root, Action& action) {
  auto options = std::make_shared<AskOptions>();
  CLI::App& command = *root.add_subcommand("ask", "Ask any server that speaks OpenAI's chat completions.");
  command.add_option("PROMPT", options->prompt, "The prompt; - reads it from stdin")->required();
  command
      .add_option("--base-url", options->base_url,
                  "The server's address, with its /v1 (default: http://127.0.0.1:8080/v1)")
      ->type_name("URL");
  command
      .add_option(
          "--model", options->model,
          "The model's name there; a router also takes NAME:PROVIDER (default: the first that the server lists)")
      ->type_name("NAME");
  command
      .add_option("--api-key-env", options->api_key_env,
                  "The environment variable that has the API key (default: OPENAI_API_KEY, where it is set)")
      ->type_name("VAR");
  command.add_option("--system", options->system, "A system message before the prompt")->type_name("TEXT");
  command.add_option("--out", options->out, "Write the answer, once it is complete, to FILE as well")
      ->type_name("FILE");
  command.add_option("--max-tokens", options->max_tokens, "Longest answer (default: the server's)")
      ->check(CLI::Range(std::size_t{1}, std::size_t{1} << 24))
      ->type_name("N");
  command.add_option("--temperature", options->temperature, "0: always the likeliest token (default: the server's)")
      ->check(CLI::Range(0.0, 2.0))
      ->type_name("X");
  command.add_option("--seed", options->seed, "Same seed, same answer, where the server can")->type_name("S");
  command.add_option("--retries", options->num_retries, "How often to try again when the server is busy (default: 4)")
      ->check(CLI::Range(0, 100))
      ->type_name("N");
  command.add_option("--timeout", options->timeout_s, "Seconds of silence after which to give up (default: 300)")
      ->check(CLI::Range(1, 86400))
      ->type_name("S");
  command.footer(
      "The answer goes to stdout as it comes. A busy server (429, 503) is asked again, as late as it says. Ctrl-C ends "
      "it,\n"
      "with exit code 130; --out then leaves FILE as it was.\n\n"
      "Examples:\n"
      "  qnext ask 'Why is the sky blue?'\n"
      "  git diff | qnext ask - --system 'Review this change.' --out review.md\n"
      "  qnext ask 'Hello' --base-url https://router.example/v1 --model Qwen/Qwen3-Next-80B-A3B-Instruct:novita "
      "--api-key-env HF_TOKEN");
  command.callback([options, &action] { action = [options] { return ask(*options); }; });
}

}  // namespace qnext
