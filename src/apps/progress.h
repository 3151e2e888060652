#pragma once
// Progress of long work, on stderr: a bar that redraws itself on a terminal, a line every tenth elsewhere.

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>

namespace qnext {

class Progress {
 public:
  // `what` begins every line: "converting". `quiet` shows nothing.
  explicit Progress(std::string what, bool quiet = false);
  ~Progress();  // ends the bar's line
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // Bytes done of a total that may grow. Redraws at most ten times a second.
  void update(std::uint64_t done_bytes, std::uint64_t total_bytes);

 private:
  std::string what_;
  bool quiet_;
  bool on_terminal_;
  bool line_open_ = false;
  std::size_t tenths_shown_ = 0;
  std::chrono::steady_clock::time_point started_;
  std::chrono::steady_clock::time_point drawn_;
};

// "7.33 GiB", "512 B": three significant digits.
std::string bytes_text(std::uint64_t num_bytes);

// "3.56 B", "120 M": counts of parameters, operations.
std::string count_text(double count);

// "41%, 1.23 of 3.00 GiB, 512 MiB/s, 4 s left"
std::string progress_text(std::uint64_t done_bytes, std::uint64_t total_bytes, double elapsed_s);

}  // namespace qnext
