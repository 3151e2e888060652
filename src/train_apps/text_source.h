#pragma once
// Documents of text files: .jsonl has one a line, any other file is one; .gz and .zst are unpacked on the way.

#include <nlohmann/json.hpp>
#include <string>

#include "base/function_ref.h"
#include "base/result.h"

namespace qnext {

struct SourceDocument {
  std::string text;                 // all of it, or the prompt before `answer`
  std::string answer;               // what is learned; empty: all of `text`
  nlohmann::ordered_json messages;  // a conversation instead of the two; else null
  std::string where;                // file and line
};

// A line is {"text"}, {"prompt", "answer"} or {"messages": [{"role", "content"}]}. Stops at the first error of `use`.
// Errors: a file that cannot be read or unpacked, a line that is none of these, Ctrl-C.
Status for_each_document(const std::string& path, FunctionRef<Status(const SourceDocument& document)> use);

}  // namespace qnext
