#pragma once
// Server: the OpenAI-compatible endpoints over one engine. docs/serving.md lists them.

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "server/generation.h"
#include "server/http.h"
#include "server/metrics.h"
#include "server/openai.h"

namespace qnext {

struct ServerConfig {
  std::string host = "127.0.0.1";
  std::uint16_t port = 8080;               // 0: any that is free
  std::vector<std::string> api_keys = {};  // none: everyone may ask
  std::string cors_origin = {};            // "": no other origin's pages may ask; "*": all may
  std::size_t max_requests = 260;          // answers that run and wait; more are refused
  HttpLimits limits = {};
  std::shared_ptr<TlsContext> tls = {};               // null: not encrypted
  std::chrono::milliseconds ping{15'000};             // a comment in a silent stream
  std::optional<std::chrono::seconds> deadline = {};  // for an answer, from when its request was read
  std::chrono::seconds drain{30};  // for running answers, once the server is to stop; then they are cut off
};

// A finished request, for the log: what was asked of whom, never the text.
struct RequestLog {
  std::string id, route;
  unsigned status = 0;
  std::size_t prompt_tokens = 0, cached_tokens = 0, new_tokens = 0, drafted_tokens = 0, accepted_tokens = 0;
  double seconds = 0;
  std::optional<double> first_token_s = {};
  bool client_left = false;
};

struct TextReply {
  std::string type = "application/json";
  std::string body;
};

class Server {
 public:
  // `log` is called after each request, one that could not be read, too; on the server's own thread.
  Server(ServerConfig config, std::function<void(const RequestLog&)> log);

  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // open(), start() and run() come in this order, once each.
  // Listens: from now on requests are answered, with 503 "loading". Errors: as HttpServer::listen.
  Status open();
  std::uint16_t port() const { return http_.port(); }

  // From now on they are served. `engine` and `model` must outlive this.
  void start(Engine& engine, const ServedModel& model);

  // Until should_stop() says so (asked ten times a second); then lets running answers end. After that nobody touches
  // the engine any more.
  void run(const std::function<bool()>& should_stop);

 private:
  using Awaitable = boost::asio::awaitable<void>;
  using PreparedPost = std::variant<PreparedRequest, Json, ApiError>;

  bool is_loading() const { return model_ == nullptr; }
  const ServedModel& model() const { return *model_; }

  Awaitable handle(HttpExchange& exchange);
  Awaitable dispatch(HttpExchange& exchange, RequestLog& log);
  Awaitable answer_loading(HttpExchange& exchange);
  std::optional<ApiError> refuse(const HttpExchange& exchange) const;
  std::variant<TextReply, ApiError> info(const std::string& path);
  boost::asio::awaitable<PreparedPost> prepare_aside(std::string path, std::string body);
  PreparedPost prepare(const std::string& path, const std::string& body) const;
  std::variant<Json, ApiError> text_tool(const std::string& path, const Json& body) const;
  Awaitable answer_generation(HttpExchange& exchange, PreparedRequest request, RequestLog& log);
  Awaitable write_answers(HttpExchange& exchange, Generation& generation, const PreparedRequest& request,
                          const std::string& id);
  Awaitable collect(HttpExchange& exchange, Generation& generation, AnswerWriter& writer,
                    const PreparedRequest& request);
  Awaitable stream(HttpExchange& exchange, Generation& generation, AnswerWriter& writer,
                   const PreparedRequest& request);
  Awaitable watch(std::function<bool()> should_stop);

  std::atomic<const ServedModel*> model_ = nullptr;  // null: it is being loaded
  ServerConfig config_;
  std::function<void(const RequestLog&)> log_;
  Metrics metrics_;
  // From start() on; stopped before io_ goes, and there until its last coroutine, which may cancel, has gone.
  std::optional<EngineThread> engine_;
  boost::asio::io_context io_{1};
  HttpServer http_;
  boost::asio::io_context prepare_io_{1};  // bodies are made into requests here; coroutines of io_ may wait in it
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> prepare_guard_{prepare_io_.get_executor()};
  bool draining_ = false;
  std::shared_ptr<std::size_t> num_waiting_bytes_ =
      std::make_shared<std::size_t>(0);  // of bodies on their way through prepare_io_
  std::shared_ptr<std::size_t> num_handled_ = std::make_shared<std::size_t>(0);  // requests not yet answered
  std::uint64_t next_id_ = 1;
  WorkerThread prepare_thread_;                 // last, as is the next: they run once all of the above is there
  std::optional<WorkerThread> io_thread_ = {};  // from open() on
};

}  // namespace qnext
