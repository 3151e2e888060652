#include "apps/version.h"

namespace qnext {

std::string_view version() {
  return QNEXT_VERSION;
}

}  // namespace qnext
