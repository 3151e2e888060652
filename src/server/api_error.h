#pragma once
// ApiError: what a client is told when its request can't be served, in OpenAI's shape.

#include <nlohmann/json.hpp>

#include <optional>
#include <string>

namespace qnext {

using Json = nlohmann::ordered_json;

struct ApiError {
  unsigned status = 400;
  std::string message;
  std::string type = "invalid_request_error";
  std::string param = {};                      // "": null
  std::string code = {};                       // "": null
  std::optional<unsigned> retry_after_s = {};  // header Retry-After
  std::string allow = {};                      // header Allow
};

// {"error": {"message", "type", "param", "code"}}
inline Json error_json(const ApiError& error) {
  const auto or_null = [](const std::string& text) { return text.empty() ? Json(nullptr) : Json(text); };
  return {{"error",
           {{"message", error.message},
            {"type", error.type},
            {"param", or_null(error.param)},
            {"code", or_null(error.code)}}}};
}

// One line; what is not UTF-8 (half of a character in a token's text) becomes U+FFFD.
inline std::string json_text(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace qnext
