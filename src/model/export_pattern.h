#pragma once
// NamePattern: a POSIX extended regular expression over tensor names. The C library's, because it needs no exceptions
// and no time that is exponential in the name.

#include <memory>
#include <string>

#include "base/result.h"

namespace qnext {

class NamePattern {
 public:
  // Error: not a regular expression, with the library's reason.
  static Result<NamePattern> parse(const std::string& text);

  // Whether it matches somewhere in `name`.
  bool matches(const std::string& name) const;

 private:
  struct Compiled;
  explicit NamePattern(std::shared_ptr<const Compiled> compiled) : compiled_(std::move(compiled)) {}

  std::shared_ptr<const Compiled> compiled_;
};

}  // namespace qnext
