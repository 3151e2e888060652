#include "server/tls.h"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>

#include <array>
#include <filesystem>
#include <tuple>

namespace qnext {
namespace asio = boost::asio;
namespace beast = boost::beast;
using asio::ip::tcp;
using boost::system::error_code;

namespace {

constexpr auto kNoThrow = asio::as_tuple(asio::use_awaitable);
constexpr char kHandshakeRecord = 0x16;       // RFC 8446, 5.1: how a client begins
constexpr std::chrono::seconds kFarewell{2};  // for the client's own goodbye

}  // namespace

Result<std::shared_ptr<TlsContext>> load_tls(const std::string& certificate_file, const std::string& key_file) {
  for (const std::string& file : {certificate_file, key_file}) {
    std::error_code problem;
    if (!std::filesystem::is_regular_file(file, problem)) return error("{}: there is no such file", file);
  }
  auto out = std::make_shared<TlsContext>(TlsContext::tls_server);
  out->set_options(TlsContext::no_tlsv1 | TlsContext::no_tlsv1_1);
  // A passphrase would be asked for on the terminal.
  error_code problem;
  out->set_password_callback([](std::size_t, TlsContext::password_purpose) { return std::string(); }, problem);
  out->use_certificate_chain_file(certificate_file, problem);
  if (problem) {
    return error("{}: expected a certificate (PEM, \"-----BEGIN CERTIFICATE-----\"): {}", certificate_file,
                 problem.message());
  }
  out->use_private_key_file(key_file, TlsContext::pem, problem);
  if (problem && SSL_CTX_get0_privatekey(out->native_handle()) == nullptr &&
      ERR_GET_REASON(static_cast<unsigned long>(problem.value())) == X509_R_KEY_VALUES_MISMATCH) {
    return error("{}: this key is not the one of {}", key_file, certificate_file);
  }
  if (problem) {
    return error("{}: expected a private key (PEM, \"-----BEGIN PRIVATE KEY-----\") without a passphrase: {}", key_file,
                 problem.message());
  }
  return out;
}

Connection::Connection(tcp::socket socket, TlsContext* tls) : stream_(beast::tcp_stream(std::move(socket))) {
  if (tls != nullptr) stream_.emplace<Tls>(beast::tcp_stream(std::move(std::get<Plain>(stream_))), *tls);
}

beast::tcp_stream& Connection::tcp() {
  if (auto* tls = std::get_if<Tls>(&stream_)) return tls->next_layer();
  return std::get<Plain>(stream_);
}

asio::awaitable<Connection::Begun> Connection::begin() {
  auto* tls = std::get_if<Tls>(&stream_);
  if (tls == nullptr) co_return Begun::kReady;
  std::array<char, 4096> begin;
  const auto [unread, size] = co_await tcp().async_read_some(asio::buffer(begin), kNoThrow);
  if (unread) co_return Begun::kFailed;
  if (begin[0] != kHandshakeRecord) co_return Begun::kNotTls;
  const auto [problem, used] =
      co_await tls->async_handshake(asio::ssl::stream_base::server, asio::buffer(begin.data(), size), kNoThrow);
  is_encrypted_ = !problem && used == size;
  co_return is_encrypted_ ? Begun::kReady : Begun::kFailed;
}

asio::awaitable<Received> Connection::read_some(asio::mutable_buffer to) {
  std::tuple<error_code, std::size_t> out;
  if (is_encrypted_) {
    out = co_await std::get<Tls>(stream_).async_read_some(to, kNoThrow);
  } else {
    out = co_await tcp().async_read_some(to, kNoThrow);
  }
  co_return Received{std::get<0>(out), std::get<1>(out)};
}

asio::awaitable<error_code> Connection::write(asio::const_buffer from) {
  std::tuple<error_code, std::size_t> out;
  if (is_encrypted_) {
    out = co_await asio::async_write(std::get<Tls>(stream_), from, kNoThrow);
  } else {
    out = co_await asio::async_write(tcp(), from, kNoThrow);
  }
  co_return std::get<0>(out);
}

asio::awaitable<void> Connection::end() {
  if (is_encrypted_) {
    expires_after(kFarewell);
    co_await std::get<Tls>(stream_).async_shutdown(kNoThrow);
  }
  error_code ignored;
  socket().shutdown(tcp::socket::shutdown_send, ignored);
}

}  // namespace qnext
