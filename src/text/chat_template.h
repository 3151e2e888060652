#pragma once
// Chat templates: a conversation as the text that the model was trained on, byte for byte as transformers renders it.

#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"

struct QnTemplate;

namespace qnext {

// What a template is given. JSON comes as text; integers beyond 64 bits become floating point.
struct ChatInputs {
  std::string_view messages;          // JSON: a list of {"role", "content", ...}
  std::string_view tools = "null";    // JSON: a list of function descriptions, or null
  bool add_generation_prompt = true;  // end where the assistant's answer begins
  std::string_view variables = "{}";  // JSON: an object of further variables, such as {"enable_thinking": false}
  std::string_view bos_token = {};    // empty: the model has none
  std::string_view eos_token = {};
};

// Copies are cheap and share one parsed template. Safe for many threads at once.
class ChatTemplate {
 public:
  // Jinja source, at most 1 MB. Errors name the line.
  static Result<ChatTemplate> parse(std::string_view source);

  // Errors: input that is not JSON, a variable that names one of the fields above, what the template itself refuses
  // (raise_exception), and a template that works without end (a bound on the work; about a second).
  Result<std::string> render(const ChatInputs& inputs) const;

 private:
  explicit ChatTemplate(QnTemplate* handle);

  std::shared_ptr<const QnTemplate> handle_;
};

}  // namespace qnext
