#pragma once
// The chat page (web/), which the program carries with it.

#include <optional>
#include <string>
#include <string_view>

namespace qnext {

struct PageFile {
  std::string_view type;  // Content-Type
  std::string_view body;
};

// Nothing when the page has no such file.
std::optional<PageFile> page_file(std::string_view path);

// Content-Security-Policy: the page runs its own script only, and speaks to this server only, whatever a model writes.
// KaTeX places its boxes by style attributes.
inline constexpr const char* kPagePolicy =
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; font-src data:; img-src data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

}  // namespace qnext
