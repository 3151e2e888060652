// The body of a request, chat or plain: prepared, or an error that names what is wrong.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "server/body_reader.h"
#include "server/openai.h"

namespace {

std::string read(const char* name) {
  std::ifstream file(std::filesystem::path(QNEXT_SOURCE_DIR) / "tests/data/text/tokenizer-small" / name);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

qnext::ServedModel make_model() {
  qnext::ServedModel out{.name = "m",
                         .aliases = {},
                         .tokenizer = qnext::Tokenizer::from_json(read("tokenizer.json")).value(),
                         .chat_template = qnext::ChatTemplate::parse(read("chat_template.jinja")).value(),
                         .bos_token = "",
                         .eos_token = "<|im_end|>",
                         .default_sampling = {},
                         .stop_token_ids = {2041},
                         .vocabulary_tokens = 2048,
                         .context_tokens = 4096};
  out.grammars = std::make_shared<qnext::AnswerGrammars>(out.tokenizer, out.stop_token_ids, out.vocabulary_tokens);
  return out;
}

void check(const qnext::Prepared& prepared) {
  const auto* error = std::get_if<qnext::ApiError>(&prepared);
  if (error != nullptr && (error->message.empty() || error->status < 400 || error->status >= 500)) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t num_bytes) {
  static const qnext::ServedModel model = make_model();
  const qnext::ParsedBody body = qnext::parse_body(std::string(reinterpret_cast<const char*>(data), num_bytes));
  if (body.error) return 0;
  check(qnext::prepare_chat(body.json, model));
  check(qnext::prepare_completion(body.json, model));
  (void)qnext::render_chat(body.json, model);
  return 0;
}
