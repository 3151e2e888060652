// A whole server over a tiny model, with limits so short that a test can wait for them.
#include "server/server.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "engine/engine_test_support.h"
#include "text/test_data.h"

namespace qnext::test {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr milliseconds kShort{100};
constexpr std::chrono::seconds kPatience{240};  // of a machine under a sanitizer, shared with others

const TinyModel& served_tiny() {
  static const TinyModel model("next-tiny");
  return model;
}

// Nothing: nobody listens there.
std::optional<int> try_connect(std::uint16_t port, int receive_bytes = 0) {
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  QN_CHECK(fd >= 0, "socket: {}", errno);
  if (receive_bytes > 0) ::setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &receive_bytes, sizeof(receive_bytes));
  const timeval patience{.tv_sec = kPatience.count(), .tv_usec = 0};
  ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0) return fd;
  ::close(fd);
  return std::nullopt;
}

// A client, down to its bytes.
class RawClient {
 public:
  explicit RawClient(int fd) : fd_(fd) {}
  RawClient(RawClient&& other) noexcept : fd_(std::exchange(other.fd_, -1)), buffer_(std::move(other.buffer_)) {}
  ~RawClient() { close(); }

  void close() {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  }

  // False: the other side has hung up.
  bool send(std::string_view text) const {
    while (!text.empty()) {
      const ssize_t sent = ::send(fd_, text.data(), text.size(), MSG_NOSIGNAL);
      if (sent <= 0) return false;
      text.remove_prefix(static_cast<std::size_t>(sent));
    }
    return true;
  }
  void get(std::string_view path) const { EXPECT_TRUE(send(fmt::format("GET {} HTTP/1.1\r\nHost: x\r\n\r\n", path))); }
  void post(std::string_view path, const Json& json) const {
    const std::string body = json_text(json);
    EXPECT_TRUE(
        send(fmt::format("POST {} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{}", path, body.size(), body)));
  }

  // What comes, with `end` as its end; or less, where the other side hangs up.
  std::string read_until(std::string_view end) {
    while (buffer_.find(end) == std::string::npos && receive()) {
    }
    const std::size_t at = buffer_.find(end);
    return take(at == std::string::npos ? buffer_.size() : at + end.size());
  }
  // One answer with its length in its header.
  std::string read_answer() {
    std::string out = read_until("\r\n\r\n");
    constexpr std::string_view kLength = "Content-Length: ";
    const std::size_t at = out.find(kLength);
    if (at == std::string::npos) return out;
    const std::size_t num_bytes = std::stoul(out.substr(at + kLength.size()));
    while (buffer_.size() < num_bytes && receive()) {
    }
    return out + take(num_bytes);
  }
  // Whether the other side hung up, and there is nothing more to read.
  bool is_hung_up_on() { return buffer_.empty() && !receive(); }

  // Waits until the other side has reset the connection, without reading what it sent before.
  bool is_reset() const {
    pollfd entry{.fd = fd_, .events = 0, .revents = 0};  // POLLERR and POLLHUP always count
    return ::poll(&entry, 1, static_cast<int>(milliseconds(kPatience).count())) == 1;
  }
  // Whether something to read, or the end, comes within this time.
  bool has_news(milliseconds within) const {
    pollfd entry{.fd = fd_, .events = POLLIN, .revents = 0};
    return ::poll(&entry, 1, static_cast<int>(within.count())) == 1;
  }

 private:
  bool receive() {
    char part[1 << 16];
    const ssize_t received = ::recv(fd_, part, sizeof(part), 0);
    EXPECT_FALSE(received < 0 && errno == EAGAIN) << "nothing came, and no end";
    if (received <= 0) return false;
    buffer_.append(part, static_cast<std::size_t>(received));
    return true;
  }
  std::string take(std::size_t num_bytes) {
    std::string out = buffer_.substr(0, num_bytes);
    buffer_.erase(0, num_bytes);
    return out;
  }

  int fd_;
  std::string buffer_;
};

class ServerTest : public testing::Test {
 protected:
  ~ServerTest() override { stop(); }

  void listen(ServerConfig config) {
    config.port = 0;
    server_ = std::make_unique<Server>(config, nullptr);
    const Status opened = server_->open();
    QN_CHECK(opened.ok(), "{}", opened.message());
  }
  void start() {
    server_->start(*engine_, model_);
    thread_ = std::thread([this] { server_->run([this] { return stopping_.load(); }); });
  }
  void open(const ServerConfig& config) {
    listen(config);
    start();
  }
  void destroy() { server_.reset(); }
  void stop() {
    stopping_ = true;
    if (thread_.joinable()) thread_.join();
  }

  RawClient client(int receive_bytes = 0) const {
    const auto fd = try_connect(server_->port(), receive_bytes);
    QN_CHECK(fd.has_value(), "nobody listens");
    return RawClient(*fd);
  }
  // A client whose first request was answered.
  RawClient known_client() const {
    RawClient out = client();
    out.get("/health");
    EXPECT_TRUE(out.read_answer().starts_with("HTTP/1.1 200 ")) << "at its first request";
    return out;
  }
  // A client whose answers keep the engine busy until it leaves: 128,000 tokens.
  RawClient busy_client() const {
    RawClient out = client();
    out.post("/v1/completions", {{"model", "tiny"}, {"prompt", {1, 2, 3}}, {"max_tokens", 1000}, {"n", 128}});
    for (RawClient other = known_client();;) {
      other.get("/metrics");
      if (other.read_answer().find("\nqnext_sequences_running 1") != std::string::npos) return out;
      std::this_thread::sleep_for(milliseconds(1));
    }
  }
  std::uint16_t port() const { return server_->port(); }

 private:
  const ServedModel model_{.name = "tiny",
                           .aliases = {},
                           .tokenizer = small_tokenizer(),
                           .chat_template = {},
                           .chat_template_source = {},
                           .bos_token = {},
                           .eos_token = {},
                           .default_sampling = {},
                           .stop_token_ids = {},
                           .vocabulary_tokens = served_tiny().model().config().V,
                           .context_tokens = 1024};
  std::unique_ptr<Engine> engine_ =
      served_tiny().make_engine({.context_tokens = 1024, .num_sequences = 1, .max_waiting = 260});
  std::unique_ptr<Server> server_;
  std::atomic<bool> stopping_ = false;
  std::thread thread_;
};

TEST_F(ServerTest, WhileTheModelIsLoadedItSaysSo) {
  listen({});
  RawClient early = client();
  const Json body = {{"model", "tiny"}, {"prompt", {1, 2, 3}}, {"max_tokens", 1}};
  for (const std::string_view path : {"/", "/metrics", "/v1/models", "/nowhere", "/v1/completions"}) {
    path == "/v1/completions" ? early.post(path, body) : early.get(path);
    const std::string answer = early.read_answer();
    EXPECT_TRUE(answer.starts_with("HTTP/1.1 503 ")) << answer;
    EXPECT_NE(answer.find("\r\nRetry-After: 1\r\n"), std::string::npos) << answer;
    EXPECT_NE(answer.find(R"("code":"loading")"), std::string::npos) << answer;
  }
  early.get("/health");
  const std::string health = early.read_answer();
  EXPECT_TRUE(health.starts_with("HTTP/1.1 503 ")) << health;
  EXPECT_NE(health.find("\r\nRetry-After: 1\r\n"), std::string::npos) << health;
  EXPECT_TRUE(health.ends_with(R"({"status":"loading"})")) << health;
  start();
  early.get("/health");  // no connection is lost
  EXPECT_TRUE(early.read_answer().starts_with("HTTP/1.1 200 "));
  early.post("/v1/completions", body);
  EXPECT_TRUE(early.read_answer().starts_with("HTTP/1.1 200 "));
}

TEST_F(ServerTest, AModelThatCannotBeLoadedClosesThePort) {
  listen({});
  const std::uint16_t port = this->port();
  RawClient early = client();
  early.get("/health");
  EXPECT_TRUE(early.read_answer().starts_with("HTTP/1.1 503 "));
  destroy();
  EXPECT_TRUE(early.is_hung_up_on());
  EXPECT_FALSE(try_connect(port).has_value());
}

TEST_F(ServerTest, AStreamThatHasNothingToSayPings) {
  open({.ping = kShort});
  RawClient busy = busy_client();
  RawClient waiting = client();
  const auto begin = Clock::now();
  waiting.post("/v1/completions", {{"model", "tiny"}, {"prompt", {1, 2, 3}}, {"max_tokens", 1}, {"stream", true}});
  EXPECT_NE(waiting.read_until("\r\n\r\n").find("text/event-stream"), std::string::npos);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(waiting.read_until("\n\n\r\n"), "8\r\n: ping\n\n\r\n");
  EXPECT_GE(Clock::now() - begin, 3 * kShort);
  busy.close();
  const std::string rest = waiting.read_until("data: [DONE]\n\n");
  EXPECT_NE(rest.find("data: {\"id\""), std::string::npos) << rest;
}

TEST_F(ServerTest, MoreConnectionsThanTheLimitAreClosed) {
  open({.limits = {.connections = 2}});
  RawClient first = known_client();
  RawClient second = known_client();
  EXPECT_TRUE(client().is_hung_up_on());
  EXPECT_TRUE(client().is_hung_up_on());
  second.get("/health");
  EXPECT_TRUE(second.read_answer().starts_with("HTTP/1.1 200 "));
  first.close();
  for (bool answered = false; !answered;) {  // once the server has heard of it
    RawClient third = client();
    if (third.send("GET /health HTTP/1.1\r\nHost: x\r\n\r\n"))
      answered = third.read_answer().starts_with("HTTP/1.1 200 ");
  }
}

TEST_F(ServerTest, SilenceBetweenRequestsEnds) {
  constexpr milliseconds kIdle{1000};  // time enough for a client to ask
  open({.limits = {.idle = kIdle}});
  const auto begin = Clock::now();
  EXPECT_TRUE(client().is_hung_up_on());
  EXPECT_GE(Clock::now() - begin, kIdle);
  RawClient talker = known_client();
  EXPECT_TRUE(talker.is_hung_up_on());
}

TEST_F(ServerTest, ARequestMustNotTakeForEver) {
  open({.limits = {.to_read = kShort}});
  for (const std::string_view begun : {"G", "POST /v1/completions HTTP/1.1\r\nContent-Length: 1000\r\n\r\n"}) {
    RawClient slow = client();
    const auto begin = Clock::now();
    EXPECT_TRUE(slow.send(begun));
    while (!slow.has_news(kShort / 10) && slow.send("x")) {  // that more comes does not help
    }
    EXPECT_TRUE(slow.is_hung_up_on()) << begun;
    EXPECT_GE(Clock::now() - begin, kShort) << begun;
  }
}

TEST_F(ServerTest, WhoDoesNotReadIsNotWaitedFor) {
  open({.limits = {.to_write = 5 * kShort}});
  RawClient deaf = client(4096);
  std::string requests;  // more than the server reads at once: what it leaves unread makes its end a reset
  for (int i = 0; i < 5000; ++i) requests += "GET /app.js HTTP/1.1\r\nHost: x\r\n\r\n";
  (void)deaf.send(requests);
  EXPECT_TRUE(deaf.is_reset());
  (void)known_client();
}

TEST_F(ServerTest, AServerThatStopsSaysSoToThoseWhoAreThere) {
  open({.drain = kPatience});
  RawClient idle = known_client(), scraper = known_client();
  RawClient busy = busy_client();
  std::thread stopper([this] { stop(); });
  while (const auto fd = try_connect(port())) {  // until it takes no new ones
    ::close(*fd);
    std::this_thread::sleep_for(milliseconds(1));
  }
  idle.get("/health");
  const std::string answer = idle.read_answer();
  EXPECT_TRUE(answer.starts_with("HTTP/1.1 503 ")) << answer;
  for (const std::string_view part :
       {"\r\nRetry-After: 5\r\n", "\r\nConnection: close\r\n", "The server is stopping."}) {
    EXPECT_NE(answer.find(part), std::string::npos) << answer;
  }
  EXPECT_TRUE(idle.is_hung_up_on());
  scraper.get("/metrics");
  EXPECT_TRUE(scraper.read_answer().starts_with("HTTP/1.1 200 "));
  busy.close();
  stopper.join();
}

}  // namespace
}  // namespace qnext::test
