#pragma once
// An SVG as a PNG.

#include <string>

#include "base/result.h"

namespace qnext {

// The picture as a PNG's bytes, two pixels for each unit of the SVG. librsvg's program draws it, as a process of its
// own: fonts and antialiasing are no trade of ours. Error: it is not installed (which says what to do), or it fails.
Result<std::string> png_of_svg(const std::string& svg);

}  // namespace qnext
