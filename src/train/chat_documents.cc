#include "train/chat_documents.h"

#include <nlohmann/json.hpp>

namespace qnext::train {
namespace {

using Json = nlohmann::ordered_json;

Result<std::string> render(const ChatFormat& format, const Json& messages, std::size_t count, bool ask_for_answer) {
  const Json first(messages.begin(), messages.begin() + static_cast<std::ptrdiff_t>(count));
  const std::string text = first.dump(-1, ' ', false, Json::error_handler_t::replace);
  return format.chat_template.render({.messages = text,
                                      .add_generation_prompt = ask_for_answer,
                                      .bos_token = format.bos_token,
                                      .eos_token = format.eos_token});
}

// Line breaks after the token that ends an answer are the template's, not the model's.
void add_answer(TextDocument& document, const std::string& answer) {
  const std::size_t end = answer.find_last_not_of('\n') + 1;
  document.push_back({answer.substr(0, end), true});
  if (end < answer.size()) document.push_back({answer.substr(end), false});
}

bool is_answer(const Json& message) {
  return message.is_object() && message.contains("role") && message["role"] == "assistant";
}

}  // namespace

Result<std::vector<TextDocument>> chat_documents(const ChatFormat& format, const Json& messages) {
  if (!messages.is_array() || messages.empty() || !is_answer(messages.back())) {
    return error("messages: expected a list of {{\"role\", \"content\"}} that ends with the assistant's answer");
  }
  std::vector<TextDocument> out;
  std::string so_far;  // the text of the last document
  for (std::size_t turn = 0; turn < messages.size(); ++turn) {
    if (!is_answer(messages[turn])) continue;
    QN_TRY(const std::string asked, render(format, messages, turn, true));
    QN_TRY(const std::string answered, render(format, messages, turn + 1, false));
    if (!answered.starts_with(asked)) {
      return error("messages[{}]: the chat template writes the answer elsewhere than where it asks for it", turn);
    }
    if (out.empty() || !asked.starts_with(so_far)) {
      out.emplace_back();
      so_far.clear();
    }
    out.back().push_back({asked.substr(so_far.size()), false});
    add_answer(out.back(), answered.substr(asked.size()));
    so_far = answered;
  }
  return out;
}

}  // namespace qnext::train
