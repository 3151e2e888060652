#include "server/body_reader.h"

#include <fmt/format.h>

#include <cmath>
#include <vector>

namespace qnext {
namespace {

constexpr std::size_t kMaxDepth = 64;
constexpr std::size_t kMaxItems = 1024;  // of an object: each is looked for among those before it

// Why parsing should not start, if so: brackets that nest too deep, an object that has too many items.
std::optional<std::string> find_excess(const std::string& text) {
  struct Open {
    bool is_object;
    std::size_t num_items;
  };
  std::vector<Open> open;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      if (open.size() == kMaxDepth) return fmt::format("The body nests deeper than {} levels.", kMaxDepth);
      open.push_back({c == '{', 1});
    } else if ((c == '}' || c == ']') && !open.empty()) {
      open.pop_back();
    } else if (c == ',' && !open.empty() && ++open.back().num_items > kMaxItems && open.back().is_object) {
      return fmt::format("An object of the body has more than {} items.", kMaxItems);
    }
  }
  return std::nullopt;
}

std::string shown(const Json& value) {
  constexpr std::size_t kMaxShown = 60;
  std::string text = json_text(value);
  if (text.size() <= kMaxShown) return text;
  std::size_t end = kMaxShown;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;  // not within a character
  return text.substr(0, end) + "...";
}

// 1.0 is an integer, too, as JSON Schema has it.
std::optional<std::int64_t> exact_integer(const Json& value) {
  if (value.is_number_unsigned() && value.get<std::uint64_t>() > std::uint64_t{INT64_MAX}) return std::nullopt;
  if (value.is_number_integer()) return value.get<std::int64_t>();
  if (!value.is_number_float()) return std::nullopt;
  const double number = value.get<double>();
  const bool is_exact = std::abs(number) < 0x1p53 && std::trunc(number) == number;
  return is_exact ? std::optional(static_cast<std::int64_t>(number)) : std::nullopt;
}

}  // namespace

ParsedBody parse_body(const std::string& text) {
  if (auto excess = find_excess(text)) return {{}, ApiError{.message = *std::move(excess)}};
  try {
    ParsedBody out{.json = Json::parse(text)};
    if (!out.json.is_object()) out.error = ApiError{.message = "The body must be a JSON object."};
    return out;
  } catch (const Json::exception& problem) {
    return {{}, ApiError{.message = fmt::format("The body is not JSON: {}", problem.what())}};
  }
}

const Json* BodyReader::any(const std::string& key) {
  known_.insert(key);
  const auto found = body_.find(key);
  return found == body_.end() || found->is_null() ? nullptr : &*found;
}

void BodyReader::fail(const std::string& param, const std::string& message) {
  if (!error_) error_ = ApiError{.message = message, .param = param};
}

std::optional<double> BodyReader::number(const std::string& key, double lowest, double highest) {
  const Json* value = any(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number() || !(value->get<double>() >= lowest && value->get<double>() <= highest)) {
    fail(key, fmt::format("'{}' must be a number from {} to {}, found {}.", key, lowest, highest, shown(*value)));
    return std::nullopt;
  }
  return value->get<double>();
}

std::optional<std::int64_t> BodyReader::integer(const std::string& key, std::int64_t lowest, std::int64_t highest) {
  const Json* value = any(key);
  if (value == nullptr) return std::nullopt;
  const std::optional<std::int64_t> number = exact_integer(*value);
  if (!number || *number < lowest || *number > highest) {
    fail(key, fmt::format("'{}' must be an integer from {} to {}, found {}.", key, lowest, highest, shown(*value)));
    return std::nullopt;
  }
  return number;
}

std::optional<bool> BodyReader::flag(const std::string& key) {
  const Json* value = any(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_boolean()) {
    fail(key, fmt::format("'{}' must be true or false, found {}.", key, shown(*value)));
    return std::nullopt;
  }
  return value->get<bool>();
}

std::optional<std::string> BodyReader::text(const std::string& key) {
  const Json* value = any(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) {
    fail(key, fmt::format("'{}' must be a string, found {}.", key, shown(*value)));
    return std::nullopt;
  }
  return value->get<std::string>();
}

void BodyReader::ignore(std::initializer_list<const char*> keys) {
  for (const char* key : keys) known_.insert(key);
}

void BodyReader::refuse(const std::string& key, const std::string& why) {
  if (any(key) != nullptr) fail(key, fmt::format("'{}' {}", key, why));
}

const std::optional<ApiError>& BodyReader::finish() {
  for (const auto& [key, value] : body_.items()) {
    if (!known_.contains(key)) fail(key, fmt::format("Unknown parameter: '{}'.", key));
  }
  return error_;
}

}  // namespace qnext
