#include "apps/http_client.h"

#include <curl/curl.h>
#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <charconv>
#include <ctime>
#include <memory>

#include "apps/console.h"
#include "apps/version.h"
#include "base/env.h"

namespace qnext {
namespace {

constexpr std::size_t kMaxErrorBytes = std::size_t{64} << 10;
constexpr long kConnectSeconds = 20;

using Clock = std::chrono::steady_clock;

struct Transfer {
  CURL* curl = nullptr;
  HttpReply reply;
  const OnBody& on_body;
  std::chrono::seconds longest_silence;
  Status status = success();
  Clock::time_point last_byte = Clock::now();

  bool is_silent() const { return Clock::now() - last_byte > longest_silence; }
  long update_status() {
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &reply.status);
    return reply.status;
  }
};

std::size_t on_header(const char* data, std::size_t, std::size_t size, void* user) {
  auto& transfer = *static_cast<Transfer*>(user);
  transfer.last_byte = Clock::now();
  std::string_view line(data, size);
  if (line.starts_with("HTTP/")) transfer.reply.headers.clear();  // of the answer after a redirect
  const std::size_t colon = line.find(':');
  if (colon == std::string_view::npos) return size;
  std::string name(line.substr(0, colon));
  std::ranges::transform(name, name.begin(),
                         [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  line.remove_prefix(colon + 1);
  while (!line.empty() && (line.front() == ' ' || line.front() == '\t')) line.remove_prefix(1);
  while (!line.empty() && (line.back() == '\r' || line.back() == '\n' || line.back() == ' ')) line.remove_suffix(1);
  transfer.reply.headers[name] = std::string(line);
  return size;
}

std::size_t on_data(const char* data, std::size_t, std::size_t size, void* user) {
  auto& transfer = *static_cast<Transfer*>(user);
  transfer.last_byte = Clock::now();
  transfer.update_status();
  if (!transfer.reply.ok()) {
    transfer.reply.error_body.append(data, std::min(size, kMaxErrorBytes - transfer.reply.error_body.size()));
    return size;
  }
  transfer.status = transfer.on_body({data, size});
  return transfer.status.ok() ? size : 0;
}

int on_progress(void* user, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
  return interrupted() || static_cast<Transfer*>(user)->is_silent() ? 1 : 0;
}

std::string explain(CURLcode code, const char* detail, const HttpCall& call) {
  const std::string what = *detail != '\0' ? detail : curl_easy_strerror(code);
  switch (code) {
    case CURLE_COULDNT_RESOLVE_HOST:
      return fmt::format("{}: {}; is the address right, and is this machine online?", call.url, what);
    case CURLE_COULDNT_CONNECT:
      return fmt::format("{}: {}; does a server run there?", call.url, what);
    case CURLE_OPERATION_TIMEDOUT:
      return fmt::format("{}: no connection in time ({})", call.url, what);
    case CURLE_PEER_FAILED_VERIFICATION:
      return fmt::format("{}: {}; SSL_CERT_FILE may name a file with the certificate to trust", call.url, what);
    case CURLE_SSL_CACERT_BADFILE:
      return fmt::format("SSL_CERT_FILE={}: {}", env("SSL_CERT_FILE").value_or(""), what);
    case CURLE_URL_MALFORMAT:
    case CURLE_UNSUPPORTED_PROTOCOL:
      return fmt::format("{}: expected an address that begins with http:// or https://", call.url);
    default:
      return fmt::format("{}: {}", call.url, what);
  }
}

}  // namespace

std::optional<std::string> HttpReply::header(const std::string& name) const {
  const auto found = headers.find(name);
  return found == headers.end() ? std::nullopt : std::optional(found->second);
}

Result<HttpReply> http_call(const HttpCall& call, const OnBody& on_body) {
  static const CURLcode started = curl_global_init(CURL_GLOBAL_DEFAULT);
  const std::unique_ptr<CURL, decltype(&curl_easy_cleanup)> curl(curl_easy_init(), curl_easy_cleanup);
  if (started != CURLE_OK || curl == nullptr) return error("libcurl does not start");
  std::unique_ptr<curl_slist, decltype(&curl_slist_free_all)> headers(nullptr, curl_slist_free_all);
  const auto add_header = [&](const std::string& line) {
    headers.reset(curl_slist_append(headers.release(), line.c_str()));
  };
  char detail[CURL_ERROR_SIZE] = "";
  const std::string agent = fmt::format("qnext/{}", version());
  Transfer transfer{.curl = curl.get(), .reply = {}, .on_body = on_body, .longest_silence = call.longest_silence};
  const auto set = [&](CURLoption option, auto value) { curl_easy_setopt(curl.get(), option, value); };
  set(CURLOPT_URL, call.url.c_str());
  set(CURLOPT_PROTOCOLS_STR, "http,https");
  set(CURLOPT_REDIR_PROTOCOLS_STR, "http,https");
  set(CURLOPT_USERAGENT, agent.c_str());
  set(CURLOPT_ERRORBUFFER, detail);
  // What Python's and OpenSSL's clients read, too: a server with a certificate of one's own.
  const std::optional<std::string> trusted = env("SSL_CERT_FILE");
  if (trusted) set(CURLOPT_CAINFO, trusted->c_str());
  set(CURLOPT_NOSIGNAL, 1L);
  set(CURLOPT_CONNECTTIMEOUT, kConnectSeconds);
  set(CURLOPT_FOLLOWLOCATION, call.follows_redirects ? 1L : 0L);
  set(CURLOPT_MAXREDIRS, 8L);
  set(CURLOPT_HEADERFUNCTION, on_header);
  set(CURLOPT_HEADERDATA, &transfer);
  set(CURLOPT_WRITEFUNCTION, on_data);
  set(CURLOPT_WRITEDATA, &transfer);
  set(CURLOPT_NOPROGRESS, 0L);
  set(CURLOPT_XFERINFOFUNCTION, on_progress);
  set(CURLOPT_XFERINFODATA, &transfer);
  if (!call.bearer_token.empty()) add_header("Authorization: Bearer " + call.bearer_token);
  if (call.json) {
    add_header("Content-Type: application/json");
    add_header("Expect:");
    set(CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(call.json->size()));
    set(CURLOPT_POSTFIELDS, call.json->c_str());
  }
  if (call.only_headers) set(CURLOPT_NOBODY, 1L);
  if (call.first_byte > 0) set(CURLOPT_RESUME_FROM_LARGE, static_cast<curl_off_t>(call.first_byte));
  set(CURLOPT_HTTPHEADER, headers.get());
  const CURLcode code = curl_easy_perform(curl.get());
  if (!transfer.status.ok()) return error("{}", transfer.status.message());
  if (interrupted()) return error("interrupted");
  if (code == CURLE_ABORTED_BY_CALLBACK) {
    return error("{}: no answer in time: not a byte for {} s", call.url, call.longest_silence.count());
  }
  if (code == CURLE_RANGE_ERROR) transfer.reply.status = 416;  // it would send the whole file again
  if (code == CURLE_RANGE_ERROR) return std::move(transfer.reply);
  if (code != CURLE_OK) return error("{}", explain(code, detail, call));
  transfer.update_status();
  return std::move(transfer.reply);
}

std::chrono::seconds retry_delay(const HttpReply& reply, std::size_t num_tries) {
  constexpr std::int64_t kLongest = 60;
  std::int64_t seconds = std::int64_t{1} << std::min<std::size_t>(num_tries, 6);
  if (const auto after = reply.header("retry-after")) {
    const bool is_number = std::from_chars(after->data(), after->data() + after->size(), seconds).ec == std::errc();
    const std::time_t date = is_number ? -1 : curl_getdate(after->c_str(), nullptr);
    if (date >= 0) seconds = date - std::time(nullptr);
  }
  return std::chrono::seconds(std::clamp<std::int64_t>(seconds, 0, kLongest));
}

bool wait_unless_interrupted(std::chrono::seconds time) {
  const auto end = std::chrono::steady_clock::now() + time;
  while (!interrupted() && std::chrono::steady_clock::now() < end) ::poll(nullptr, 0, 50);
  return !interrupted();
}

}  // namespace qnext
