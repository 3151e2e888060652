#pragma once
// ThinkingStyle: shows what stands between <think> and </think> dimmed, in text that arrives in pieces.

#include <string>
#include <string_view>

namespace qnext {

class ThinkingStyle {
 public:
  // `colour` false passes text through unchanged. `starts_inside`: the prompt ended inside a thinking block.
  ThinkingStyle(bool colour, bool starts_inside);

  // The next piece, with the terminal's codes in it. Half of a tag waits for the other half.
  std::string feed(std::string_view piece);

  // The end: what waits, and the colours as they were.
  std::string finish();

 private:
  std::string begin_dim();
  std::string end_dim();

  bool colour_;
  bool starts_inside_;  // and nothing was written yet
  bool inside_ = false;
  std::string held_;  // the beginning of a tag
};

// Whether a rendered prompt leaves a thinking block open, as the templates of thinking-only models do.
bool opens_thinking(std::string_view prompt);

}  // namespace qnext
