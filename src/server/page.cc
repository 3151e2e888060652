#include "server/page.h"

#include "base/embed.h"

namespace qnext {
namespace {

QNEXT_EMBED(page_html, QNEXT_PAGE_FOLDER "/index.html")
QNEXT_EMBED(page_script, QNEXT_PAGE_FOLDER "/app.js")
QNEXT_EMBED(page_style, QNEXT_PAGE_FOLDER "/app.css")

}  // namespace

std::optional<PageFile> page_file(std::string_view path) {
  if (path == "/") return PageFile{"text/html; charset=utf-8", page_html()};
  if (path == "/app.js") return PageFile{"text/javascript; charset=utf-8", page_script()};
  if (path == "/app.css") return PageFile{"text/css; charset=utf-8", page_style()};
  return std::nullopt;
}

}  // namespace qnext
