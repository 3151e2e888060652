// An answer's text, in two pieces and in one: never a crash, the same calls and content, and where there is no call,
// every byte comes back.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "server/tool_calls.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t num_bytes) {
  static const auto tools = std::make_shared<const std::vector<qnext::Tool>>(std::vector<qnext::Tool>{
      {"f", qnext::Json::parse(R"({"properties": {"p": {"type": "string"}, "q": 1}})")}, {"g", qnext::Json::object()}});
  const std::string_view text(reinterpret_cast<const char*>(data), num_bytes);
  const auto parse = [&](std::size_t cut) {
    qnext::ToolCallParser parser(tools, num_bytes % 2 == 1);
    qnext::ToolCallParser::Delta all;
    const auto add = [&](qnext::ToolCallParser::Delta delta) {
      all.content += delta.content;
      qnext::append_calls(all.calls, std::move(delta.calls));
    };
    add(parser.feed(text.substr(0, cut)));
    add(parser.feed(text.substr(cut)));
    add(parser.finish());
    if (parser.has_calls() == all.calls.empty()) std::abort();
    return all;
  };
  const auto whole = parse(num_bytes), cut = parse(num_bytes == 0 ? 0 : data[0] % (num_bytes + 1));
  if (whole.content != cut.content || whole.calls != cut.calls) std::abort();
  for (const qnext::ToolCall& call : whole.calls) {
    if (call.name != "f" && call.name != "g") std::abort();
  }
  if (whole.calls.empty() && whole.content != text) std::abort();
  return 0;
}
