// A template and its variables, split at the first zero byte: an error or a text, never a crash or a hang.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "text/chat_template.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t num_bytes) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), num_bytes);
  const std::size_t cut = std::min(bytes.find('\0'), bytes.size());
  const auto chat_template = qnext::ChatTemplate::parse(bytes.substr(0, cut));
  if (!chat_template.ok()) return 0;
  const std::string_view messages = cut < bytes.size() ? bytes.substr(cut + 1) : "[]";
  (void)chat_template->render({.messages = messages, .bos_token = "<s>"}).ok();
  (void)chat_template->render({.messages = "[]", .tools = messages, .variables = "{}"}).ok();
  (void)chat_template->render({.messages = R"([{"role": "user", "content": "Hi"}])", .variables = messages}).ok();
  return 0;
}
