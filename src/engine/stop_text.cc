#include "engine/stop_text.h"

#include <algorithm>
#include <cstddef>
#include <utility>

namespace qnext {
namespace {

// How many bytes at the end of `text` may be the beginning of `stop`.
std::size_t partial_match_bytes(std::string_view text, std::string_view stop) {
  for (std::size_t num_bytes = std::min(text.size(), stop.size() - 1); num_bytes > 0; --num_bytes) {
    if (text.ends_with(stop.substr(0, num_bytes))) return num_bytes;
  }
  return 0;
}

}  // namespace

StopText::StopText(std::vector<std::string> stops) : stops_(std::move(stops)) {
  std::erase_if(stops_, [](const std::string& stop) { return stop.empty(); });
}

std::string StopText::feed(std::string_view piece) {
  if (stopped_) return {};
  std::string text = std::exchange(held_, {});
  text += piece;

  std::size_t match_begin = 0;
  std::size_t match_end = std::string::npos;
  std::size_t num_held_bytes = 0;
  for (const std::string& stop : stops_) {
    if (const std::size_t begin = text.find(stop); begin != std::string::npos) {
      const std::size_t end = begin + stop.size();
      if (end < match_end || (end == match_end && begin < match_begin)) match_begin = begin, match_end = end;
    }
    num_held_bytes = std::max(num_held_bytes, partial_match_bytes(text, stop));
  }
  if (match_end != std::string::npos) {
    stopped_ = true;
    text.resize(match_begin);
    return text;
  }
  held_ = text.substr(text.size() - num_held_bytes);
  text.resize(text.size() - num_held_bytes);
  return text;
}

std::string StopText::finish() {
  return std::exchange(held_, {});
}

}  // namespace qnext
