#include "server/tool_calls.h"

#include <gtest/gtest.h>

#include <random>

namespace qnext {
namespace {

const auto kTools = std::make_shared<const std::vector<Tool>>(std::vector<Tool>{
    {"add", Json::parse(R"({"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}}})")},
    {"say", Json::parse(R"({"type": "object", "properties": {"text": {"type": "string"}}})")},
    {"now", Json::object()}});

struct Case {
  std::string text, content;
  std::vector<ToolCall> calls;
};

const Case kCases[] = {
    {"", "", {}},
    {"Just text. \n", "Just text. \n", {}},
    {"a <tool> b </tool_call>", "a <tool> b </tool_call>", {}},
    {R"(<tool_call>
{"name": "add", "arguments": {"b": 1, "a": 2}}
</tool_call>)",
     "",
     {{"add", R"({"b":1,"a":2})"}}},
    {"Let me see.\n\n<tool_call>{\"name\": \"now\"}</tool_call>\n<tool_call>\n{\"arguments\": {\"text\": \"ж\"}, "
     "\"name\": "
     "\"say\"}</tool_call>\n",
     "Let me see.",
     {{"now", "{}"}, {"say", R"({"text":"ж"})"}}},
    {R"(<tool_call>{"name": "say", "arguments": {"text": "</tool_call> \" </tool_call>"}}</tool_call> done)",
     "done",
     {{"say", R"({"text":"</tool_call> \" </tool_call>"})"}}},
    {"<tool_call>\n<function=say>\n<parameter=text>\n12\n</parameter>\n</function>\n</tool_call>",
     "",
     {{"say", R"({"text":"12"})"}}},
    {"<tool_call><function=add><parameter=a>1.5</parameter><parameter=b>\n[two\n</parameter></function></tool_call>",
     "",
     {{"add", R"({"a":1.5,"b":"[two"})"}}},
    {"<tool_call>\n<function=now>\n</function>\n</tool_call>", "", {{"now", "{}"}}},
    // What only looks like a call.
    {"x  <tool_call>{\"name\": \"rm\", \"arguments\": {}}</tool_call>  y",
     "x  <tool_call>{\"name\": \"rm\", \"arguments\": {}}</tool_call>  y",
     {}},
    {"<tool_call>{\"name\": \"add\", \"arguments\": [1]}</tool_call>",
     "<tool_call>{\"name\": \"add\", \"arguments\": [1]}</tool_call>",
     {}},
    {"<tool_call>{name: add}</tool_call><tool_call>{\"name\": \"now\"}</tool_call>",
     "<tool_call>{name: add}</tool_call>",
     {{"now", "{}"}}},
    {"<tool_call></tool_call>", "<tool_call></tool_call>", {}},
    {"<tool_call>\n{\"name\": \"add\", \"argum", "<tool_call>\n{\"name\": \"add\", \"argum", {}},
    {"ok\n<tool_call><function=add><parameter=a>1", "ok\n<tool_call><function=add><parameter=a>1", {}},
    {"<tool_call><function=nope></function></tool_call>", "<tool_call><function=nope></function></tool_call>", {}},
    {"<tool_cal", "<tool_cal", {}},
};

TEST(ToolCallParser, PartsTextWhateverTheCuts) {
  for (const Case& c : kCases) {
    for (std::size_t step = 1; step <= c.text.size() + 1; ++step) {
      SCOPED_TRACE(testing::Message() << c.text << ", " << step << " at a time");
      ToolCallParser parser(kTools);
      ToolCallParser::Delta all;
      const auto add = [&](ToolCallParser::Delta delta) {
        all.content += delta.content;
        for (ToolCall& call : delta.calls) all.calls.push_back(std::move(call));
      };
      for (std::size_t i = 0; i < c.text.size(); i += step) add(parser.feed(c.text.substr(i, step)));
      add(parser.finish());
      EXPECT_EQ(all.content, c.content);
      EXPECT_EQ(all.calls, c.calls);
    }
  }
}

TEST(ToolCallParser, TextComesAsSoonAsItIsCertain) {
  ToolCallParser parser(kTools);
  EXPECT_EQ(parser.feed("one ").content, "one");
  EXPECT_EQ(parser.feed("two <b").content, " two <b");
  EXPECT_EQ(parser.feed(" <tool_").content, "");
  EXPECT_EQ(parser.feed("box>").content, " <tool_box>");
  EXPECT_EQ(parser.feed("\n<tool_call>{\"name\": \"now\"}</tool_call").content, "");
  EXPECT_EQ(parser.feed(">").calls.size(), 1U);
}

// Whatever comes: no crash, and without a call, every byte.
TEST(ToolCallParser, RandomSplices) {
  const std::string parts[] = {"<tool_call>",
                               "</tool_call>",
                               "<function=add>",
                               "</function>",
                               "<parameter=a>",
                               "</parameter>",
                               "{\"name\": \"add\", \"arguments\": {}}",
                               "{\"name\":",
                               "\"",
                               "\\",
                               "}",
                               "\n",
                               " ",
                               "ж",
                               "\xff",
                               "[[[["};
  std::mt19937 random(3);
  for (int round = 0; round < 3000; ++round) {
    std::string text;
    for (std::size_t i = random() % 12; i > 0; --i) text += parts[random() % std::size(parts)];
    ToolCallParser parser(kTools);
    std::string content;
    std::size_t num_calls = 0;
    for (std::size_t i = 0; i < text.size();) {
      const std::size_t step = 1 + random() % 9;
      const auto delta = parser.feed(std::string_view(text).substr(i, step));
      content += delta.content;
      num_calls += delta.calls.size();
      i += step;
    }
    content += parser.finish().content;
    if (num_calls == 0) {
      EXPECT_EQ(content, text);
    } else {
      EXPECT_LT(content.size(), text.size());
    }
  }
}

}  // namespace
}  // namespace qnext
