#pragma once
#include <string_view>

namespace qnext {

// "0.1.0 (a83f797)": the version, and the commit where the build knew it; "+" behind it: with changes.
std::string_view version();

}  // namespace qnext
