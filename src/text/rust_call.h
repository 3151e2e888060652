#pragma once
// Results of qnext_text.h as ours. Only src/text/*.cc includes it.

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"
#include "text/qnext_text.h"

namespace qnext {

inline const std::uint8_t* rust_text(std::string_view text) {
  return reinterpret_cast<const std::uint8_t*>(text.data());
}

// Copies and frees bytes that Rust returned.
inline std::string take_text(QnBytes bytes) {
  std::string text(reinterpret_cast<const char*>(bytes.data), bytes.num_bytes);
  qn_bytes_free(bytes);
  return text;
}

// The failure as "what: message".
inline Status take_status(QnBytes failure, std::string_view what) {
  if (failure.data == nullptr) return success();
  return error("{}: {}", what, take_text(failure));
}

}  // namespace qnext
