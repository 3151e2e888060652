#include "server/openai_tools.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

namespace qnext {
namespace {

constexpr std::size_t kMaxTools = 128;

std::optional<std::vector<Tool>> read_tools(BodyReader& body, const Json& tools) {
  std::vector<Tool> out;
  const auto fail = [&](const std::string& where, const std::string& message) {
    body.fail(where, message);
    return std::nullopt;
  };
  if (!tools.is_array() || tools.size() > kMaxTools) {
    return fail("tools", fmt::format("'tools' must be a list of at most {} tools.", kMaxTools));
  }
  for (std::size_t i = 0; i < tools.size(); ++i) {
    const std::string where = fmt::format("tools[{}]", i);
    const Json function = tools[i].is_object() ? tools[i].value("function", Json()) : Json();
    if (!function.is_object() || tools[i].value("type", Json()) != "function") {
      return fail(where, fmt::format("'{}' must have the type 'function' and a 'function', an object.", where));
    }
    const Json name = function.value("name", Json()), parameters = function.value("parameters", Json::object());
    const std::string text = name.is_string() ? name.get<std::string>() : "";
    const auto is_fine = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '-'; };
    if (text.empty() || text.size() > 64 || !std::ranges::all_of(text, is_fine)) {
      return fail(where + ".function.name",
                  fmt::format("'{}.function.name' must be 1 to 64 of a-z, A-Z, 0-9, _ and -.", where));
    }
    if (std::ranges::find(out, text, &Tool::name) != out.end()) {
      return fail(where + ".function.name", fmt::format("Two tools are called '{}'.", text));
    }
    const Json strict = function.value("strict", Json());
    if (!strict.is_null() && !strict.is_boolean()) {
      return fail(where + ".function.strict", fmt::format("'{}.function.strict' must be true or false.", where));
    }
    if (!parameters.is_object()) {
      return fail(where + ".function.parameters",
                  fmt::format("'{}.function.parameters' must be an object, a JSON schema.", where));
    }
    out.push_back({.name = text, .parameters = parameters, .is_strict = strict == true});
  }
  return out;
}

}  // namespace

ToolRequest read_tool_request(BodyReader& body) {
  ToolRequest out;
  out.use.one_call = !body.flag("parallel_tool_calls").value_or(true);
  const Json* listed = body.any("tools");
  const Json* choice = body.any("tool_choice");
  auto tools = listed == nullptr ? std::vector<Tool>() : read_tools(body, *listed);
  if (!tools) return out;
  const Json wanted = choice == nullptr ? Json("auto") : *choice;
  if (wanted == "none" || (wanted == "auto" && tools->empty())) return out;
  std::vector<Tool> must;  // of which one has to be called
  if (wanted == "required") must = *tools;
  if (wanted.is_object() && wanted.value("type", Json()) == "function" &&
      wanted.value("function", Json()).is_object()) {
    const Json name = wanted["function"].value("name", Json());
    std::ranges::copy_if(*tools, std::back_inserter(must), [&](const Tool& tool) { return name == tool.name; });
  }
  if (must.empty() && wanted != "auto") {
    body.fail("tool_choice", "'tool_choice' must be none, auto, required, or a function that 'tools' has.");
    return out;
  }
  if (!must.empty()) {
    const bool many = wanted == "required" && !out.use.one_call;
    out.grammar = AnswerGrammar{GrammarKind::kLark, tool_call_grammar(must, many), "tools"};
  }
  out.template_tools = json_text(*listed);
  out.use.tools = std::make_shared<const std::vector<Tool>>(std::move(*tools));
  return out;
}

std::optional<AnswerGrammar> join_grammars(BodyReader& body, std::optional<AnswerGrammar> format,
                                           const ToolRequest& tools, bool may_think) {
  if (format && tools.grammar) {
    body.fail("tool_choice", "A call that must be made and 'response_format' exclude each other.");
    return std::nullopt;
  }
  if (tools.grammar) return tools.grammar;
  if (tools.use.tools == nullptr) return format;
  const bool many = !tools.use.one_call;
  if (format) {
    const bool is_object = format->kind == GrammarKind::kJsonObject;
    const Json schema = is_object                                  ? Json{{"type", "object"}}
                        : format->kind == GrammarKind::kJsonSchema ? parse_body(format->text).json
                                                                   : Json();
    if (!schema.is_object()) {
      body.fail(format->param,
                "Beside tools that may be called, an answer's form can be JSON, of a schema that is an object; or set "
                "'tool_choice' to none.");
      return std::nullopt;
    }
    return AnswerGrammar{GrammarKind::kLark, tool_call_grammar(*tools.use.tools, many, {.schema = schema}),
                         format->param};
  }
  if (std::ranges::none_of(*tools.use.tools, &Tool::is_strict)) return std::nullopt;
  return AnswerGrammar{GrammarKind::kLark,
                       tool_call_grammar(*tools.use.tools, many, {.text = true, .thinks = may_think}), "tools"};
}

}  // namespace qnext
