#pragma once
// AnswerText: the tokens of an answer as the text that a client is sent.

#include <string>
#include <string_view>
#include <vector>

#include "engine/stop_text.h"
#include "text/detokenizer.h"

namespace qnext {

struct TextDelta {
  std::string reasoning;
  std::string content;
  bool empty() const { return reasoning.empty() && content.empty(); }
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

// Whole characters only; no special token; never a stop string, nor half of one.
class AnswerText {
 public:
  AnswerText(const Tokenizer& tokenizer, std::vector<std::string> stops, AnswerParts parts);

  TextDelta feed(TokenId id) { return split(stop_.feed(detokenizer_.feed(id))); }
  TextDelta finish();

  // A stop string came: what follows is swallowed.
  bool stopped() const { return stop_.stopped(); }

 private:
  TextDelta split(std::string text);

  Detokenizer detokenizer_;
  StopText stop_;
  bool splits_;
  ReasoningSplitter splitter_;
};

// Whether a rendered prompt leaves a thinking block open, as the templates of thinking-only models do.
bool opens_reasoning(std::string_view prompt);

}  // namespace qnext
