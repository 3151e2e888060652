#include "server/tool_calls.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/partial_match.h"

namespace qnext {
namespace {

constexpr std::string_view kOpen = "<tool_call>", kClose = "</tool_call>";
constexpr std::string_view kFunctionEnd = "</function>", kParameterEnd = "</parameter>";
constexpr std::string_view kBlanks = " \t\r\n";
constexpr std::size_t kMaxDepth = 64;

std::string_view trimmed(std::string_view text) {
  const std::size_t begin = text.find_first_not_of(kBlanks);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kBlanks) + 1 - begin);
}

// Discarded when it is no JSON, or deeper than anyone's arguments.
Json parse_json(std::string_view text) {
  const auto too_deep = [](int depth, Json::parse_event_t, Json&) {
    return static_cast<std::size_t>(depth) <= kMaxDepth;
  };
  return Json::parse(text, too_deep, /*allow_exceptions=*/false);
}

// Reads a text's beginning, of which more may come.
class Head {
 public:
  explicit Head(std::string_view text) : rest_(text) {}

  // What it can't be sure of yet is kMore; what does not go on as asked is kNo.
  enum class Found { kYes, kMore, kNo };

  Found take(std::string_view word) {
    rest_.remove_prefix(std::min(rest_.find_first_not_of(kBlanks), rest_.size()));
    if (rest_.starts_with(word)) {
      rest_.remove_prefix(word.size());
      return Found::kYes;
    }
    return word.starts_with(rest_) ? Found::kMore : Found::kNo;
  }
  // Up to `end`, which is taken, too.
  Found take_until(char end, std::string_view& out) {
    const std::size_t size = rest_.find_first_of(std::string{end, '\\', '\n'});
    if (size == std::string_view::npos) return Found::kMore;
    if (rest_[size] != end) return Found::kNo;
    out = trimmed(rest_.substr(0, size));
    rest_.remove_prefix(size + 1);
    return Found::kYes;
  }
  std::size_t num_left() const { return rest_.size(); }

 private:
  std::string_view rest_;
};
using Found = Head::Found;

// {"name": "f", "arguments": -- as far as the object that comes next.
Found take_json_head(Head& head, std::string_view& name) {
  for (const std::string_view word : {"{", "\"name\"", ":", "\""}) {
    if (const Found found = head.take(word); found != Found::kYes) return found;
  }
  if (const Found found = head.take_until('"', name); found != Found::kYes) return found;
  for (const std::string_view word : {",", "\"arguments\"", ":", "{"}) {
    if (const Found found = head.take(word); found != Found::kYes) return found;
  }
  return Found::kYes;
}

// <function=f>
Found take_xml_head(Head& head, std::string_view& name) {
  const Found found = head.take("<function=");
  return found == Found::kYes ? head.take_until('>', name) : found;
}

// A part of a JSON string's inside.
std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += {'\\', c};
    } else if (c == '\n') {
      out += "\\n";
    } else if (byte < 0x20) {
      out += fmt::format("\\u{:04x}", byte);
    } else {
      out += c;
    }
  }
  return out;
}

// The tag's own newlines belong to no value.
std::string_view without_newlines(std::string_view text) {
  if (text.starts_with('\n')) text.remove_prefix(1);
  if (text.ends_with('\n')) text.remove_suffix(1);
  return text;
}

// Whether a JSON text ends inside a string: there "</tool_call>" may be said, too.
bool ends_in_string(std::string_view text) {
  bool inside = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (inside && text[i] == '\\') {
      ++i;
    } else if (text[i] == '"') {
      inside = !inside;
    }
  }
  return inside;
}

}  // namespace

void append_calls(std::vector<ToolCall>& calls, std::vector<ToolCall> more) {
  for (ToolCall& call : more) {
    if (call.name.empty() && !calls.empty()) {
      calls.back().arguments += call.arguments;
    } else {
      calls.push_back(std::move(call));
    }
  }
}

const Tool* ToolCallParser::find(std::string_view name) const {
  const auto found = std::ranges::find(*tools_, name, &Tool::name);
  return found == tools_->end() ? nullptr : &*found;
}

Json ToolCallParser::parameter_schema(const std::string& name) const {
  const Json properties = tool_->parameters.value("properties", Json::object());
  return properties.is_object() ? properties.value(name, Json::object()) : Json::object();
}

ToolCallParser::Delta ToolCallParser::feed(std::string_view piece) {
  held_ += piece;
  Delta out;
  while (step(out)) {
  }
  return out;
}

ToolCallParser::Delta ToolCallParser::finish() {
  const bool only_blanks = held_.find_first_not_of(kBlanks) == std::string::npos;
  const bool is_content = state_ == State::kContent && !(after_call_ && only_blanks);
  return {.content = is_content ? std::exchange(held_, "") : "", .calls = {}};
}

// False: more text must come first.
bool ToolCallParser::step(Delta& out) {
  switch (state_) {
    case State::kContent:
      return take_content(out);
    case State::kArguments:
      return take_arguments(out);
    case State::kParameters:
      return take_parameters(out);
    case State::kText:
      return take_text(out);
    case State::kValue:
      return take_value(out);
    case State::kClosing:
      return take_end();
    case State::kDone:
      held_.clear();
  }
  return false;
}

bool ToolCallParser::take_content(Delta& out) {
  if (after_call_) held_.erase(0, held_.find_first_not_of(kBlanks));
  const std::size_t open = held_.find(kOpen);
  // Blanks wait: before a call they are dropped.
  const std::size_t certain = open != std::string::npos ? open : held_.size() - partial_match(held_, kOpen);
  const std::size_t last = std::string_view(held_).substr(0, certain).find_last_not_of(kBlanks);
  const std::size_t length = last == std::string_view::npos ? 0 : last + 1;
  if (length > 0) after_call_ = false;
  out.content += held_.substr(0, length);
  held_.erase(0, length);
  return open != std::string::npos && begin_call(out);
}

// Requires held_ to begin with blanks and a tag.
bool ToolCallParser::begin_call(Delta& out) {
  const std::size_t num_before = held_.find(kOpen) + kOpen.size();
  const std::string_view body = std::string_view(held_).substr(num_before);
  for (const bool is_json : {true, false}) {
    Head head(body);
    std::string_view name;
    const Found found = is_json ? take_json_head(head, name) : take_xml_head(head, name);
    if (found == Found::kMore) return false;
    const Tool* tool = found == Found::kYes ? find(name) : nullptr;
    if (tool == nullptr) continue;
    depth_ = 1;
    in_string_ = in_escape_ = has_parameters_ = false;
    start(out, *tool, held_.size() - head.num_left(), "{", is_json ? State::kArguments : State::kParameters);
    return true;
  }
  return take_whole_call(out);
}

void ToolCallParser::start(Delta& out, const Tool& tool, std::size_t num_bytes, std::string arguments, State state) {
  held_.erase(0, num_bytes);
  out.calls.push_back({tool.name, std::move(arguments)});
  tool_ = &tool;
  has_calls_ = true;
  state_ = state;
}

// Names come last in it, or arguments not at all; or it is no call.
bool ToolCallParser::take_whole_call(Delta& out) {
  const std::size_t open = held_.find(kOpen);
  for (std::size_t close = held_.find(kClose); close != std::string::npos; close = held_.find(kClose, close + 1)) {
    const std::string_view body =
        trimmed(std::string_view(held_).substr(open + kOpen.size(), close - open - kOpen.size()));
    const Json call = parse_json(body);
    const bool has_name = call.is_object() && call.contains("name") && call["name"].is_string();
    const Tool* tool = has_name ? find(call["name"].get<std::string>()) : nullptr;
    const Json arguments = tool != nullptr ? call.value("arguments", Json::object()) : Json();
    if (arguments.is_object()) {
      start(out, *tool, close, arguments.dump(-1, ' ', false, Json::error_handler_t::replace), State::kClosing);
      return true;
    }
    if (body.starts_with('{') && ends_in_string(body)) continue;
    out.content += held_.substr(0, close + kClose.size());
    held_.erase(0, close + kClose.size());
    after_call_ = false;
    return true;
  }
  return false;
}

bool ToolCallParser::take_arguments(Delta& out) {
  std::size_t size = 0;
  bool goes_on = true;
  for (; goes_on && size < held_.size(); ++size) {
    const char c = held_[size];
    if (in_escape_) {
      in_escape_ = false;
    } else if (c == '"') {
      in_string_ = !in_string_;
    } else if (in_string_) {
      in_escape_ = c == '\\';
    } else if (c == '{' || c == '[') {
      ++depth_;
    } else if (c == '}' || c == ']') {
      goes_on = --depth_ > 0;
    } else if (c == '<') {  // no JSON: the tag that ends a broken call, say
      goes_on = false;
      break;
    }
  }
  if (size > 0) append_calls(out.calls, {{"", held_.substr(0, size)}});
  held_.erase(0, size);
  if (!goes_on) state_ = State::kClosing;
  return !goes_on;
}

bool ToolCallParser::take_parameters(Delta& out) {
  held_.erase(0, std::min(held_.find_first_not_of(kBlanks), held_.size()));
  if (held_.empty()) return false;
  for (const std::string_view end : {kFunctionEnd, kClose}) {
    if (held_.starts_with(end)) {
      append_calls(out.calls, {{"", "}"}});
      state_ = State::kClosing;
      return true;
    }
    if (end.starts_with(held_)) return false;
  }
  Head head(held_);
  std::string_view name;
  Found found = head.take("<parameter=");
  if (found == Found::kYes) found = head.take_until('>', name);
  if (found == Found::kMore) return false;
  if (found == Found::kNo) {  // nothing that belongs here: on to the next tag
    held_.erase(0, std::min(held_.find('<', 1), held_.size()));
    return true;
  }
  const std::string key(name);
  append_calls(out.calls, {{"", fmt::format("{}\"{}\": ", has_parameters_ ? ", " : "", escaped(key))}});
  has_parameters_ = true;
  const Json schema = parameter_schema(key);
  const bool is_text = schema.is_object() && schema.value("type", Json()) == "string";
  if (is_text) append_calls(out.calls, {{"", "\""}});
  at_text_begin_ = true;
  state_ = is_text ? State::kText : State::kValue;
  held_.erase(0, held_.size() - head.num_left());
  return true;
}

bool ToolCallParser::take_text(Delta& out) {
  if (held_.empty()) return false;
  // The tag's own newlines belong to no value.
  if (at_text_begin_ && held_.front() == '\n') held_.erase(0, 1);
  at_text_begin_ = false;
  const std::size_t end = held_.find(kParameterEnd);
  const bool is_whole = end != std::string::npos;
  std::size_t size = is_whole ? end : held_.size() - partial_match(held_, kParameterEnd);
  if (size > 0 && held_[size - 1] == '\n') --size;
  if (size > 0 || is_whole) {
    append_calls(out.calls, {{"", escaped(std::string_view(held_).substr(0, size)) + (is_whole ? "\"" : "")}});
  }
  held_.erase(0, is_whole ? end + kParameterEnd.size() : size);
  if (is_whole) state_ = State::kParameters;
  return is_whole;
}

bool ToolCallParser::take_value(Delta& out) {
  const std::size_t end = held_.find(kParameterEnd);
  if (end == std::string::npos) return false;
  const std::string_view text = without_newlines(std::string_view(held_).substr(0, end));
  const Json parsed = parse_json(text);
  const Json value = parsed.is_discarded() ? Json(std::string(text)) : parsed;
  append_calls(out.calls, {{"", value.dump(-1, ' ', false, Json::error_handler_t::replace)}});
  held_.erase(0, end + kParameterEnd.size());
  state_ = State::kParameters;
  return true;
}

// What a call's end tag, or the next call, comes after is dropped.
bool ToolCallParser::take_end() {
  const std::size_t close = held_.find(kClose), open = held_.find(kOpen);
  if (close == std::string::npos && open == std::string::npos) {
    held_.erase(0, held_.size() - std::max(partial_match(held_, kClose), partial_match(held_, kOpen)));
    return false;
  }
  held_.erase(0, close < open ? close + kClose.size() : open);
  after_call_ = true;
  state_ = one_call_ ? State::kDone : State::kContent;
  return true;
}

std::string tool_call_grammar(const std::vector<Tool>& tools, bool many, const CallsBeside& beside) {
  Json calls = Json::array();
  for (const Tool& tool : tools) {
    const bool is_bound = !beside.text || tool.is_strict;
    calls.push_back(
        {{"type", "object"},
         {"properties",
          {{"name", {{"const", tool.name}}}, {"arguments", is_bound ? tool.parameters : Json{{"type", "object"}}}}},
         {"required", {"name", "arguments"}},
         {"additionalProperties", false}});
  }
  const auto blanks = [](const char* some) { return Json{{"whitespace_pattern", fmt::format("[{}]{{1,64}}", some)}}; };
  const Json call = {{"anyOf", calls}, {"x-guidance", blanks(R"(\x20\x0A)")}};
  std::string out = fmt::format("one: <tool_call> \"\\n\" call \"\\n\" </tool_call>\ncall: %json {}\n", call.dump());
  const std::string some = many ? "one (\"\\n\" one)*" : "one";
  if (beside.text) {
    const std::string thought = beside.thinks ? "(<think> TEXT? </think>)? " : "";
    return out + "start: " + thought + "TEXT? (one TEXT?)*\nTEXT: /(.|\\n)+/\n";
  }
  if (!beside.schema) return out + "start: " + some + "\n";
  Json schema = *beside.schema;
  if (!schema.contains("x-guidance")) schema["x-guidance"] = blanks(R"(\x20\x0A\x0D\x09)");
  return out + "start: " + some + " | answer\nanswer: %json " + json_text(schema) + "\n";
}

}  // namespace qnext
