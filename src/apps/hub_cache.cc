#include "apps/hub_cache.h"

#include <algorithm>

#include "apps/console.h"
#include "base/env.h"

namespace qnext {
namespace fs = std::filesystem;

namespace {

constexpr std::size_t kMaxRefBytes = 256;

bool is_word(std::string_view text) {
  const auto is_fine = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' ||
           c == '.';
  };
  return !text.empty() && text.size() <= 96 && text[0] != '.' && std::ranges::all_of(text, is_fine);
}

// Commits are looked for as they are, names by their ref.
std::optional<fs::path> snapshot(const RepoId& repo) {
  const fs::path folder = repo_folder(hub_folder(), repo.name);
  std::string commit = repo.revision;
  if (const auto ref = read_file(folder / "refs" / repo.revision, kMaxRefBytes); ref.ok()) {
    commit = ref->substr(0, ref->find_first_of(" \r\n"));
  }
  if (!is_safe_file_name(commit)) return std::nullopt;
  std::error_code ignored;
  const fs::path out = folder / "snapshots" / commit;
  return fs::is_directory(out, ignored) ? std::optional(out) : std::nullopt;
}

}  // namespace

bool is_safe_file_name(std::string_view name) {
  if (name.empty() || name.size() > 1024 || name.front() == '/' || name.find('\0') != std::string_view::npos)
    return false;
  for (const fs::path& part : fs::path(name)) {
    if (part == ".." || part == "." || part.empty()) return false;
  }
  return name.find('\\') == std::string_view::npos;
}

Result<RepoId> parse_repo_id(std::string_view text) {
  RepoId out;
  const std::size_t at = text.find('@');
  out.name = text.substr(0, at);
  if (at != std::string_view::npos) out.revision = text.substr(at + 1);
  const std::size_t slash = out.name.find('/');
  const bool is_name = slash != std::string::npos && is_word(std::string_view(out.name).substr(0, slash)) &&
                       is_word(std::string_view(out.name).substr(slash + 1));
  if (!is_name || !is_safe_file_name(out.revision)) {
    return error("{}: expected owner/name or owner/name@revision", escaped(text));
  }
  return out;
}

fs::path hub_home() {
  if (const auto home = env("HF_HOME")) return *home;
  if (const auto cache = env("XDG_CACHE_HOME")) return fs::path(*cache) / "huggingface";
  return fs::path(env("HOME").value_or("/")) / ".cache" / "huggingface";
}

fs::path hub_folder() {
  if (const auto hub = env("HF_HUB_CACHE")) return *hub;
  return hub_home() / "hub";
}

fs::path repo_folder(const fs::path& hub, const std::string& name) {
  const std::size_t slash = name.find('/');
  return hub / ("models--" + name.substr(0, slash) + "--" + name.substr(slash + 1));
}

std::optional<std::string> repo_of_path(const fs::path& path) {
  for (fs::path part = path; part.has_relative_path(); part = part.parent_path()) {
    std::string name = part.filename().string();
    if (!name.starts_with("models--")) continue;
    name = name.substr(8);
    if (const std::size_t at = name.find("--"); at != std::string::npos) return name.replace(at, 2, "/");
  }
  return std::nullopt;
}

std::string resolve_model(const std::string& model) {
  std::error_code ignored;
  if (fs::exists(model, ignored)) return model;
  const std::size_t owner_end = model.find('/');
  if (owner_end == std::string::npos) return model;
  const std::size_t name_end = model.find('/', owner_end + 1);
  const auto repo = parse_repo_id(std::string_view(model).substr(0, name_end));
  if (!repo.ok()) return model;
  const auto folder = snapshot(*repo);
  if (!folder) return model;
  const std::string file = name_end == std::string::npos ? "" : model.substr(name_end + 1);
  return file.empty() ? folder->string() : is_safe_file_name(file) ? (*folder / file).string() : model;
}

}  // namespace qnext
