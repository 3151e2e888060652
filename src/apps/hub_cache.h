#pragma once
// The Hub's cache on this machine, in the layout that Hugging Face's own tools share (huggingface_hub, "Understand
// caching"):
//
//   HUB/models--OWNER--NAME/refs/REVISION        the commit that a branch or tag stood at
//                           blobs/HASH           files by content: SHA-256 of large ones, git's SHA-1 of the others
//                           snapshots/COMMIT/..  links to them, under the repository's names
//   HUB/.locks/models--OWNER--NAME/HASH.lock     held while a blob is fetched

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace qnext {

struct RepoId {
  std::string name;               // "owner/name"
  std::string revision = "main";  // a branch, a tag or a commit
};

// "owner/name", or "owner/name@revision". Errors: what is neither.
Result<RepoId> parse_repo_id(std::string_view text);

// HF_HUB_CACHE, or hub/ in HF_HOME, or in the user's cache folder.
std::filesystem::path hub_folder();
std::filesystem::path hub_home();  // where the login's token lies

std::filesystem::path repo_folder(const std::filesystem::path& hub, const std::string& name);

// Whether a file of a repository may be called so: a relative path that stays inside.
bool is_safe_file_name(std::string_view name);

// "owner/name" of a folder or file in a snapshot of the cache; nothing of any other.
std::optional<std::string> repo_of_path(const std::filesystem::path& path);

// A MODEL argument as a path: what is there under that name; or "owner/name[@revision][/file]" that is in the cache;
// or itself.
std::string resolve_model(const std::string& model);

}  // namespace qnext
