#pragma once
// Bytes that arrive in pieces, as valid UTF-8.

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace qnext {

// Appends bytes to text as UTF-8: a character that is not complete waits for its remaining bytes; each maximal invalid
// sequence becomes one U+FFFD. Source: The Unicode Standard, chapter 3, "U+FFFD Substitution of Maximal Subparts",
// which is what Rust's from_utf8_lossy, and so the tokenizers of transformers, do. The result does not depend on how
// the bytes are cut.
class Utf8Repair {
 public:
  void append(std::string& text, std::string_view bytes);

  // No more bytes: what still waits is invalid.
  void finish(std::string& text);

 private:
  void append_byte(std::string& text, std::uint8_t byte);

  std::array<char, 4> waiting_ = {};
  std::size_t num_waiting_ = 0;
  std::size_t num_expected_ = 0;  // bytes of the waiting character, once complete
};

}  // namespace qnext
