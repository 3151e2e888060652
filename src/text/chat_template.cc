#include "text/chat_template.h"

#include <vector>

#include "text/rust_call.h"

namespace qnext {
namespace {

QnVariable variable(std::string_view name, std::string_view value, QnVariableKind kind) {
  return {.name = rust_text(name),
          .num_name_bytes = name.size(),
          .value = rust_text(value),
          .num_value_bytes = value.size(),
          .kind = static_cast<std::uint8_t>(kind)};
}

}  // namespace

ChatTemplate::ChatTemplate(QnTemplate* handle) : handle_(handle, &qn_template_free) {}

Result<ChatTemplate> ChatTemplate::parse(std::string_view source) {
  QnTemplate* handle = nullptr;
  QN_RETURN_IF_ERROR(take_status(qn_template_parse(rust_text(source), source.size(), &handle), "chat template"));
  return ChatTemplate(handle);
}

Result<std::string> ChatTemplate::render(const ChatInputs& inputs) const {
  std::vector<QnVariable> variables = {
      variable("messages", inputs.messages, kQnVariableJson),
      variable("tools", inputs.tools, kQnVariableJson),
      variable("documents", "null", kQnVariableJson),
      variable("add_generation_prompt", inputs.add_generation_prompt ? "true" : "false", kQnVariableJson),
      variable("template variables", inputs.variables, kQnVariableSpread),
  };
  if (!inputs.bos_token.empty()) variables.push_back(variable("bos_token", inputs.bos_token, kQnVariableText));
  if (!inputs.eos_token.empty()) variables.push_back(variable("eos_token", inputs.eos_token, kQnVariableText));
  QnBytes text = {};
  QN_RETURN_IF_ERROR(
      take_status(qn_template_render(handle_.get(), variables.data(), variables.size(), &text), "chat template"));
  return take_text(text);
}

}  // namespace qnext
