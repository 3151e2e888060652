#pragma once
// The terminal, the pipes and the keyboard: what the program's commands share of them.

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>

#include "base/result.h"

namespace qnext {

// Writes all of `text` to stdout at once. Errors: disk full; the reader has gone (is_broken_pipe tells).
Status write_stdout(std::string_view text);

// Writes to stderr; failures are not reported, for there is nowhere left to report them.
void write_stderr(std::string_view text);

// True once a write to stdout failed because its reader has gone: the program then ends without a word, as filters do.
bool stdout_reader_gone();
bool stdout_failed();  // for that reason or another

bool stdin_is_terminal();
bool stdout_is_terminal();
bool stderr_is_terminal();
bool stdout_takes_colour();  // a terminal, and NO_COLOR is not set (no-color.org)

// All of stdin, at most max_bytes. Errors: too long; I/O.
Result<std::string> read_stdin(std::size_t max_bytes);

// A whole small file. Errors: missing, longer than max_bytes, not a regular file.
Result<std::string> read_file(const std::filesystem::path& path, std::size_t max_bytes);

// Error: `text` is not UTF-8; says at which byte. `what` names it.
Status expect_utf8(std::string_view text, std::string_view what);

// stdin line by line, without its newlines.
class LineReader {
 public:
  static constexpr std::size_t kMaxLineBytes = std::size_t{16} << 20;
  enum class Outcome { kLine, kEnd, kInterrupted, kTooLong };

  // An error of the system's counts as the end. Ctrl-C drops what was typed of the line.
  Outcome read(std::string& line);

 private:
  std::string buffer_;
  bool at_end_ = false;
};

// A TEXT argument: itself, or for "-" all of stdin. Errors: not UTF-8; too long.
Result<std::string> text_argument(const std::string& argument, std::size_t max_bytes);

// Bytes for a line of a table: control characters, quotes, backslashes and what is not UTF-8 as \n, \xNN.
std::string escaped(std::string_view bytes);

// Ctrl-C and SIGTERM raise a flag from now on in place of ending the program; a second one, while the flag is still up,
// ends it at once. SIGPIPE is left to the failing write.
void catch_interrupts();
bool interrupted();
bool terminated();  // by SIGTERM; never cleared
void clear_interrupt();

}  // namespace qnext
