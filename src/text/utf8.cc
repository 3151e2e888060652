#include "text/utf8.h"

namespace qnext {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

// Bytes of a character by its first one; 0 when no character begins so.
std::size_t num_bytes_from(std::uint8_t first) {
  if (first < 0x80) return 1;
  if (first < 0xC2) return 0;  // a continuation, or an overlong form
  if (first < 0xE0) return 2;
  if (first < 0xF0) return 3;
  return first < 0xF5 ? 4 : 0;
}

// Whether the second byte keeps the character shortest, outside of the surrogates, and below U+110000.
bool is_second(std::uint8_t first, std::uint8_t byte) {
  const std::uint8_t low = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
  const std::uint8_t high = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
  return low <= byte && byte <= high;
}

}  // namespace

void Utf8Repair::append(std::string& text, std::string_view bytes) {
  for (const char byte : bytes) append_byte(text, static_cast<std::uint8_t>(byte));
}

void Utf8Repair::append_byte(std::string& text, std::uint8_t byte) {
  if (num_waiting_ > 0) {
    const auto first = static_cast<std::uint8_t>(waiting_[0]);
    const bool continues = num_waiting_ == 1 ? is_second(first, byte) : (byte & 0xC0) == 0x80;
    if (continues) {
      waiting_[num_waiting_++] = static_cast<char>(byte);
      if (num_waiting_ == num_expected_) {
        text.append(waiting_.data(), num_waiting_);
        num_waiting_ = 0;
      }
      return;
    }
    finish(text);
  }
  num_expected_ = num_bytes_from(byte);
  if (num_expected_ == 0) {
    text += kReplacement;
  } else if (num_expected_ == 1) {
    text += static_cast<char>(byte);
  } else {
    waiting_[num_waiting_++] = static_cast<char>(byte);
  }
}

void Utf8Repair::finish(std::string& text) {
  if (num_waiting_ > 0) text += kReplacement;
  num_waiting_ = 0;
}

}  // namespace qnext
