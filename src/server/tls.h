#pragma once
// TLS for the server: its certificate, and a connection that may or may not be encrypted.

#include <boost/asio/awaitable.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/ssl/ssl_stream.hpp>

#include <memory>
#include <string>
#include <variant>

#include "base/result.h"

namespace qnext {

using TlsContext = boost::asio::ssl::context;

// TLS 1.2 and newer with this certificate (its chain after it) and private key, both PEM without a passphrase.
// Errors: a file that can't be read or holds no such thing, a key of another certificate; says which.
Result<std::shared_ptr<TlsContext>> load_tls(const std::string& certificate_file, const std::string& key_file);

// TCP, or TLS over it: what Asio calls an asynchronous stream.
class Connection {
 public:
  using executor_type = boost::beast::tcp_stream::executor_type;

  // Encrypted when there is a `tls`; then begin() comes first.
  Connection(boost::asio::ip::tcp::socket socket, TlsContext* tls);

  // The handshake, where there is one; tcp()'s timer limits it. kNotTls: the client began with something else, and
  // tcp() may answer that.
  enum class Begun { kReady, kFailed, kNotTls };
  boost::asio::awaitable<Begun> begin();
  // Says that nothing more comes.
  boost::asio::awaitable<void> end();

  boost::beast::tcp_stream& tcp();
  executor_type get_executor() { return tcp().get_executor(); }

  template <class Buffers, class Token>
  auto async_read_some(const Buffers& buffers, Token&& token) {
    if (auto* tls = std::get_if<Tls>(&stream_)) return tls->async_read_some(buffers, std::forward<Token>(token));
    return std::get<Plain>(stream_).async_read_some(buffers, std::forward<Token>(token));
  }
  template <class Buffers, class Token>
  auto async_write_some(const Buffers& buffers, Token&& token) {
    if (auto* tls = std::get_if<Tls>(&stream_)) return tls->async_write_some(buffers, std::forward<Token>(token));
    return std::get<Plain>(stream_).async_write_some(buffers, std::forward<Token>(token));
  }

 private:
  using Plain = boost::beast::tcp_stream;
  using Tls = boost::beast::ssl_stream<boost::beast::tcp_stream>;
  std::variant<Plain, Tls> stream_;
};

}  // namespace qnext
