#pragma once
// Conversations as training reads them: the chat template's text, in which only the assistant's answers are learned.

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "base/result.h"
#include "text/chat_template.h"

namespace qnext::train {

struct TextPart {
  std::string text;
  bool learned = true;  // the loss counts its tokens
};
using TextDocument = std::vector<TextPart>;

struct ChatFormat {
  ChatTemplate chat_template;
  std::string bos_token, eos_token;  // for the template
};

// `messages` is a list of {"role", "content"} with an assistant's answer last. Each answer is learned up to and with
// the token that ends it. A template that only ever appends gives one document; one that rewrites what was (drops
// earlier thoughts) gives a document for each answer, and only that answer is learned in it: as it will be read, it is
// trained. Errors: no answer at the end, the template's own.
Result<std::vector<TextDocument>> chat_documents(const ChatFormat& format, const nlohmann::ordered_json& messages);

}  // namespace qnext::train
