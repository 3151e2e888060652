#pragma once
// What a chat request says of tools: which there are, whether one has to be called, and what else the answer may be.

#include <optional>
#include <string>

#include "server/answer_grammar.h"
#include "server/answer_text.h"
#include "server/body_reader.h"

namespace qnext {

struct ToolRequest {
  ToolUse use;
  std::string template_tools = "null";   // JSON
  std::optional<AnswerGrammar> grammar;  // of calls that must be made
};

// Reads tools, tool_choice (none, auto, required, or {"type": "function", "function": {"name"}}) and
// parallel_tool_calls.
ToolRequest read_tool_request(BodyReader& body);

// The grammar of the whole answer, of `format`, what its text is to look like, and the tools': a call that must be made
// leaves no room for another form; where one may be made, the answer is that, or JSON as asked for. Strict tools bind
// what they are called with in an answer of any text, which `may_think` first. Errors go to the body.
std::optional<AnswerGrammar> join_grammars(BodyReader& body, std::optional<AnswerGrammar> format,
                                           const ToolRequest& tools, bool may_think);

}  // namespace qnext
