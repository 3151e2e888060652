#pragma once
// QN_CHECK: an invariant of our own code. Failing one is our bug: it prints the values and aborts.
// Nothing that a file, a flag or a socket can hold may reach one; bad input is a Result (result.h).

#include <fmt/format.h>

#include <string_view>

namespace qnext {

[[noreturn]] void check_failed(std::string_view file, int line, std::string_view condition, std::string_view details);

}  // namespace qnext

// QN_CHECK(rows == cols, "rows {} cols {}", rows, cols): the details are required, so that a report is usable.
#define QN_CHECK(condition, ...)                                                         \
  do {                                                                                   \
    if (!(condition)) [[unlikely]]                                                       \
      ::qnext::check_failed(__FILE__, __LINE__, #condition, ::fmt::format(__VA_ARGS__)); \
  } while (false)
