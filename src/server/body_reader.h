#pragma once
// BodyReader: the fields of a request's JSON, each checked once. The first thing that is wrong is the error; reading
// goes on with "absent". null is absent.

#include <initializer_list>
#include <set>

#include "server/api_error.h"

namespace qnext {

// `text` as JSON. Errors (400): not JSON, not an object, nested deeper than 64, an object of more than 1,024 items.
struct ParsedBody {
  Json json;
  std::optional<ApiError> error = {};
};
ParsedBody parse_body(const std::string& text);

class BodyReader {
 public:
  explicit BodyReader(const Json& body) : body_(body) {}

  std::optional<double> number(const std::string& key, double lowest, double highest);
  std::optional<std::int64_t> integer(const std::string& key, std::int64_t lowest, std::int64_t highest);
  std::optional<bool> flag(const std::string& key);
  std::optional<std::string> text(const std::string& key);
  // Any value; null when absent.
  const Json* any(const std::string& key);

  // Fields that change nothing here.
  void ignore(std::initializer_list<const char*> keys);
  // A field that is not supported unless it is absent.
  void refuse(const std::string& key, const std::string& why);

  void fail(const std::string& param, const std::string& message);

  // After the last field: those that nobody has read are errors. Then the first error, if any.
  const std::optional<ApiError>& finish();
  bool failed() const { return error_.has_value(); }

 private:
  const Json& body_;
  std::set<std::string> known_;
  std::optional<ApiError> error_;
};

}  // namespace qnext
