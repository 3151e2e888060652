#include "text/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "text/test_data.h"

namespace qnext {
namespace {

using ::testing::HasSubstr;
using ordered_json = nlohmann::ordered_json;  // the order of keys is part of what is rendered

ordered_json read_ordered_json(const std::string& name) {
  return ordered_json::parse(read_file(data_path(name)));
}

// The five templates of golden/text/chat.json over all of its conversations, byte for byte as transformers renders
// them.
TEST(ChatTemplate, MatchesTransformers) {
  const ordered_json golden = read_ordered_json("chat.json");
  std::map<std::string, ChatTemplate> templates;
  for (const auto& [name, source] : golden["templates"].items()) {
    Result<ChatTemplate> parsed = ChatTemplate::parse(source.get<std::string>());
    ASSERT_TRUE(parsed.ok()) << name << ": " << parsed.message();
    templates.emplace(name, *std::move(parsed));
  }
  ASSERT_EQ(golden["cases"].size(), 216u);
  for (const ordered_json& c : golden["cases"]) {
    ordered_json variables = ordered_json::object();
    if (c.contains("enable_thinking")) variables["enable_thinking"] = c["enable_thinking"];
    const std::string messages = c["messages"].dump();
    const std::string tools = c["tools"].dump();
    const Result<std::string> text = templates.at(c["template"])
                                         .render({.messages = messages,
                                                  .tools = tools,
                                                  .add_generation_prompt = c["add_generation_prompt"],
                                                  .variables = variables.dump()});
    ASSERT_TRUE(text.ok()) << c["template"] << ": " << text.message() << "\n" << messages;
    EXPECT_EQ(*text, c["text"].get<std::string>());
  }
}

// jinja2 itself, set up as transformers does, on what templates use: tests/data/text/make_jinja_cases.py.
TEST(ChatTemplate, MatchesJinja2) {
  const ordered_json jinja = read_ordered_json("jinja.json");
  const std::string variables = jinja["variables"];
  for (const ordered_json& c : jinja["cases"]) {
    const std::string source = c["template"];
    const Result<ChatTemplate> parsed = ChatTemplate::parse(source);
    Result<std::string> text = error("not rendered");
    if (parsed.ok()) {
      text = parsed->render(
          {.messages = "[]", .add_generation_prompt = false, .variables = variables, .bos_token = "<s>"});
    } else {
      text = error("{}", parsed.message());
    }
    if (c.contains("text")) {
      EXPECT_TRUE(text.ok()) << source << ": " << text.message();
      if (text.ok()) {
        EXPECT_EQ(*text, c["text"].get<std::string>()) << source;
      }
    } else {
      EXPECT_FALSE(text.ok()) << source << " rendered " << *text << ", jinja2: " << c["error"];
    }
  }
}

std::string render(std::string_view source, const ChatInputs& inputs = {.messages = "[]"}) {
  const Result<ChatTemplate> parsed = ChatTemplate::parse(source);
  if (!parsed.ok()) return "parse: " + parsed.message();
  const Result<std::string> text = parsed->render(inputs);
  return text.ok() ? *text : "error: " + text.message();
}

TEST(ChatTemplate, GivesTheVariablesOfTransformers) {
  EXPECT_EQ(render("{{ messages[0].role }} {{ tools }} {{ documents }} {{ add_generation_prompt }} {{ bos_token }}|"
                   "{{ eos_token is defined }} {{ depth }}",
                   {.messages = R"([{"role": "user"}])", .variables = R"({"depth": 3})", .bos_token = "<s>"}),
            "user None None True <s>|False 3");
}

TEST(ChatTemplate, PrintsTheBodyOfGenerationTags) {
  EXPECT_EQ(render("{% for i in [1, 2] %}a{%- generation -%} {{ i }} {%- endgeneration %}\nb{% endfor %}"), "a1ba2b");
}

TEST(ChatTemplate, KnowsTheTime) {
  EXPECT_THAT(render("{{ strftime_now('%Y-%m-%d') }}"), ::testing::MatchesRegex("20..-..-.."));
}

TEST(ChatTemplate, BadInputIsAnErrorThatSaysWhere) {
  EXPECT_THAT(render("a\n{% if %}"), HasSubstr("chat_template:2"));
  EXPECT_THAT(render("\xFF"), HasSubstr("not UTF-8"));
  EXPECT_THAT(render(std::string(2 << 20, 'a')), HasSubstr("at most"));
  EXPECT_THAT(render("{{ raise_exception('no system message') }}"), HasSubstr("no system message"));
  EXPECT_THAT(render("{{ nothing.at.all }}"), HasSubstr("undefined"));
  EXPECT_THAT(render("{{ tojson_of_nothing | tojson }}"), HasSubstr("tojson"));
  EXPECT_THAT(render("", {.messages = "[{]"}), HasSubstr("messages: not JSON"));
  EXPECT_THAT(render("", {.messages = "[]", .tools = ""}), HasSubstr("tools: not JSON"));
  EXPECT_THAT(render("", {.messages = "[]], \"x\": [[]"}), HasSubstr("messages: not JSON"));
  EXPECT_THAT(render("", {.messages = "[]", .variables = "[]"}), HasSubstr("expected a JSON object"));
  EXPECT_THAT(render("", {.messages = "[]", .variables = R"({"messages": []})"}), HasSubstr("\"messages\""));
  EXPECT_THAT(render("", {.messages = std::string(1 << 20, '[')}), HasSubstr("messages: not JSON"));
}

TEST(ChatTemplate, HostileTemplatesEndWithAnError) {
  const char* sources[] = {
      "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
      "{% for a in range(999999999) %}{% endfor %}",
      "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
      "{% set ns = namespace(s='x') %}{% for i in range(64) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
      "{{ 'x' * 999999999999 }}",
      "{{ [0] * 999999999999 }}",
      "{{ 'x'.replace('', 'y' * 1000000) | length }}{{ 'x'.join(range(99999)) * 99999 }}",
      "{{ '%999999999d' | format(1) }}",
      "{{ '{:>999999999}'.format(1) }}",
      "{{ 'x' | center(999999999) }}",
      "{{ 2 ** 99999999 }}",
      "{% include 'chat_template' %}",
      "{% extends 'chat_template' %}",
      "{{ messages.append(1) }}",
  };
  for (const char* source : sources) EXPECT_THAT(render(source), HasSubstr("error: ")) << source;
  for (const char* unit :
       {"(", "[", "{% if 1 %}", "{{ -", "{{ not ", "{{ a|b(", "{% for a in b %}", "{{ 1 if 1 else "}) {
    std::string source;
    while (source.size() < 50'000) source += unit;
    EXPECT_THAT(render("{{ " + source), HasSubstr("parse: ")) << unit;
  }
}

// Printing, comparing and freeing recurse into a value, so its depth and its size as a tree are bounded where it is
// stored.
TEST(ChatTemplate, ValuesThatGrowWithoutBoundAreErrors) {
  const std::string nest =
      "{% set ns = namespace(x=[]) %}{% for i in range(9999) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}";
  EXPECT_THAT(render(nest), HasSubstr("nests a value more than"));
  std::string doubled = "{% set a = ['x'] %}";
  for (int round = 0; round < 40; ++round) doubled += "{% set a = [a, a] %}";
  EXPECT_THAT(render(doubled + "{{ a ~ '' }}"), HasSubstr("fuel"));
  EXPECT_THAT(render("{% set ns = namespace() %}{% set ns.self = ns %}{{ ns }}"), HasSubstr("namespace"));
  EXPECT_THAT(render("{% set ns = namespace() %}{% set list = [ns] %}"), HasSubstr("namespace"));
  EXPECT_EQ(render("{% set ns = namespace(a=1) %}{% set other = ns %}{% set other.a = 2 %}{{ ns.a }}"), "2");
}

}  // namespace
}  // namespace qnext
