// An answer's text, in two pieces: never a crash, and where there is no call, every byte comes back.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "server/tool_calls.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t num_bytes) {
  static const auto tools = std::make_shared<const std::vector<qnext::Tool>>(std::vector<qnext::Tool>{
      {"f", qnext::Json::parse(R"({"properties": {"p": {"type": "string"}, "q": 1}})")}, {"g", qnext::Json::object()}});
  const std::string_view text(reinterpret_cast<const char*>(data), num_bytes);
  const std::size_t cut = num_bytes == 0 ? 0 : data[0] % (num_bytes + 1);
  qnext::ToolCallParser parser(tools);
  std::string content;
  bool has_calls = false;
  const auto add = [&](const qnext::ToolCallParser::Delta& delta) {
    content += delta.content;
    has_calls = has_calls || !delta.calls.empty();
    for (const qnext::ToolCall& call : delta.calls) {
      if (!qnext::Json::parse(call.arguments).is_object()) std::abort();
    }
  };
  add(parser.feed(text.substr(0, cut)));
  add(parser.feed(text.substr(cut)));
  add(parser.finish());
  if (!has_calls && content != text) std::abort();
  return 0;
}
