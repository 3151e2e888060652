#include "model/export_pattern.h"

#include <regex.h>

#include <array>

namespace qnext {

struct NamePattern::Compiled {
  regex_t regex{};
  bool valid = false;
  ~Compiled() {
    if (valid) regfree(&regex);
  }
};

Result<NamePattern> NamePattern::parse(const std::string& text) {
  auto compiled = std::make_shared<Compiled>();
  const int failure = regcomp(&compiled->regex, text.c_str(), REG_EXTENDED | REG_NOSUB);
  if (failure != 0) {
    std::array<char, 128> reason{};
    regerror(failure, &compiled->regex, reason.data(), reason.size());
    return error("\"{}\": not an extended regular expression: {}", text, reason.data());
  }
  compiled->valid = true;
  return NamePattern(std::move(compiled));
}

bool NamePattern::matches(const std::string& name) const {
  return regexec(&compiled_->regex, name.c_str(), 0, nullptr, 0) == 0;
}

}  // namespace qnext
