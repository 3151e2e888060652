#pragma once
// Conversation: the messages so far, as the chat template and a saved file have them.

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "apps/model_files.h"
#include "base/result.h"

namespace qnext {

struct Message {
  std::string role;  // "system", "user" or "assistant"
  std::string content;
};

// The messages as the prompt that the model was trained on, up to where the assistant's answer begins.
// `thinking` is the template's enable_thinking; templates that know no such thing ignore it.
// Errors: no chat template (`model_path` names the model); what the template refuses.
Result<std::string> render_prompt(const TextFiles& files, const std::string& model_path,
                                  std::span<const Message> messages, std::optional<bool> thinking);

// {"messages": [{"role", "content"}, ...]}
std::string conversation_json(std::span<const Message> messages);
Result<std::vector<Message>> parse_conversation(std::string_view json, const std::string& file);

}  // namespace qnext
