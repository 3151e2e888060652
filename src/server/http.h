#pragma once
// HTTP/1.1 over Boost.Beast: connections and their limits, one coroutine each. What is served is the handler's
// business.

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/message.hpp>
#include <boost/beast/http/string_body.hpp>

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "server/api_error.h"
#include "server/tls.h"

namespace qnext {

struct HttpLimits {
  std::size_t header_bytes = std::size_t{16} << 10;
  std::size_t body_bytes = std::size_t{16} << 20;
  std::size_t connections = 1024;
  std::chrono::milliseconds to_read{30'000};   // a whole request, from its first byte
  std::chrono::milliseconds to_write{60'000};  // a client that does not read
  std::chrono::milliseconds idle{75'000};      // between requests
};

using HttpRequest = boost::beast::http::request<boost::beast::http::string_body>;

// The answer to one request; exactly one of send, send_error and begin_stream is called.
class HttpExchange {
 public:
  // `problem`: what was wrong with what came; then the request is empty, and the connection ends with the answer.
  HttpExchange(Connection& connection, const HttpRequest& request, const HttpLimits& limits,
               std::optional<ApiError> problem = {})
      : connection_(connection), request_(request), limits_(limits), problem_(std::move(problem)) {}

  const HttpRequest& request() const { return request_; }
  const std::optional<ApiError>& problem() const { return problem_; }
  std::string path() const;  // without ?query, percent codes decoded

  boost::asio::awaitable<void> send(unsigned status, std::string type, std::string body);
  boost::asio::awaitable<void> send_json(const Json& json) { return send(200, "application/json", json_text(json)); }
  boost::asio::awaitable<void> send_error(const ApiError& error);

  // Server-sent events, chunked (but for HTTP/1.0, which ends with the connection). Each call writes what it is given.
  boost::asio::awaitable<void> begin_stream();
  boost::asio::awaitable<void> send_event(std::string text);  // "data: {...}\n\n" or ": comment\n\n"
  // The last event goes out together with the end: a client that hangs up on "[DONE]" has had all of it.
  boost::asio::awaitable<void> end_stream(std::string text);

  // Ends when the client has closed its side of the connection; never, while it only waits.
  boost::asio::awaitable<void> client_left();

  // No further request on this connection.
  void close() { keeps_alive_ = false; }

  unsigned status() const { return status_; }  // 0: nothing was sent
  bool keeps_alive() const { return keeps_alive_; }
  void add_header(std::string name, std::string value) { headers_.emplace_back(std::move(name), std::move(value)); }

 private:
  bool is_chunked() const { return request_.version() >= 11; }
  std::string framed(std::string_view text) const;
  boost::asio::awaitable<void> write_or_throw(std::string bytes);
  template <class Response>
  void add_headers(Response& response) const;

  Connection& connection_;
  const HttpRequest& request_;
  const HttpLimits& limits_;
  std::optional<ApiError> problem_;
  std::vector<std::pair<std::string, std::string>> headers_;
  unsigned status_ = 0;
  bool keeps_alive_ = !problem_ && request_.keep_alive();
};

using HttpHandler = std::function<boost::asio::awaitable<void>(HttpExchange& exchange)>;

class HttpServer {
 public:
  // `handler` and `io` must outlive this. Without `tls`, connections are not encrypted.
  HttpServer(boost::asio::io_context& io, HttpLimits limits, std::shared_ptr<TlsContext> tls, HttpHandler handler);

  // Begins to accept. Errors: an address that is none, a port that is taken; says which.
  Status listen(const std::string& host, std::uint16_t port);
  std::uint16_t port() const { return port_; }

  // No new connections; those that are there end with their next answer.
  void drain();
  std::size_t num_connections() const { return *num_connections_; }

 private:
  boost::asio::awaitable<void> accept();
  boost::asio::awaitable<void> serve(boost::asio::ip::tcp::socket socket);
  boost::asio::awaitable<bool> greet(Connection& connection);
  boost::asio::awaitable<bool> serve_one(Connection& connection, boost::beast::flat_buffer& buffer);

  boost::asio::io_context& io_;
  HttpLimits limits_;
  std::shared_ptr<TlsContext> tls_;
  HttpHandler handler_;
  boost::asio::ip::tcp::acceptor acceptor_;
  std::uint16_t port_ = 0;
  std::shared_ptr<std::size_t> num_connections_ = std::make_shared<std::size_t>(0);
  bool draining_ = false;
};

}  // namespace qnext
