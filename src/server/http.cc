#include "server/http.h"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/http.hpp>

#include <poll.h>

#include <charconv>
#include <memory>
#include <sstream>

#include "server/count_guard.h"

namespace qnext {
namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using asio::ip::tcp;
using boost::system::error_code;

namespace {

constexpr auto kNoThrow = asio::as_tuple(asio::use_awaitable);
constexpr std::chrono::milliseconds kLookForEnd{100};
constexpr std::string_view kGoOn = "HTTP/1.1 100 Continue\r\n\r\n";
constexpr std::size_t kReadBytes = std::size_t{64} << 10;

ApiError read_error(error_code problem, const HttpLimits& limits) {
  if (problem == http::error::body_limit) {
    return {.status = 413, .message = fmt::format("The body is larger than {} bytes.", limits.body_bytes)};
  }
  if (problem == http::error::header_limit) {
    return {.status = 431, .message = fmt::format("The header is larger than {} bytes.", limits.header_bytes)};
  }
  return {.status = 400, .message = fmt::format("This is not HTTP: {}.", problem.message())};
}

using Parser = http::request_parser<http::string_body>;

// %2F -> /. What is no such code stays.
std::string percent_decoded(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    unsigned code = 0;
    const char* const end = text.data() + std::min(i + 3, text.size());
    const bool is_code =
        text[i] == '%' && i + 2 < text.size() &&
        std::from_chars(text.data() + i + 1, end, code, 16) == std::from_chars_result{end, std::errc()};
    out += is_code ? static_cast<char>(code) : text[i];
    if (is_code) i += 2;
  }
  return out;
}

// What `buffer` holds, and then what comes, until the header or all of a request is there.
asio::awaitable<error_code> read(Connection& connection, beast::flat_buffer& buffer, Parser& parser, bool only_header) {
  parser.eager(!only_header);
  for (error_code problem; !(only_header ? parser.is_header_done() : parser.is_done());) {
    if (buffer.size() > 0) buffer.consume(parser.put(buffer.data(), problem));
    if (problem && problem != http::error::need_more) co_return problem;
    if (only_header ? parser.is_header_done() : parser.is_done()) break;
    if (buffer.size() > 0 && !problem) continue;
    if (buffer.size() > kReadBytes) co_return http::make_error_code(http::error::buffer_overflow);  // one endless line
    const Received more = co_await connection.read_some(buffer.prepare(kReadBytes));
    if (more.problem == asio::error::eof) {
      parser.put_eof(problem = {});
      co_return problem ? problem : http::make_error_code(http::error::end_of_stream);
    }
    if (more.problem) co_return more.problem;
    buffer.commit(more.num_bytes);
    problem = {};
  }
  co_return error_code();
}

ApiError no_tls() {
  return {.status = 400, .message = "This port speaks HTTPS: the address must begin with https://."};
}

template <class Response>
std::string header_bytes(const Response& response) {
  std::ostringstream out;
  out << response.base();
  return out.str();
}

// Whether the other side will send no more, even where bytes of it wait to be read; or this side has closed.
bool has_closed(tcp::socket& socket) {
  if (!socket.is_open()) return true;
  pollfd entry{.fd = socket.native_handle(), .events = POLLRDHUP, .revents = 0};
  return ::poll(&entry, 1, 0) > 0;
}

}  // namespace

// ---- One answer ----

std::string HttpExchange::path() const {
  std::string_view target(request_.target());  // or in absolute form, as a proxy may: RFC 9112, 3.2.2
  if (const std::size_t scheme = target.find("://"); !target.starts_with('/') && scheme != target.npos) {
    const std::size_t path = target.find('/', scheme + 3);
    target = path == target.npos ? "/" : target.substr(path);
  }
  return percent_decoded(target.substr(0, target.find('?')));
}

std::string HttpExchange::framed(std::string_view text) const {
  return is_chunked() ? fmt::format("{:x}\r\n{}\r\n", text.size(), text) : std::string(text);
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
  connection_.expires_after(limits_.to_write);
  std::string bytes = header_bytes(response);
  if (request_.method() != http::verb::head) bytes += response.body();
  const error_code problem = co_await connection_.write(asio::buffer(bytes));
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
  if (!is_chunked()) close();  // which is how the end is told then
  add_headers(response);
  response.chunked(is_chunked());
  co_await write_or_throw(header_bytes(response));
}

asio::awaitable<void> HttpExchange::send_event(std::string text) {
  co_await write_or_throw(framed(text));
}

asio::awaitable<void> HttpExchange::end_stream(std::string text) {
  co_await write_or_throw(framed(text) + (is_chunked() ? "0\r\n\r\n" : ""));
}

asio::awaitable<void> HttpExchange::write_or_throw(std::string bytes) {
  connection_.expires_after(limits_.to_write);
  const error_code problem = co_await connection_.write(asio::buffer(bytes));
  if (problem) throw boost::system::system_error(problem);
}

asio::awaitable<void> HttpExchange::client_left() {
  tcp::socket& socket = connection_.socket();
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
    if (*num_connections_ >= limits_.connections) continue;  // closed at once
    asio::co_spawn(io_, serve(std::move(socket)), asio::detached);
  }
}

asio::awaitable<void> HttpServer::serve(tcp::socket socket) {
  const CountGuard here(num_connections_);
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
  connection.expires_after(limits_.to_read);
  const Connection::Begun begun = co_await connection.begin();
  if (begun == Connection::Begun::kNotTls) {
    const HttpRequest none(http::verb::unknown, "/", 11);
    HttpExchange exchange(connection, none, limits_, no_tls());
    co_await handler_(exchange);
  }
  co_return begun == Connection::Begun::kReady;
}

asio::awaitable<bool> HttpServer::serve_one(Connection& connection, beast::flat_buffer& buffer) {
  Parser parser;
  parser.header_limit(static_cast<std::uint32_t>(limits_.header_bytes));
  parser.body_limit(limits_.body_bytes);
  if (buffer.size() == 0) {  // wait for the first byte, then for the rest
    connection.expires_after(limits_.idle);
    const Received first = co_await connection.read_some(buffer.prepare(kReadBytes));
    if (first.problem) co_return false;
    buffer.commit(first.num_bytes);
  }
  connection.expires_after(limits_.to_read);
  error_code problem = co_await read(connection, buffer, parser, /*only_header=*/true);
  if (!problem && parser.get()[http::field::expect] == "100-continue") {
    problem = co_await connection.write(asio::buffer(kGoOn));
  }
  if (!problem) problem = co_await read(connection, buffer, parser, /*only_header=*/false);
  const bool is_http = problem.category() == http::make_error_code(http::error::bad_method).category();
  if (problem && (!is_http || problem == http::error::end_of_stream)) co_return false;
  const HttpRequest request = problem ? HttpRequest(http::verb::unknown, "/", 11) : parser.release();
  HttpExchange exchange(connection, request, limits_,
                        problem ? std::optional(read_error(problem, limits_)) : std::nullopt);
  co_await handler_(exchange);
  co_return exchange.keeps_alive();
}

}  // namespace qnext
