#pragma once
// Text inside of SVG and XML.

#include <string>
#include <string_view>

namespace qnext {

inline std::string xml_text(std::string_view text) {
  std::string out;
  for (char c : text) out += c == '&' ? "&amp;" : c == '<' ? "&lt;" : std::string(1, c);
  return out;
}

}  // namespace qnext
