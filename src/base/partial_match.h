#pragma once
// The longest end of a text that may become a tag.

#include <algorithm>
#include <cstddef>
#include <string_view>

namespace qnext {

// The length of the longest end of `text` that begins `tag`, but is not all of it.
inline std::size_t partial_match(std::string_view text, std::string_view tag) {
  for (std::size_t count = std::min(text.size(), tag.size() - 1); count > 0; --count) {
    if (text.ends_with(tag.substr(0, count))) return count;
  }
  return 0;
}

}  // namespace qnext
