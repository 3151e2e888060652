#include "apps/progress.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <span>

#include "apps/console.h"

namespace qnext {
namespace {

constexpr std::size_t kBarCharacters = 24;
constexpr std::chrono::milliseconds kRedrawEvery{100};

double seconds_between(std::chrono::steady_clock::time_point begin, std::chrono::steady_clock::time_point end) {
  return std::chrono::duration<double>(end - begin).count();
}

// Three significant digits and the largest unit that leaves at least 1 before the point.
std::string scaled(double value, double step, std::span<const char* const> units) {
  std::size_t unit_idx = 0;
  while (value >= step && unit_idx + 1 < units.size()) value /= step, ++unit_idx;
  const int decimals = unit_idx == 0 || value >= 100 ? 0 : value >= 10 ? 1 : 2;
  return fmt::format("{:.{}f} {}", value, decimals, units[unit_idx]);
}

}  // namespace

std::string bytes_text(std::uint64_t num_bytes) {
  static constexpr std::array<const char*, 5> kUnits = {"B", "KiB", "MiB", "GiB", "TiB"};
  return scaled(static_cast<double>(num_bytes), 1024, kUnits);
}

std::string count_text(double count) {
  static constexpr std::array<const char*, 5> kUnits = {"", "K", "M", "G", "T"};
  std::string text = scaled(count, 1000, kUnits);
  if (text.back() == ' ') text.pop_back();
  return text;
}

std::string progress_text(std::uint64_t done_bytes, std::uint64_t total_bytes, double elapsed_s) {
  const double share = total_bytes == 0 ? 1 : static_cast<double>(done_bytes) / static_cast<double>(total_bytes);
  std::string text =
      fmt::format("{:.0f}%, {} of {}", std::floor(share * 100), bytes_text(done_bytes), bytes_text(total_bytes));
  if (elapsed_s <= 0 || done_bytes == 0) return text;
  const double bytes_per_s = static_cast<double>(done_bytes) / elapsed_s;
  text += fmt::format(", {}/s", bytes_text(static_cast<std::uint64_t>(bytes_per_s)));
  if (done_bytes < total_bytes) {
    text += fmt::format(", {:.0f} s left", std::ceil(static_cast<double>(total_bytes - done_bytes) / bytes_per_s));
  }
  return text;
}

Progress::Progress(std::string what, bool quiet)
    : what_(std::move(what)),
      quiet_(quiet),
      on_terminal_(stderr_is_terminal()),
      started_(std::chrono::steady_clock::now()) {}

Progress::~Progress() {
  if (line_open_) write_stderr("\n");
}

void Progress::update(std::uint64_t done_bytes, std::uint64_t total_bytes) {
  if (quiet_) return;
  done_bytes = std::min(done_bytes, total_bytes);
  const auto now = std::chrono::steady_clock::now();
  const bool done = done_bytes == total_bytes;
  const double share = total_bytes == 0 ? 1 : static_cast<double>(done_bytes) / static_cast<double>(total_bytes);
  const std::string text = progress_text(done_bytes, total_bytes, seconds_between(started_, now));
  if (on_terminal_) {
    if (line_open_ && !done && now - drawn_ < kRedrawEvery) return;
    const auto num_filled = static_cast<std::size_t>(share * static_cast<double>(kBarCharacters));
    const std::string bar = std::string(num_filled, '#') + std::string(kBarCharacters - num_filled, '.');
    write_stderr(fmt::format("\r\x1b[K{} [{}] {}", what_, bar, text));
    line_open_ = true;
    drawn_ = now;
  } else if (const auto tenths = static_cast<std::size_t>(share * 10); tenths > tenths_shown_) {
    write_stderr(fmt::format("{}: {}\n", what_, text));
    tenths_shown_ = tenths;
  }
}

}  // namespace qnext
