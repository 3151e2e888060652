#pragma once
// Tools: what a request offers, and the calls of them in an answer's text, in the two forms that the family writes:
//   <tool_call>{"name": "f", "arguments": {...}}</tool_call>                                   Qwen3 (Hermes)
//   <tool_call><function=f><parameter=p>value</parameter></function></tool_call>              Qwen3-Coder

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "server/api_error.h"

namespace qnext {

struct Tool {
  std::string name;
  Json parameters;  // the schema of its arguments: an object
};

struct ToolCall {
  std::string name;
  std::string arguments;  // JSON: an object
  bool operator==(const ToolCall&) const = default;
};

// Parts calls from the text around them, in text that arrives in pieces. A call comes when it is whole; what only looks
// like one (no JSON, no such tool, cut off) is text, byte by byte. Blanks beside a call belong to neither.
class ToolCallParser {
 public:
  explicit ToolCallParser(std::shared_ptr<const std::vector<Tool>> tools) : tools_(std::move(tools)) {}

  struct Delta {
    std::string content;
    std::vector<ToolCall> calls;
  };
  Delta feed(std::string_view piece);
  Delta finish();

 private:
  bool take_call(Delta& out);
  std::optional<ToolCall> parse_call(std::string_view body) const;
  std::optional<ToolCall> parse_xml(std::string_view body) const;
  const Tool* find(std::string_view name) const;

  std::shared_ptr<const std::vector<Tool>> tools_;
  std::string held_;         // not sent yet: may be, or belong to, a call
  bool after_call_ = false;  // blanks are dropped
};

// Lark: one call of one of these tools, or, with `many`, some.
std::string tool_call_grammar(const std::vector<Tool>& tools, bool many);

}  // namespace qnext
