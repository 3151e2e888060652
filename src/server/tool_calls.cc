#include "server/tool_calls.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/partial_match.h"

namespace qnext {
namespace {

constexpr std::string_view kOpen = "<tool_call>", kClose = "</tool_call>";
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

// `<key=name>` at the beginning of `text`, which is taken from it.
std::optional<std::string_view> take_tag(std::string_view& text, std::string_view key) {
  if (!text.starts_with(key)) return std::nullopt;
  const std::size_t end = text.find('>');
  if (end == std::string_view::npos) return std::nullopt;
  const std::string_view name = trimmed(text.substr(key.size(), end - key.size()));
  text.remove_prefix(end + 1);
  return name;
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

const Tool* ToolCallParser::find(std::string_view name) const {
  const auto found = std::ranges::find(*tools_, name, &Tool::name);
  return found == tools_->end() ? nullptr : &*found;
}

std::optional<ToolCall> ToolCallParser::parse_xml(std::string_view body) const {
  const auto name = take_tag(body, "<function=");
  const Tool* tool = name ? find(*name) : nullptr;
  if (tool == nullptr) return std::nullopt;
  const Json properties = tool->parameters.value("properties", Json::object());
  Json arguments = Json::object();
  for (body = trimmed(body); !body.starts_with("</function>"); body = trimmed(body)) {
    const auto parameter = take_tag(body, "<parameter=");
    constexpr std::string_view kEnd = "</parameter>";
    const std::size_t end = body.find(kEnd);
    if (!parameter || end == std::string_view::npos) return std::nullopt;
    const std::string_view value = without_newlines(body.substr(0, end));
    const std::string key(*parameter);
    const Json schema = properties.is_object() ? properties.value(key, Json()) : Json();
    const bool is_text = schema.is_object() && schema.value("type", Json()) == "string";
    const Json parsed = is_text ? Json(Json::value_t::discarded) : parse_json(value);
    arguments[key] = parsed.is_discarded() ? Json(std::string(value)) : parsed;
    body.remove_prefix(end + kEnd.size());
  }
  return ToolCall{tool->name, arguments.dump(-1, ' ', false, Json::error_handler_t::replace)};
}

std::optional<ToolCall> ToolCallParser::parse_call(std::string_view body) const {
  body = trimmed(body);
  if (body.starts_with('<')) return parse_xml(body);
  const Json call = parse_json(body);
  if (!call.is_object() || !call.contains("name") || !call["name"].is_string()) return std::nullopt;
  const Tool* tool = find(call["name"].get<std::string>());
  const Json arguments = call.value("arguments", Json::object());
  if (tool == nullptr || !arguments.is_object()) return std::nullopt;
  return ToolCall{tool->name, arguments.dump(-1, ' ', false, Json::error_handler_t::replace)};
}

// Requires held_ to begin with a tag. False: what follows it must come first.
bool ToolCallParser::take_call(Delta& out) {
  for (std::size_t close = held_.find(kClose); close != std::string::npos; close = held_.find(kClose, close + 1)) {
    const std::string_view body = std::string_view(held_).substr(kOpen.size(), close - kOpen.size());
    if (auto call = parse_call(body)) {
      out.calls.push_back(std::move(*call));
      held_.erase(0, close + kClose.size());
      after_call_ = true;
      return true;
    }
    if (trimmed(body).starts_with('{') && ends_in_string(body)) continue;
    out.content += held_.substr(0, close + kClose.size());
    held_.erase(0, close + kClose.size());
    after_call_ = false;
    return true;
  }
  return false;
}

ToolCallParser::Delta ToolCallParser::feed(std::string_view piece) {
  held_ += piece;
  Delta out;
  for (;;) {
    if (after_call_) held_.erase(0, held_.find_first_not_of(kBlanks));
    const std::size_t open = held_.find(kOpen);
    // Blanks wait: before a call they are dropped.
    const std::size_t certain = open != std::string::npos ? open : held_.size() - partial_match(held_, kOpen);
    const std::size_t last = std::string_view(held_).substr(0, certain).find_last_not_of(kBlanks);
    const std::size_t length = last == std::string_view::npos ? 0 : last + 1;
    if (length > 0) after_call_ = false;
    out.content += held_.substr(0, length);
    held_.erase(0, length);
    if (open == std::string::npos) return out;
    const std::string blanks = held_.substr(0, open - length);
    held_.erase(0, blanks.size());
    const std::size_t num_calls = out.calls.size();
    std::string before = std::exchange(out.content, "");
    const bool taken = take_call(out);
    if (!taken) {
      held_.insert(0, blanks);
      out.content = std::move(before);
      return out;
    }
    out.content.insert(0, out.calls.size() == num_calls ? before + blanks : before);  // it was no call
  }
}

ToolCallParser::Delta ToolCallParser::finish() {
  const bool only_blanks = held_.find_first_not_of(kBlanks) == std::string::npos;
  return {.content = after_call_ && only_blanks ? "" : std::exchange(held_, ""), .calls = {}};
}

std::string tool_call_grammar(const std::vector<Tool>& tools, bool many) {
  Json calls = Json::array();
  for (const Tool& tool : tools) {
    calls.push_back({{"type", "object"},
                     {"properties", {{"name", {{"const", tool.name}}}, {"arguments", tool.parameters}}},
                     {"required", {"name", "arguments"}},
                     {"additionalProperties", false}});
  }
  const Json schema = {{"anyOf", calls}, {"x-guidance", {{"whitespace_pattern", R"([\x20\x0A]{1,64})"}}}};
  return fmt::format("start: one{}\none: <tool_call> \"\\n\" call \"\\n\" </tool_call>\ncall: %json {}\n",
                     many ? " (\"\\n\" one)*" : "", schema.dump());
}

}  // namespace qnext
