#include "apps/thinking.h"

namespace qnext {
namespace {

constexpr std::string_view kOpen = "<think>";
constexpr std::string_view kClose = "</think>";
constexpr const char* kDim = "\x1b[2m";
constexpr const char* kPlain = "\x1b[22m";

// Bytes at the end of `text` that may be the beginning of `tag`.
std::size_t partial_match(std::string_view text, std::string_view tag) {
  for (std::size_t count = std::min(text.size(), tag.size() - 1); count > 0; --count) {
    if (text.ends_with(tag.substr(0, count))) return count;
  }
  return 0;
}

}  // namespace

ThinkingStyle::ThinkingStyle(bool colour, bool starts_inside) : colour_(colour), starts_inside_(starts_inside) {}

std::string ThinkingStyle::begin_dim() {
  inside_ = true;
  return kDim;
}

std::string ThinkingStyle::end_dim() {
  inside_ = false;
  return kPlain;
}

std::string ThinkingStyle::feed(std::string_view piece) {
  if (!colour_) return std::string(piece);
  std::string out;
  if (starts_inside_) out += begin_dim();
  starts_inside_ = false;
  held_ += piece;
  for (;;) {
    const std::string_view tag = inside_ ? kClose : kOpen;
    const std::size_t begin = held_.find(tag);
    if (begin == std::string::npos) break;
    const std::string before = held_.substr(0, begin);
    held_.erase(0, begin + tag.size());
    // The tags themselves are part of the block.
    out += inside_ ? before + std::string(tag) + end_dim() : before + begin_dim() + std::string(tag);
  }
  const std::size_t num_certain = held_.size() - partial_match(held_, inside_ ? kClose : kOpen);
  out += held_.substr(0, num_certain);
  held_.erase(0, num_certain);
  return out;
}

std::string ThinkingStyle::finish() {
  std::string out = std::move(held_);
  held_.clear();
  if (inside_) out += end_dim();
  return out;
}

bool opens_thinking(std::string_view prompt) {
  const std::size_t open = prompt.rfind(kOpen);
  return open != std::string_view::npos && prompt.find_first_not_of("\n ", open + kOpen.size()) == std::string::npos;
}

}  // namespace qnext
