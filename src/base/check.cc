#include "base/check.h"

#include <cstdio>
#include <cstdlib>

namespace qnext {

void check_failed(std::string_view file, int line, std::string_view condition, std::string_view details) {
  std::fputs(fmt::format("qnext: internal error at {}:{}: {} ({})\n", file, line, condition, details).c_str(), stderr);
  std::abort();
}

}  // namespace qnext
