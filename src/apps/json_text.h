#pragma once
// JSON as every --json prints it.

#include <nlohmann/json.hpp>

#include <string>

namespace qnext {

// One object, on one line or indented, with a newline. Text that is not UTF-8 (a file name) is repaired, never thrown
// over; numbers that are not finite become null.
inline std::string json_line(const nlohmann::ordered_json& value) {
  return value.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}
inline std::string json_indented(const nlohmann::ordered_json& value) {
  return value.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace qnext
