#pragma once
// AnswerText: the tokens of an answer as the text that a client is sent.

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/stop_text.h"
#include "server/tool_calls.h"
#include "text/detokenizer.h"

namespace qnext {

struct TextDelta {
  std::string reasoning = {};
  std::string content = {};
  std::vector<ToolCall> calls = {};
  bool empty() const { return reasoning.empty() && content.empty() && calls.empty(); }
  void append(TextDelta more);
};

// Parts an answer at </think>, in text that arrives in pieces. Tags, and the newlines around them, belong to neither
// part. An answer that neither starts inside a block nor begins with <think> is content, whatever it says later.
class ReasoningSplitter {
 public:
  explicit ReasoningSplitter(bool starts_inside) : state_(starts_inside ? State::kInside : State::kBefore) {}

  TextDelta feed(std::string_view piece);
  TextDelta finish();

 private:
  enum class State { kBefore, kInside, kAfter, kContent };

  State state_;
  bool reasoning_begun_ = false;
  std::string held_;  // what may be a tag's beginning, or newlines that end the reasoning
};

enum class AnswerParts { kContentOnly, kReasoningFirst, kStartsInReasoning };

// What the text may call.
struct ToolUse {
  std::shared_ptr<const std::vector<Tool>> tools = {};  // null: nothing, whatever it looks like
  bool one_call = false;                                // the answer ends after the first
};

// Whole characters only; no special token; never a stop string, nor half of one.
class AnswerText {
 public:
  AnswerText(const Tokenizer& tokenizer, std::vector<std::string> stops, AnswerParts parts, const ToolUse& tool_use);

  TextDelta feed(TokenId id) { return take_calls(split(find_stop(detokenizer_.feed(id))), /*is_last=*/false); }
  TextDelta finish();

  // Of the tokens' text so far, tags and calls included: all of it, and what is certain to come before any stop string.
  std::size_t num_bytes() const { return num_bytes_; }
  std::size_t num_certain_bytes() const { return num_certain_bytes_; }

  // A stop string came, or the only call: what follows is swallowed.
  bool stopped() const { return stop_.stopped() || (calls_ && calls_->is_done()); }
  bool has_calls() const { return calls_ && calls_->has_calls(); }

 private:
  std::string find_stop(const std::string& text);
  TextDelta split(std::string text);
  TextDelta take_calls(TextDelta delta, bool is_last);

  Detokenizer detokenizer_;
  StopText stop_;
  std::size_t num_bytes_ = 0, num_certain_bytes_ = 0;
  bool splits_;
  ReasoningSplitter splitter_;
  std::optional<ToolCallParser> calls_;
};

// Whether a rendered prompt leaves a thinking block open, as the templates of thinking-only models do.
bool opens_reasoning(std::string_view prompt);

}  // namespace qnext
