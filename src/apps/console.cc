#include "apps/console.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>

#include "base/env.h"
#include "tensor/mapped_file.h"

namespace qnext {
namespace {

bool write_failed = false;
bool reader_gone = false;
std::atomic<bool> interrupt_flag{false};
std::atomic<bool> terminate_flag{false};
static_assert(std::atomic<bool>::is_always_lock_free, "touched by a signal handler");

void on_interrupt(int signal_number) {
  if (signal_number == SIGTERM) terminate_flag.store(true);
  if (interrupt_flag.exchange(true)) _exit(128 + signal_number);
}

// All of `text`; an errno when it fails.
int write_all(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written_bytes = ::write(fd, text.data(), text.size());
    if (written_bytes < 0 && errno == EINTR) continue;
    if (written_bytes < 0) return errno;
    text.remove_prefix(static_cast<std::size_t>(written_bytes));
  }
  return 0;
}

Result<std::string> read_all(int fd, const std::string& name, std::size_t max_bytes) {
  std::string text;
  char buffer[1 << 16];
  for (;;) {
    const ssize_t read_bytes = ::read(fd, buffer, sizeof(buffer));
    if (read_bytes < 0 && errno == EINTR && !interrupted()) continue;
    if (read_bytes < 0) return error("{}: {}", name, errno_text(errno));
    if (read_bytes == 0) return text;
    if (text.size() + static_cast<std::size_t>(read_bytes) > max_bytes) {
      return error("{}: expected at most {} bytes, found more", name, max_bytes);
    }
    text.append(buffer, static_cast<std::size_t>(read_bytes));
  }
}

// Bytes of the valid UTF-8 character that `text` begins with; 0 when there is none (RFC 3629, table 3-7 of Unicode).
std::size_t utf8_character_bytes(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return 1;
  const std::size_t num_bytes = first >= 0xC2 && first < 0xE0 ? 2 : first >= 0xE0 && first < 0xF0 ? 3 : 4;
  if (first < 0xC2 || first > 0xF4 || text.size() < num_bytes) return 0;
  const unsigned char lowest = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
  const unsigned char highest = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
  if (byte(1) < lowest || byte(1) > highest) return 0;
  for (std::size_t i = 2; i < num_bytes; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  return num_bytes;
}

}  // namespace

Status write_stdout(std::string_view text) {
  const int error_number = write_all(STDOUT_FILENO, text);
  if (error_number == 0) return success();
  write_failed = true;
  reader_gone = reader_gone || error_number == EPIPE;
  return error("stdout: {}", errno_text(error_number));
}

void write_stderr(std::string_view text) {
  (void)write_all(STDERR_FILENO, text);
}

bool stdout_reader_gone() {
  return reader_gone;
}

bool stdout_failed() {
  return write_failed;
}

bool stdin_is_terminal() {
  return ::isatty(STDIN_FILENO) == 1;
}
bool stdout_is_terminal() {
  return ::isatty(STDOUT_FILENO) == 1;
}
bool stderr_is_terminal() {
  return ::isatty(STDERR_FILENO) == 1;
}
bool stdout_takes_colour() {
  return stdout_is_terminal() && !env("NO_COLOR") && env("TERM") != "dumb";
}

Result<std::string> read_stdin(std::size_t max_bytes) {
  return read_all(STDIN_FILENO, "stdin", max_bytes);
}

Result<std::string> read_file(const std::filesystem::path& path, std::size_t max_bytes) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a pipe must not hang us before fstat
  if (fd < 0) return error("{}: {}", path.string(), errno_text(errno));
  struct stat info {};
  const bool is_regular = ::fstat(fd, &info) == 0 && S_ISREG(info.st_mode);
  Result<std::string> text = is_regular ? read_all(fd, path.string(), max_bytes)
                                        : Result<std::string>(error("{}: not a regular file", path.string()));
  ::close(fd);
  return text;
}

Status expect_utf8(std::string_view text, std::string_view what) {
  for (std::size_t byte_idx = 0; byte_idx < text.size();) {
    const std::size_t num_bytes = utf8_character_bytes(text.substr(byte_idx));
    if (num_bytes == 0) {
      return error("{}: expected UTF-8, found byte 0x{:02x} at offset {}; convert the text first (iconv -t UTF-8)",
                   what, static_cast<unsigned char>(text[byte_idx]), byte_idx);
    }
    byte_idx += num_bytes;
  }
  return success();
}

LineReader::Outcome LineReader::read(std::string& line) {
  bool too_long = false;
  for (;;) {
    const std::size_t newline = buffer_.find('\n');
    if (newline != std::string::npos || (at_end_ && !buffer_.empty())) {
      line = buffer_.substr(0, newline);
      buffer_.erase(0, newline == std::string::npos ? newline : newline + 1);
      return too_long || line.size() > kMaxLineBytes ? Outcome::kTooLong : Outcome::kLine;
    }
    if (at_end_) return too_long ? Outcome::kTooLong : Outcome::kEnd;
    if (buffer_.size() > kMaxLineBytes) {
      too_long = true;
      buffer_.clear();
    }
    if (interrupted()) {
      buffer_.clear();
      return Outcome::kInterrupted;
    }
    char bytes[4096];
    const ssize_t read_bytes = ::read(STDIN_FILENO, bytes, sizeof(bytes));
    if (read_bytes > 0) buffer_.append(bytes, static_cast<std::size_t>(read_bytes));
    if (read_bytes == 0 || (read_bytes < 0 && errno != EINTR)) at_end_ = true;
  }
}

Result<std::string> text_argument(const std::string& argument, std::size_t max_bytes) {
  const bool from_stdin = argument == "-";
  QN_TRY(std::string text, from_stdin ? read_stdin(max_bytes) : Result<std::string>(argument));
  QN_RETURN_IF_ERROR(expect_utf8(text, from_stdin ? "stdin" : "the text on the command line"));
  return text;
}

std::string escaped(std::string_view bytes) {
  std::string out;
  while (!bytes.empty()) {
    const auto first = static_cast<unsigned char>(bytes.front());
    const std::size_t num_bytes = utf8_character_bytes(bytes);
    if (first == '\n') {
      out += "\\n";
    } else if (first == '\t') {
      out += "\\t";
    } else if (first == '"' || first == '\\') {
      out += fmt::format("\\{}", static_cast<char>(first));
    } else if (num_bytes == 0 || first < 0x20 || first == 0x7F) {
      out += fmt::format("\\x{:02x}", first);
    } else {
      out += bytes.substr(0, num_bytes);
    }
    bytes.remove_prefix(std::max<std::size_t>(num_bytes, 1));
  }
  return out;
}

void catch_interrupts() {
  struct sigaction action {};
  action.sa_handler = on_interrupt;
  sigemptyset(&action.sa_mask);
  action.sa_flags = 0;  // no SA_RESTART: a read from the keyboard returns
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  action.sa_handler = SIG_IGN;
  sigaction(SIGPIPE, &action, nullptr);
}

bool interrupted() {
  return interrupt_flag.load(std::memory_order_relaxed);
}

bool terminated() {
  return terminate_flag.load(std::memory_order_relaxed);
}

void clear_interrupt() {
  if (!terminated()) interrupt_flag.store(false, std::memory_order_relaxed);
}

}  // namespace qnext
