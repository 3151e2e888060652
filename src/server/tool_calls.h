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
  Json parameters;         // the schema of its arguments: an object
  bool is_strict = false;  // they must keep to it, also in a call that need not be made
};

// A call, or what has come of one since: without a name, `arguments` go on where the last piece ended.
struct ToolCall {
  std::string name;
  std::string arguments;  // JSON: an object, as the model wrote it
  bool operator==(const ToolCall&) const = default;
};

// Adds what `more` brings, which may begin with the rest of the last call.
void append_calls(std::vector<ToolCall>& calls, std::vector<ToolCall> more);

// Parts calls from the text around them, in text that arrives in pieces. A call is one as soon as its name, of a tool
// that was offered, and the beginning of its arguments are there; the arguments then come as they are written, and stay
// unfinished when they are cut off. What only looks like a call (no JSON, no such tool) is text, byte by byte. Blanks
// beside a call belong to neither.
class ToolCallParser {
 public:
  // With `one_call`, nothing comes after the first.
  explicit ToolCallParser(std::shared_ptr<const std::vector<Tool>> tools, bool one_call = false)
      : tools_(std::move(tools)), one_call_(one_call) {}

  struct Delta {
    std::string content;
    std::vector<ToolCall> calls;
  };
  Delta feed(std::string_view piece);
  Delta finish();

  bool has_calls() const { return has_calls_; }
  bool is_done() const { return state_ == State::kDone; }

 private:
  // kArguments: of JSON. kParameters: between <parameter>s; kText, kValue: inside of one, a string's or another's.
  enum class State { kContent, kArguments, kParameters, kText, kValue, kClosing, kDone };

  bool step(Delta& out);
  bool take_content(Delta& out);
  bool begin_call(Delta& out);
  bool take_whole_call(Delta& out);
  bool take_arguments(Delta& out);
  bool take_parameters(Delta& out);
  bool take_text(Delta& out);
  bool take_value(Delta& out);
  bool take_end();
  void start(Delta& out, const Tool& tool, std::size_t num_bytes, std::string arguments, State state);
  const Tool* find(std::string_view name) const;
  Json parameter_schema(const std::string& name) const;

  std::shared_ptr<const std::vector<Tool>> tools_;
  bool one_call_;
  State state_ = State::kContent;
  std::string held_;         // not taken yet: may be, or belong to, a call
  bool after_call_ = false;  // blanks are dropped
  bool has_calls_ = false;
  const Tool* tool_ = nullptr;   // of the call that is being read
  std::size_t depth_ = 0;        // kArguments: open brackets
  bool in_string_ = false;       // kArguments
  bool in_escape_ = false;       // kArguments
  bool has_parameters_ = false;  // kParameters: one was written
  bool at_text_begin_ = false;   // kText
};

// What an answer may have but for calls.
struct CallsBeside {
  std::optional<Json> schema = {};  // JSON of this, an object, in place of calls
  bool text = false;                // any text, before, between and after calls
  bool thinks = false;              // and, before that, a thought: the model's tokens have <think> and </think>
};

// Lark: one call of one of these tools, or, with `many`, some; or what may be there beside them. Beside text, the
// arguments of strict tools alone are bound by their schemas.
std::string tool_call_grammar(const std::vector<Tool>& tools, bool many, const CallsBeside& beside = {});

}  // namespace qnext
