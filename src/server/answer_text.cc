#include "server/answer_text.h"

#include "base/partial_match.h"

namespace qnext {
namespace {

constexpr std::string_view kOpen = "<think>", kClose = "</think>";

}  // namespace

void TextDelta::append(TextDelta more) {
  reasoning += more.reasoning;
  content += more.content;
  append_calls(calls, std::move(more.calls));
}

TextDelta ReasoningSplitter::feed(std::string_view piece) {
  held_ += piece;
  TextDelta out;
  if (state_ == State::kBefore) {
    const std::size_t begin = held_.find_first_not_of("\n ");
    if (begin == std::string::npos) return out;
    const std::string_view text = std::string_view(held_).substr(begin);
    if (text.starts_with(kOpen)) {
      held_.erase(0, begin + kOpen.size());
      state_ = State::kInside;
    } else if (kOpen.starts_with(text)) {
      return out;
    } else {
      state_ = State::kContent;
    }
  }
  if (state_ == State::kInside) {
    if (!reasoning_begun_) held_.erase(0, held_.find_first_not_of('\n'));
    const std::size_t close = held_.find(kClose);
    // Newlines before the closing tag are no reasoning: they wait until something else follows.
    const std::size_t certain = close != std::string::npos ? close : held_.size() - partial_match(held_, kClose);
    const std::size_t last = held_.substr(0, certain).find_last_not_of('\n');
    const std::size_t length = last == std::string::npos ? 0 : last + 1;
    out.reasoning = held_.substr(0, length);
    reasoning_begun_ = reasoning_begun_ || length > 0;
    held_.erase(0, close != std::string::npos ? close + kClose.size() : length);
    if (close != std::string::npos) state_ = State::kAfter;
  }
  if (state_ == State::kAfter) {
    held_.erase(0, held_.find_first_not_of('\n'));
    if (!held_.empty()) state_ = State::kContent;
  }
  if (state_ == State::kContent) out.content = std::exchange(held_, "");
  return out;
}

TextDelta ReasoningSplitter::finish() {
  TextDelta out;
  (state_ == State::kInside ? out.reasoning : out.content) = std::exchange(held_, "");
  return out;
}

AnswerText::AnswerText(const Tokenizer& tokenizer, std::vector<std::string> stops, AnswerParts parts,
                       const ToolUse& tool_use)
    : detokenizer_(tokenizer, /*skip_special=*/true),
      stop_(std::move(stops)),
      splits_(parts != AnswerParts::kContentOnly),
      splitter_(parts == AnswerParts::kStartsInReasoning) {
  if (tool_use.tools != nullptr) calls_.emplace(tool_use.tools, tool_use.one_call);
}

std::string AnswerText::find_stop(const std::string& text) {
  std::string out = stop_.feed(text);
  num_bytes_ += text.size();
  num_certain_bytes_ += out.size();
  return out;
}

TextDelta AnswerText::split(std::string text) {
  if (!splits_) return {.content = std::move(text)};
  return splitter_.feed(text);
}

TextDelta AnswerText::take_calls(TextDelta delta, bool is_last) {
  if (!calls_) return delta;
  ToolCallParser::Delta parsed = calls_->feed(std::exchange(delta.content, ""));
  if (is_last) parsed.content += calls_->finish().content;
  delta.content = std::move(parsed.content);
  delta.calls = std::move(parsed.calls);
  return delta;
}

TextDelta AnswerText::finish() {
  std::string text = find_stop(detokenizer_.finish());
  const std::string held = stop_.finish();
  num_certain_bytes_ += held.size();
  TextDelta out = split(text + held);
  if (splits_) out.append(splitter_.finish());
  return take_calls(std::move(out), /*is_last=*/true);
}

bool opens_reasoning(std::string_view prompt) {
  const std::size_t open = prompt.rfind(kOpen);
  return open != std::string_view::npos && prompt.find_first_not_of("\n ", open + kOpen.size()) == std::string::npos;
}

}  // namespace qnext
