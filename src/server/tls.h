#pragma once
// TLS for the server: its certificate, and a connection that may or may not be encrypted.

#include <boost/asio/awaitable.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/beast/core/tcp_stream.hpp>

#include <chrono>
#include <memory>
#include <string>
#include <variant>

#include "base/result.h"

namespace qnext {

using TlsContext = boost::asio::ssl::context;

// TLS 1.2 and newer with this certificate (its chain after it) and private key, both PEM without a passphrase.
// Errors: a file that can't be read or holds no such thing, a key of another certificate; says which.
Result<std::shared_ptr<TlsContext>> load_tls(const std::string& certificate_file, const std::string& key_file);

struct Received {
  boost::system::error_code problem;
  std::size_t num_bytes = 0;
};

// TCP, or TLS over it. One coroutine may read while another one writes.
class Connection {
 public:
  // Encrypted when there is a `tls`; then begin() comes first.
  Connection(boost::asio::ip::tcp::socket socket, TlsContext* tls);

  // The handshake, where there is one. kNotTls: the client began with something else, and write() answers as plainly.
  enum class Begun { kReady, kFailed, kNotTls };
  boost::asio::awaitable<Begun> begin();
  // Says that nothing more comes.
  boost::asio::awaitable<void> end();

  // Time that reading and writing get from now on, together.
  void expires_after(std::chrono::milliseconds time) { tcp().expires_after(time); }
  // At least a byte, or an error.
  boost::asio::awaitable<Received> read_some(boost::asio::mutable_buffer to);
  // All of it, or an error.
  boost::asio::awaitable<boost::system::error_code> write(boost::asio::const_buffer from);

  boost::asio::ip::tcp::socket& socket() { return tcp().socket(); }

 private:
  using Plain = boost::beast::tcp_stream;
  using Tls = boost::asio::ssl::stream<Plain>;

  boost::beast::tcp_stream& tcp();

  std::variant<Plain, Tls> stream_;
  bool is_encrypted_ = false;  // begin() has come to its end
};

}  // namespace qnext
