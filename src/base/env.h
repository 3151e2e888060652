#pragma once
// The process's environment. The only place that reads it.

#include <optional>
#include <string>

namespace qnext {

// The value of an environment variable; nothing when unset or empty.
std::optional<std::string> env(const char* name);

}  // namespace qnext
