#include "server/http.h"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>

#include <poll.h>

#include <memory>

namespace qnext {
namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using asio::ip::tcp;
using boost::system::error_code;

namespace {

constexpr auto kNoThrow = asio::as_tuple(asio::use_awaitable);
constexpr std::chrono::milliseconds kLookForEnd{100};

ApiError read_error(error_code problem, const HttpLimits& limits) {
  if (problem == http::error::body_limit) {
    return {.status = 413, .message = fmt::format("The body is larger than {} bytes.", limits.body_bytes)};
  }
  if (problem == http::error::header_limit) {
    return {.status = 431, .message = fmt::format("The header is larger than {} bytes.", limits.header_bytes)};
  }
  return {.status = 400, .message = fmt::format("This is not HTTP: {}.", problem.message())};
}

ApiError no_tls() {
  return {.status = 400, .message = "This port speaks HTTPS: the address must begin with https://."};
}

// Whether the other side will send no more, even where bytes of it wait to be read.
bool has_closed(tcp::socket& socket) {
  pollfd entry{.fd = socket.native_handle(), .events = POLLRDHUP, .revents = 0};
  return ::poll(&entry, 1, 0) > 0;
}

}  // namespace

// ---- One answer ----

std::string HttpExchange::path() const {
  const std::string target(request_.target());
  return target.substr(0, target.find('?'));
}

template <class Response>
void HttpExchange::add_headers(Response& response) const {
  response.set(http::field::server, "qnext");
  for (const auto& [name, value] : headers_) response.set(name, value);
  response.keep_alive(keeps_alive_);
}

asio::awaitable<void> HttpExchange::send(unsigned status, std::string type, std::string body) {
  status_ = status;
  http::response<http::string_body> response(static_cast<http::status>(status), request_.version());
  response.set(http::field::content_type, type);
  response.body() = std::move(body);
  add_headers(response);
  response.prepare_payload();
  if (request_.method() == http::verb::head) response.body().clear();
  connection_.tcp().expires_after(limits_.to_write);
  const auto [problem, count] = co_await http::async_write(connection_, response, kNoThrow);
  if (problem) keeps_alive_ = false;
}

asio::awaitable<void> HttpExchange::send_error(const ApiError& error) {
  if (!error.allow.empty()) add_header("Allow", error.allow);
  if (error.retry_after_s) add_header("Retry-After", std::to_string(*error.retry_after_s));
  co_await send(error.status, "application/json", json_text(error_json(error)));
}

asio::awaitable<void> HttpExchange::begin_stream() {
  status_ = 200;
  http::response<http::empty_body> response(http::status::ok, request_.version());
  response.set(http::field::content_type, "text/event-stream");
  response.set(http::field::cache_control, "no-cache");
  add_headers(response);
  response.chunked(true);
  http::response_serializer<http::empty_body> serializer(response);
  connection_.tcp().expires_after(limits_.to_write);
  co_await http::async_write_header(connection_, serializer, asio::use_awaitable);
}

asio::awaitable<void> HttpExchange::send_event(std::string text) {
  connection_.tcp().expires_after(limits_.to_write);
  co_await asio::async_write(connection_, http::make_chunk(asio::buffer(text)), asio::use_awaitable);
}

asio::awaitable<void> HttpExchange::end_stream() {
  connection_.tcp().expires_after(limits_.to_write);
  co_await asio::async_write(connection_, http::make_chunk_last(), asio::use_awaitable);
}

asio::awaitable<void> HttpExchange::client_left() {
  tcp::socket& socket = connection_.tcp().socket();
  const auto [problem] = co_await socket.async_wait(tcp::socket::wait_read, kNoThrow);
  // What is there to read may be the next request, or TLS's goodbye before the end.
  asio::steady_timer pause(co_await asio::this_coro::executor);
  while (!problem && !has_closed(socket)) {
    pause.expires_after(kLookForEnd);
    const auto [stopped] = co_await pause.async_wait(kNoThrow);
    if (stopped) co_return;
  }
}

// ---- Connections ----

HttpServer::HttpServer(asio::io_context& io, HttpLimits limits, std::shared_ptr<TlsContext> tls, HttpHandler handler)
    : io_(io), limits_(limits), tls_(std::move(tls)), handler_(std::move(handler)), acceptor_(io) {}

Status HttpServer::listen(const std::string& host, std::uint16_t port) {
  error_code problem;
  const auto address = asio::ip::make_address(host == "localhost" ? "127.0.0.1" : host, problem);
  if (problem) return error("--host {}: expected an IP address, such as 127.0.0.1, 0.0.0.0 or ::1", host);
  const tcp::endpoint endpoint(address, port);
  acceptor_.open(endpoint.protocol(), problem);
  if (!problem) acceptor_.set_option(tcp::acceptor::reuse_address(true), problem);
  if (!problem) acceptor_.bind(endpoint, problem);
  if (!problem) acceptor_.listen(tcp::socket::max_listen_connections, problem);
  if (problem) return error("{}:{}: {}; choose another --port", host, port, problem.message());
  port_ = acceptor_.local_endpoint().port();
  asio::co_spawn(io_, accept(), asio::detached);
  return success();
}

void HttpServer::drain() {
  draining_ = true;
  error_code ignored;
  acceptor_.close(ignored);
}

asio::awaitable<void> HttpServer::accept() {
  while (!draining_) {
    auto [problem, socket] = co_await acceptor_.async_accept(kNoThrow);
    if (problem) {
      if (draining_) co_return;
      // Too many open files, say: wait for some to close.
      asio::steady_timer pause(io_, std::chrono::milliseconds(50));
      co_await pause.async_wait(kNoThrow);
      continue;
    }
    if (num_connections_ >= limits_.connections) continue;  // closed at once
    asio::co_spawn(io_, serve(std::move(socket)), asio::detached);
  }
}

asio::awaitable<void> HttpServer::serve(tcp::socket socket) {
  ++num_connections_;
  const auto leave = [](HttpServer* server) { --server->num_connections_; };
  const std::unique_ptr<HttpServer, decltype(leave)> here(this, leave);
  try {
    socket.set_option(tcp::no_delay(true));
    Connection connection(std::move(socket), tls_.get());
    beast::flat_buffer buffer;
    if (!co_await greet(connection)) co_return;
    while (!draining_ && co_await serve_one(connection, buffer)) {
    }
    co_await connection.end();
  } catch (const boost::system::system_error&) {
    // The client has gone, or took too long.
  }
}

// False: the connection is of no use.
asio::awaitable<bool> HttpServer::greet(Connection& connection) {
  connection.tcp().expires_after(limits_.to_read);
  const Connection::Begun begun = co_await connection.begin();
  if (begun != Connection::Begun::kNotTls) co_return begun == Connection::Begun::kReady;
  http::response<http::string_body> response(http::status::bad_request, 11);
  response.set(http::field::content_type, "application/json");
  response.body() = json_text(error_json(no_tls()));
  response.keep_alive(false);
  response.prepare_payload();
  co_await http::async_write(connection.tcp(), response, kNoThrow);
  co_return false;
}

asio::awaitable<bool> HttpServer::serve_one(Connection& connection, beast::flat_buffer& buffer) {
  http::request_parser<http::string_body> parser;
  parser.header_limit(static_cast<std::uint32_t>(limits_.header_bytes));
  parser.body_limit(limits_.body_bytes);
  if (buffer.size() == 0) {  // wait for the first byte, then for the rest
    connection.tcp().expires_after(limits_.idle);
    const auto [problem, count] = co_await connection.async_read_some(buffer.prepare(4096), kNoThrow);
    if (problem) co_return false;
    buffer.commit(count);
  }
  connection.tcp().expires_after(limits_.to_read);
  auto [problem, count] = co_await http::async_read_header(connection, buffer, parser, kNoThrow);
  if (!problem && parser.get()[http::field::expect] == "100-continue") {
    http::response<http::empty_body> go_on(http::status::continue_, parser.get().version());
    co_await http::async_write(connection, go_on, asio::use_awaitable);
  }
  if (!problem) std::tie(problem, count) = co_await http::async_read(connection, buffer, parser, kNoThrow);
  if (problem == http::error::end_of_stream || problem == beast::error::timeout) co_return false;
  const HttpRequest request = problem ? HttpRequest(http::verb::unknown, "/", 11) : parser.release();
  HttpExchange exchange(connection, request, limits_);
  if (problem) {
    co_await exchange.send_error(read_error(problem, limits_));
    co_return false;
  }
  co_await handler_(exchange);
  co_return exchange.keeps_alive();
}

}  // namespace qnext
