#include "apps/conversation.h"

#include "apps/json_text.h"

namespace qnext {
namespace {

using Json = nlohmann::ordered_json;

Json messages_json(std::span<const Message> messages) {
  Json out = Json::array();
  for (const Message& message : messages) out.push_back({{"role", message.role}, {"content", message.content}});
  return out;
}

}  // namespace

Result<std::string> render_prompt(const TextFiles& files, const std::string& model_path,
                                  std::span<const Message> messages, std::optional<bool> thinking) {
  if (!files.chat_template) {
    return error("{}: expected a chat template, found none; use run --raw, which needs none", model_path);
  }
  const std::string messages_text = json_line(messages_json(messages));
  const std::string variables = json_line(thinking ? Json{{"enable_thinking", *thinking}} : Json::object());
  return files.chat_template->render(
      {.messages = messages_text, .variables = variables, .bos_token = files.bos_token, .eos_token = files.eos_token});
}

std::string conversation_json(std::span<const Message> messages) {
  return json_indented({{"messages", messages_json(messages)}});
}

Result<std::vector<Message>> parse_conversation(std::string_view json, const std::string& file) {
  const Json root = Json::parse(json, nullptr, /*allow_exceptions=*/false);
  const auto list = root.is_object() ? root.find("messages") : root.end();
  if (!root.is_object() || list == root.end() || !list->is_array()) {
    return error("{}: expected a JSON object with a list \"messages\", as /save writes it", file);
  }
  std::vector<Message> out;
  for (const Json& entry : *list) {
    const auto text = [&](const char* key) {
      return entry.is_object() && entry.contains(key) && entry[key].is_string()
                 ? std::optional(entry[key].get<std::string>())
                 : std::nullopt;
    };
    const auto role = text("role");
    const auto content = text("content");
    if (!content || !role || (*role != "system" && *role != "user" && *role != "assistant")) {
      return error("{}: messages[{}]: expected a \"role\" of system, user or assistant and a \"content\" of text", file,
                   out.size());
    }
    out.push_back({*role, *content});
  }
  return out;
}

}  // namespace qnext
