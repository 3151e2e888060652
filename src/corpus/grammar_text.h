#pragma once
// The notation's letters, as both the parser and the expander read them.

#include <string_view>

#include "base/check.h"

namespace qnext::corpus {

constexpr bool is_name_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
}

// Of the name that `text` begins with; 0 when it begins with none.
constexpr std::size_t name_length(std::string_view text) {
  std::size_t length = 0;
  while (length < text.size() && is_name_letter(text[length])) ++length;
  return length;
}

constexpr bool is_name(std::string_view text) {
  return !text.empty() && name_length(text) == text.size();
}

// The place of the } that closes the { before `begin`.
inline std::size_t closing_brace(std::string_view text, std::size_t begin) {
  int depth = 1;
  for (std::size_t i = begin; i < text.size(); ++i) {
    if (text[i] == '{') ++depth;
    if (text[i] == '}' && --depth == 0) return i;
  }
  QN_CHECK(false, "grammar: a brace is not closed: {}", text);
  return text.size();
}

}  // namespace qnext::corpus
