#include "server/tool_calls.h"

#include <gtest/gtest.h>

#include <random>

namespace qnext {
namespace {

const auto kTools = std::make_shared<const std::vector<Tool>>(std::vector<Tool>{
    {"add", Json::parse(R"({"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}}})")},
    {"say", Json::parse(R"({"type": "object", "properties": {"text": {"type": "string"}}})")},
    {"now", Json::object()}});

struct CallCase {
  std::string text, content;
  std::vector<ToolCall> calls;
};

const CallCase kCallCases[] = {
    {"", "", {}},
    {"Just text. \n", "Just text. \n", {}},
    {"a <tool> b </tool_call>", "a <tool> b </tool_call>", {}},
    {R"(<tool_call>
{"name": "add", "arguments": {"b": 1, "a": 2}}
</tool_call>)",
     "",
     {{"add", R"({"b": 1, "a": 2})"}}},
    {"Let me see.\n\n<tool_call>{\"name\": \"now\"}</tool_call>\n<tool_call>\n{\"arguments\": {\"text\": \"ж\"}, "
     "\"name\": "
     "\"say\"}</tool_call>\n",
     "Let me see.",
     {{"now", "{}"}, {"say", R"({"text":"ж"})"}}},
    {R"(<tool_call>{"name": "say", "arguments": {"text": "</tool_call> \" </tool_call>"}}</tool_call> done)",
     "done",
     {{"say", R"({"text": "</tool_call> \" </tool_call>"})"}}},
    {"<tool_call>\n<function=say>\n<parameter=text>\n12\n</parameter>\n</function>\n</tool_call>",
     "",
     {{"say", R"({"text": "12"})"}}},
    {"<tool_call><function=say><parameter=text>\n\na \"b\"\\\n<b>\tж</p\n\n</parameter></function></tool_call>",
     "",
     {{"say", R"({"text": "\na \"b\"\\\n<b>\u0009ж</p\n"})"}}},
    {"<tool_call><function=say><parameter=text></parameter></function></tool_call>", "", {{"say", R"({"text": ""})"}}},
    {"<tool_call>\n<function=say>what?<parameter=x>[1,\n2]</parameter><parameter=y>so</parameter>\n</tool_call>!",
     "!",
     {{"say", R"({"x": [1,2], "y": "so"})"}}},
    {"<tool_call><function=add><parameter=a>1.5</parameter><parameter=b>\n[two\n</parameter></function></tool_call>",
     "",
     {{"add", R"({"a": 1.5, "b": "[two"})"}}},
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
    {" <tool_call>\n{\"name\": \"add\", \"argum", " <tool_call>\n{\"name\": \"add\", \"argum", {}},
    {"ok\n<tool_call><function=add", "ok\n<tool_call><function=add", {}},
    // Cut off, or broken, after it has become one: half a call is no valid JSON, so that nobody makes it.
    {"ok\n<tool_call><function=add><parameter=a>1", "ok", {{"add", R"({"a": )"}}},
    {"<tool_call><function=say><parameter=text>rm -r ./a</para", "", {{"say", R"({"text": "rm -r ./a)"}}},
    {R"(<tool_call>{"name": "say", "arguments": {"text": "rm -r ./a)", "", {{"say", R"({"text": "rm -r ./a)"}}},
    {R"(<tool_call>{"name": "add", "arguments": {"a": [1}</tool_call> x)", "x", {{"add", R"({"a": [1})"}}},
    {R"(<tool_call>{"name": "add", "arguments": {"a": 1}<tool_call>{"name": "now", "arguments": {}})",
     "",
     {{"add", R"({"a": 1})"}, {"now", "{}"}}},
    {"<tool_call><function=nope></function></tool_call>", "<tool_call><function=nope></function></tool_call>", {}},
    {"<tool_cal", "<tool_cal", {}},
};

TEST(ToolCallParser, PartsTextWhateverTheCuts) {
  for (const CallCase& c : kCallCases) {
    for (std::size_t step = 1; step <= c.text.size() + 1; ++step) {
      SCOPED_TRACE(testing::Message() << c.text << ", " << step << " at a time");
      ToolCallParser parser(kTools);
      ToolCallParser::Delta all;
      const auto add = [&](ToolCallParser::Delta delta) {
        all.content += delta.content;
        append_calls(all.calls, std::move(delta.calls));
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

TEST(ToolCallParser, ArgumentsComeAsTheyAreWritten) {
  using Calls = std::vector<ToolCall>;
  ToolCallParser json(kTools);
  EXPECT_EQ(json.feed("<tool_call>\n{\"name\": \"say\", \"arguments\": ").calls, Calls{});
  EXPECT_EQ(json.feed("{\"te").calls, (Calls{{"say", "{\"te"}}));
  EXPECT_EQ(json.feed("xt\": \"a\\").calls, (Calls{{"", "xt\": \"a\\"}}));
  EXPECT_EQ(json.feed("\"}").calls, (Calls{{"", "\"}"}}));
  EXPECT_EQ(json.feed("\"}}\n</tool_call>\n<tool_call>{\"name\": \"now\", \"arguments\": {}").calls,
            (Calls{{"", "\"}"}, {"now", "{}"}}));

  ToolCallParser xml(kTools);
  EXPECT_EQ(xml.feed("<tool_call><function=say>").calls, (Calls{{"say", "{"}}));
  EXPECT_EQ(xml.feed("<parameter=text>\none").calls, (Calls{{"", "\"text\": \"one"}}));
  EXPECT_EQ(xml.feed("\ntwo\n").calls, (Calls{{"", "\\ntwo"}}));
  EXPECT_EQ(xml.feed("</parameter></function>").calls, (Calls{{"", "\"}"}}));
}

TEST(ToolCallParser, NothingComesAfterTheOnlyCall) {
  ToolCallParser parser(kTools, /*one_call=*/true);
  const std::string call = "<tool_call>{\"name\": \"now\", \"arguments\": {}}</tool_call>";
  EXPECT_EQ(parser.feed("a" + call.substr(0, 20)).content, "a");
  EXPECT_FALSE(parser.is_done());
  const auto delta = parser.feed(call.substr(20) + call + "b");
  EXPECT_EQ(delta.calls, (std::vector<ToolCall>{{"now", "{}"}}));
  EXPECT_EQ(delta.content + parser.finish().content, "");
  EXPECT_TRUE(parser.is_done());
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
                               "{\"name\": \"add\", \"arguments\": {\"a\": 1",
                               "<",
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
    std::vector<ToolCall> calls;
    for (std::size_t i = 0; i < text.size();) {
      const std::size_t step = 1 + random() % 9;
      const auto delta = parser.feed(std::string_view(text).substr(i, step));
      content += delta.content;
      append_calls(calls, delta.calls);
      i += step;
    }
    content += parser.finish().content;
    EXPECT_EQ(parser.has_calls(), !calls.empty());
    for (const ToolCall& one : calls) EXPECT_EQ(one.name, "add") << text;
    if (calls.empty()) {
      EXPECT_EQ(content, text);
    } else {
      EXPECT_LT(content.size(), text.size());
    }
  }
}

}  // namespace
}  // namespace qnext
