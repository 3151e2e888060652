#include "server/server.h"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <random>

#include "server/body_reader.h"
#include "server/count_guard.h"
#include "server/openapi.h"
#include "server/page.h"

namespace qnext {
namespace asio = boost::asio;
namespace http = boost::beast::http;
using Awaitable = asio::awaitable<void>;
using Clock = std::chrono::steady_clock;

namespace {

std::int64_t unix_time_s() {
  return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count();
}

// Takes as long whatever the first difference is.
bool same_secret(std::string_view a, std::string_view b) {
  unsigned difference = a.size() == b.size() ? 0 : 1;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference |= static_cast<unsigned char>(a[i]) ^ static_cast<unsigned char>(b.empty() ? '\0' : b[i % b.size()]);
  }
  return difference == 0;
}

// gcc 12 takes no list in braces within a coroutine: these are made outside.
ApiError queue_full() {
  return {.status = 429,
          .message = "The queue is full; try again later.",
          .type = "server_error",
          .code = "queue_full",
          .retry_after_s = 5};
}
ApiError still_loading() {
  return {.status = 503,
          .message = "The model is being loaded; try again soon.",
          .type = "server_error",
          .code = "loading",
          .retry_after_s = 1};
}
Usage usage_of(const PreparedRequest& request, const Generation& generation) {
  return {.prompt_tokens = request.num_prompt_tokens,
          .completion_tokens = generation.num_new_tokens(),
          .cached_tokens = generation.num_cached_tokens(),
          .accepted_tokens = generation.num_accepted_tokens(),
          .rejected_tokens = generation.num_drafted_tokens() - generation.num_accepted_tokens()};
}
FinishedAnswer finished(AnswerUpdate update) {
  return {std::move(update.text), std::move(update.tokens), update.finish_reason.value_or("stop")};
}

std::string event_of(const Json& json) {
  return "data: " + json_text(json) + "\n\n";
}

constexpr std::string_view kModelPath = "/v1/models/";
const std::string kOtherRoute = "other";

// Of bodies that wait to be read, or are: four of the largest, or thousands of usual ones.
constexpr std::size_t kMaxWaitingBytes = std::size_t{64} << 20;

// What a request's Origin header names is where its page came from; a proxy in front of us may speak another protocol.
bool is_own_page(const HttpRequest& request) {
  const std::string_view origin(request[http::field::origin]), host(request[http::field::host]);
  const std::size_t begin = origin.find("://");
  return begin != std::string_view::npos && origin.substr(begin + 3) == host;
}

const std::vector<std::string>& get_paths() {
  static const std::vector<std::string> out = {
      "/", "/app.css", "/app.js", "/health", "/metrics", "/openapi.json", "/props", "/tokenizer_info", "/v1/models"};
  return out;
}
const std::vector<std::string>& post_paths() {
  static const std::vector<std::string> out = {"/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize",
                                               "/apply-template"};
  return out;
}

bool is_among(const std::vector<std::string>& paths, const std::string& path) {
  return std::find(paths.begin(), paths.end(), path) != paths.end();
}
bool is_get_path(const std::string& path) {
  return is_among(get_paths(), path) || path.starts_with(kModelPath);
}

std::string route_name(const std::string& path) {
  if (path.starts_with(kModelPath)) return "/v1/models/{id}";
  return is_among(get_paths(), path) || is_among(post_paths(), path) ? path : kOtherRoute;
}

}  // namespace

Server::Server(ServerConfig config, std::function<void(const RequestLog&)> log)
    : config_(std::move(config)),
      log_(std::move(log)),
      http_(io_, config_.limits, config_.tls, [this](HttpExchange& exchange) { return handle(exchange); }),
      prepare_thread_([this] { prepare_io_.run(); }) {}

Server::~Server() {
  io_.stop();
  if (io_thread_) io_thread_->join();
  if (engine_) engine_->stop();
  prepare_io_.stop();
  prepare_thread_.join();
}

Status Server::open() {
  QN_RETURN_IF_ERROR(http_.listen(config_.host, config_.port));
  io_thread_.emplace([this] { io_.run(); });
  return success();
}

void Server::start(Engine& engine, const ServedModel& model) {
  engine_.emplace(engine, config_.max_requests);
  model_ = &model;  // last: io_'s thread sees by it that all is there
}

void Server::run(const std::function<bool()>& should_stop) {
  asio::co_spawn(io_, watch(should_stop), asio::detached);
  io_thread_->join();
  engine_->stop();
}

Awaitable Server::watch(std::function<bool()> should_stop) {
  asio::steady_timer timer(io_);
  const auto pause = [&] {
    timer.expires_after(std::chrono::milliseconds(100));
    return timer.async_wait(asio::use_awaitable);
  };
  while (!should_stop()) co_await pause();
  draining_ = true;
  http_.drain();
  const auto end = Clock::now() + config_.drain;
  while (*num_handled_ > 0 && Clock::now() < end) co_await pause();
  co_await pause();  // connections say goodbye
  io_.stop();
}

// ---- One request ----

Awaitable Server::handle(HttpExchange& exchange) {
  const CountGuard here(num_handled_);
  RequestLog log;
  log.id = fmt::format("{:x}-{}", static_cast<std::uint32_t>(unix_time_s()), next_id_++);
  log.route = exchange.problem() ? kOtherRoute : route_name(exchange.path());
  const auto begin = Clock::now();
  if (!config_.cors_origin.empty()) {
    exchange.add_header("Access-Control-Allow-Origin", config_.cors_origin);
    exchange.add_header("Access-Control-Expose-Headers", "X-Request-Id, Retry-After");
    if (exchange.request().method() == http::verb::options) {
      exchange.add_header("Access-Control-Allow-Headers",
                          std::string(exchange.request()[http::field::access_control_request_headers]));
      exchange.add_header("Access-Control-Allow-Methods", "GET, POST");
      exchange.add_header("Access-Control-Max-Age", "600");
    }
  }
  exchange.add_header("X-Request-Id", log.id);
  if (draining_) exchange.close();  // and says so
  co_await dispatch(exchange, log);
  log.status = exchange.status();
  log.seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  metrics_.count_request(log.route, log.client_left ? 499 : log.status);
  if (log_) log_(log);
}

std::optional<ApiError> Server::refuse(const HttpExchange& exchange) const {
  const std::string path = exchange.path();
  const http::verb method = exchange.request().method();
  const bool reads = method == http::verb::get || method == http::verb::head;
  if (!is_get_path(path) && !is_among(post_paths(), path)) {
    return ApiError{.status = 404,
                    .message = fmt::format("There is nothing at {}; docs/serving.md lists the paths.", path)};
  }
  if (is_get_path(path) ? !reads : method != http::verb::post) {
    const std::string allowed = is_get_path(path) ? "GET, HEAD" : "POST";
    return ApiError{.status = 405, .message = fmt::format("{} takes {}.", path, allowed), .allow = allowed};
  }
  if (!config_.api_keys.empty() && path != "/health" && !page_file(path)) {
    const std::string_view given(exchange.request()[http::field::authorization]);
    const bool known = std::any_of(config_.api_keys.begin(), config_.api_keys.end(),
                                   [&](const std::string& key) { return same_secret("Bearer " + key, given); });
    if (!known) {
      return ApiError{.status = 401,
                      .message = "Incorrect API key provided: expected the header Authorization: Bearer KEY.",
                      .code = "invalid_api_key"};
    }
  }
  if (draining_ && path != "/metrics") {
    return ApiError{.status = 503, .message = "The server is stopping.", .type = "server_error", .retry_after_s = 5};
  }
  if (is_among(post_paths(), path)) {
    // A browser sends a foreign page's POST without asking first, if it only looks like a form's.
    const std::string_view origin(exchange.request()[http::field::origin]);
    if (!origin.empty() && !is_own_page(exchange.request()) && config_.cors_origin != "*" &&
        config_.cors_origin != origin) {
      return ApiError{
          .status = 403,
          .message = fmt::format("Pages of {} may not ask here; the server's flag --cors allows it.", origin),
          .code = "origin_not_allowed"};
    }
    const std::string_view type(exchange.request()[http::field::content_type]);
    if (!type.empty() && !boost::beast::iequals(type.substr(0, type.find_first_of("; ")), "application/json")) {
      return ApiError{.status = 415,
                      .message = fmt::format("Expected Content-Type: application/json, found {}.", type)};
    }
    const std::string_view encoding(exchange.request()[http::field::content_encoding]);
    if (!encoding.empty() && !boost::beast::iequals(encoding, "identity")) {
      return ApiError{.status = 415,
                      .message = fmt::format("Bodies are read as they are: no Content-Encoding, found {}.", encoding)};
    }
  }
  return std::nullopt;
}

Awaitable Server::dispatch(HttpExchange& exchange, RequestLog& log) {
  if (exchange.problem()) {
    co_await exchange.send_error(*exchange.problem());
    co_return;
  }
  const std::string path = exchange.path();
  if (exchange.request().method() == http::verb::options && !config_.cors_origin.empty()) {
    co_await exchange.send(204, "text/plain", "");
    co_return;
  }
  if (is_loading()) {
    co_await answer_loading(exchange);
    co_return;
  }
  if (const auto error = refuse(exchange)) {
    co_await exchange.send_error(*error);
    co_return;
  }
  if (page_file(path)) {
    exchange.add_header("Content-Security-Policy", kPagePolicy);
    exchange.add_header("X-Content-Type-Options", "nosniff");
    exchange.add_header("Referrer-Policy", "no-referrer");
    exchange.add_header("Cache-Control", "no-cache");
  }
  if (is_get_path(path)) {
    const auto reply = info(path);
    if (const auto* error = std::get_if<ApiError>(&reply)) {
      co_await exchange.send_error(*error);
    } else {
      co_await exchange.send(200, std::get<TextReply>(reply).type, std::get<TextReply>(reply).body);
    }
    co_return;
  }
  const std::size_t num_bytes = exchange.request().body().size();
  if (*num_waiting_bytes_ > 0 && *num_waiting_bytes_ + num_bytes > kMaxWaitingBytes) {
    co_await exchange.send_error(queue_full());
    co_return;
  }
  const CountGuard waiting(num_waiting_bytes_, num_bytes);
  PreparedPost post =
      co_await asio::co_spawn(prepare_io_, prepare_aside(path, exchange.request().body()), asio::use_awaitable);
  if (const auto* error = std::get_if<ApiError>(&post)) {
    co_await exchange.send_error(*error);
  } else if (const auto* reply = std::get_if<Json>(&post)) {
    co_await exchange.send_json(*reply);
  } else {
    co_await answer_generation(exchange, std::get<PreparedRequest>(std::move(post)), log);
  }
}

Awaitable Server::answer_loading(HttpExchange& exchange) {
  const ApiError error = still_loading();
  if (exchange.path() != "/health") {
    co_await exchange.send_error(error);
    co_return;
  }
  exchange.add_header("Retry-After", std::to_string(*error.retry_after_s));
  co_await exchange.send(503, "application/json", R"({"status":"loading"})");
}

// A body of megabytes takes seconds to read and to make tokens of: it must not hold up everyone's answers.
asio::awaitable<Server::PreparedPost> Server::prepare_aside(std::string path, std::string body) {
  co_return prepare(path, body);
}

Server::PreparedPost Server::prepare(const std::string& path, const std::string& text) const {
  const auto widen = [](auto narrow) {
    return std::visit([](auto& value) { return PreparedPost(std::move(value)); }, narrow);
  };
  const ParsedBody body = parse_body(text);
  if (body.error) return *body.error;
  if (path == "/v1/chat/completions") return widen(prepare_chat(body.json, model()));
  if (path == "/v1/completions") return widen(prepare_completion(body.json, model()));
  return widen(text_tool(path, body.json));
}

std::variant<TextReply, ApiError> Server::info(const std::string& path) {
  if (path == "/health") return TextReply{.body = json_text({{"status", "ok"}})};
  if (path == "/metrics") return TextReply{.type = "text/plain; version=0.0.4", .body = metrics_.text(engine_->load())};
  if (path == "/v1/models") return TextReply{.body = json_text(models_json(model()))};
  if (path == "/props") {
    return TextReply{.body = json_text({{"model", model().name},
                                        {"context_tokens", model().context_tokens},
                                        {"parallel", engine_->load().num_sequences},
                                        {"chat", model().chat_template.has_value()}})};
  }
  if (path == "/openapi.json") return TextReply{.body = openapi_document(model())};
  if (path == "/tokenizer_info") return TextReply{.body = json_text(tokenizer_json(model()))};
  if (const auto file = page_file(path))
    return TextReply{.type = std::string(file->type), .body = std::string(file->body)};
  const std::string name = path.substr(kModelPath.size());
  if (!serves(model(), name)) return model_not_found(name);
  return TextReply{.body = json_text(model_json(model()))};
}

std::variant<Json, ApiError> Server::text_tool(const std::string& path, const Json& json) const {
  if (path == "/apply-template") {
    const auto text = render_chat(json, model());
    if (const auto* error = std::get_if<ApiError>(&text)) return *error;
    return Json{{"prompt", std::get<std::string>(text)}};
  }
  BodyReader body(json);
  body.ignore({"model"});
  if (path == "/tokenize") {
    const auto content = body.text("content"), prompt = body.text("prompt");  // llama-server's name, and vLLM's
    const bool adds_special = body.flag("add_special_tokens").value_or(false);
    if (content.has_value() == prompt.has_value()) {
      body.fail("content", "You must provide 'content' or 'prompt', a string.");
    }
    if (const auto& error = body.finish()) return *error;
    const auto ids = model().tokenizer.encode(content ? *content : *prompt, {.add_special = adds_special});
    if (!ids.ok()) return ApiError{.message = ids.message(), .param = content ? "content" : "prompt"};
    return Json{{"tokens", *ids}, {"count", ids->size()}};
  }
  const Json* tokens = body.any("tokens");
  std::vector<TokenId> ids;
  const bool is_list = tokens != nullptr && tokens->is_array();
  for (const Json& id : is_list ? *tokens : Json::array()) {
    if (id.is_number_unsigned() && id.get<std::uint64_t>() < model().vocabulary_tokens)
      ids.push_back(id.get<TokenId>());
  }
  if (!is_list || ids.size() != tokens->size()) {
    body.fail("tokens", fmt::format("You must provide 'tokens', a list of ids below {}.", model().vocabulary_tokens));
  }
  if (const auto& error = body.finish()) return *error;
  const auto text = model().tokenizer.decode(ids);
  if (!text.ok()) return ApiError{.message = text.message(), .param = "tokens"};
  return Json{{"content", *text}, {"prompt", *text}};
}

// ---- Answers ----

Awaitable Server::answer_generation(HttpExchange& exchange, PreparedRequest request, RequestLog& log) {
  using namespace asio::experimental::awaitable_operators;  // NOLINT: ||
  log.prompt_tokens = request.num_prompt_tokens;
  if (config_.deadline) {
    for (PreparedAnswer& answer : request.answers) answer.request.deadline = Clock::now() + *config_.deadline;
  }
  const auto generation = Generation::start(io_, *engine_, metrics_, model(), request);
  if (generation == nullptr) {
    co_await exchange.send_error(queue_full());
    co_return;
  }
  bool left = false;
  try {
    const auto first = co_await (write_answers(exchange, *generation, request, log.id) || exchange.client_left());
    left = first.index() == 1;
  } catch (const boost::system::system_error&) {
    left = true;  // a write failed
  }
  log.cached_tokens = generation->num_cached_tokens();
  log.drafted_tokens = generation->num_drafted_tokens();
  log.accepted_tokens = generation->num_accepted_tokens();
  log.new_tokens = generation->num_new_tokens();
  log.first_token_s = generation->first_token_s();
  log.client_left = left;
  if (left) {
    metrics_.cancelled().Increment();
    exchange.close();
  }
}

Awaitable Server::write_answers(HttpExchange& exchange, Generation& generation, const PreparedRequest& request,
                                const std::string& id) {
  AnswerWriter writer(model(), request, (request.is_chat ? "chatcmpl-" : "cmpl-") + id, unix_time_s());
  if (request.stream) {
    co_await stream(exchange, generation, writer, request);
  } else {
    co_await collect(exchange, generation, writer, request);
  }
}

Awaitable Server::collect(HttpExchange& exchange, Generation& generation, AnswerWriter& writer,
                          const PreparedRequest& request) {
  while (!generation.done()) co_await generation.wait(std::chrono::hours(24));
  if (generation.error()) {
    co_await exchange.send_error(*generation.error());
    co_return;
  }
  std::vector<FinishedAnswer> answers;
  for (std::size_t i = 0; i < generation.num_answers(); ++i) {
    answers.push_back(finished(generation.take(i)));
  }
  co_await exchange.send_json(writer.whole(answers, usage_of(request, generation)));
}

Awaitable Server::stream(HttpExchange& exchange, Generation& generation, AnswerWriter& writer,
                         const PreparedRequest& request) {
  co_await exchange.begin_stream();
  std::string events;
  for (std::size_t i = 0; i < generation.num_answers(); ++i) {
    if (request.is_chat || !request.answers[i].echo.empty()) events += event_of(writer.first_chunk(i));
  }
  if (!events.empty()) co_await exchange.send_event(std::exchange(events, ""));
  while (!generation.done() || generation.has_news()) {  // the end may come while the rest is being sent
    if (!co_await generation.wait(config_.ping)) {
      co_await exchange.send_event(": ping\n\n");
      continue;
    }
    for (std::size_t i = 0; i < generation.num_answers(); ++i) {
      const AnswerUpdate update = generation.take(i);
      const bool has_logprobs = request.answers[i].request.num_logprobs && !update.tokens.empty();
      if (!update.text.empty() || has_logprobs) events += event_of(writer.delta_chunk(i, update.text, update.tokens));
      if (update.finish_reason && !generation.error()) events += event_of(writer.last_chunk(i, *update.finish_reason));
    }
    if (!events.empty()) co_await exchange.send_event(std::exchange(events, ""));
  }
  if (generation.error()) {
    events = event_of(error_json(*generation.error()));
  } else if (request.include_usage) {
    events = event_of(writer.usage_chunk(usage_of(request, generation)));
  }
  co_await exchange.end_stream(events + "data: [DONE]\n\n");
}

}  // namespace qnext
