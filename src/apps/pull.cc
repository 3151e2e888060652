// qnext pull: a repository of the Hub, or some of its files, into the cache that the Hub's own tools share.
#include <fcntl.h>
#include <fnmatch.h>
#include <openssl/evp.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "apps/command.h"
#include "apps/console.h"
#include "apps/http_client.h"
#include "apps/hub_cache.h"
#include "apps/json_text.h"
#include "apps/progress.h"
#include "base/env.h"
#include "tensor/atomic_file.h"
#include "tensor/mapped_file.h"

namespace qnext {
namespace fs = std::filesystem;

namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kMaxListBytes = std::size_t{64} << 20;
constexpr std::size_t kMaxTokenBytes = 4096;
constexpr std::size_t kMaxTries = 5;

struct PullOptions {
  std::string repo;
  std::vector<std::string> files;
  std::string endpoint;
};

struct Hub {
  std::string endpoint;  // without a slash at its end
  std::string token;
  fs::path folder;  // of the repository, in the cache
  RepoId repo;
};

struct HubFile {
  std::string name;
  std::string hash;  // 64 digits: SHA-256; 40: git's SHA-1
  std::uint64_t num_bytes = 0;
};

struct Listing {
  std::string commit;
  std::vector<HubFile> files;
};

bool is_hash(const std::string& text, std::size_t num_digits) {
  return text.size() == num_digits && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

// A path's parts as a URL has them; slashes stay.
std::string encoded(const std::string& path) {
  std::string out;
  for (const char c : path) {
    const bool is_plain =
        std::isalnum(static_cast<unsigned char>(c)) || std::string_view("-._~/").find(c) != std::string_view::npos;
    out += is_plain ? std::string(1, c) : fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  return out;
}

Result<Hub> make_hub(const PullOptions& options) {
  Hub out;
  QN_TRY(out.repo, parse_repo_id(options.repo));
  out.endpoint = options.endpoint.empty() ? env("HF_ENDPOINT").value_or("https://huggingface.co") : options.endpoint;
  while (out.endpoint.ends_with('/')) out.endpoint.pop_back();
  if (const auto token = env("HF_TOKEN")) {
    out.token = *token;
  } else if (const auto saved = read_file(hub_home() / "token", kMaxTokenBytes); saved.ok()) {
    out.token = saved->substr(0, saved->find_first_of("\r\n"));
  }
  out.folder = repo_folder(hub_folder(), out.repo.name);
  return out;
}

Error explain(const HttpReply& reply, const Hub& hub, const std::string& what) {
  std::string text = fmt::format("{}: {}: the Hub says {}", hub.endpoint, what, reply.status);
  if (const auto message = reply.header("x-error-message")) text += ": " + escaped(*message);
  if (reply.status == 401 || reply.status == 403) {
    text += hub.token.empty() ? "; is it private, gated, or not there at all? HF_TOKEN has the token that may read it"
                              : "; the token that was sent may not read it, or it is not there at all";
  } else if (reply.status == 404) {
    text += "; is its name right?";
  }
  return error("{}", text);
}

Result<HubFile> parse_file(const Json& entry, const Hub& hub) {
  const auto text = [](const Json& object, const char* key) {
    const Json value = object.is_object() ? object.value(key, Json()) : Json();
    return value.is_string() ? value.get<std::string>() : std::string();
  };
  const Json lfs = entry.is_object() ? entry.value("lfs", Json()) : Json();
  const Json size = entry.is_object() ? entry.value("size", Json()) : Json();
  HubFile out{.name = text(entry, "rfilename"), .hash = lfs.is_object() ? text(lfs, "sha256") : text(entry, "blobId")};
  if (!is_safe_file_name(out.name) || !size.is_number_unsigned() || !(is_hash(out.hash, 64) || is_hash(out.hash, 40))) {
    return error("{}: {} lists a file that is none: {}", hub.endpoint, hub.repo.name,
                 escaped(json_line(entry).substr(0, 200)));
  }
  out.num_bytes = size.get<std::uint64_t>();
  return out;
}

Result<Listing> list_files(const Hub& hub) {
  std::string body;
  const auto keep = [&](std::string_view bytes) -> Status {
    if (body.size() + bytes.size() > kMaxListBytes) return error("{}: its list of files is too long", hub.repo.name);
    body += bytes;
    return success();
  };
  const std::string what = fmt::format("{} at {}", hub.repo.name, hub.repo.revision);
  QN_TRY(const HttpReply reply, http_call({.url = fmt::format("{}/api/models/{}/revision/{}?blobs=true", hub.endpoint,
                                                              hub.repo.name, encoded(hub.repo.revision)),
                                           .bearer_token = hub.token},
                                          keep));
  if (!reply.ok()) return explain(reply, hub, what);
  const Json json = Json::parse(body, nullptr, /*allow_exceptions=*/false);
  const bool is_list =
      json.is_object() && json.value("sha", Json()).is_string() && json.value("siblings", Json()).is_array();
  Listing out{.commit = is_list ? json["sha"].get<std::string>() : "", .files = {}};
  if (!is_hash(out.commit, 40)) return error("{}: {}: the answer is no list of files", hub.endpoint, what);
  for (const Json& entry : json["siblings"]) {
    QN_TRY(HubFile file, parse_file(entry, hub));
    out.files.push_back(std::move(file));
  }
  return out;
}

// The files that the patterns name, each of which must name one; no pattern: all.
Result<std::vector<HubFile>> choose(const std::vector<HubFile>& files, const std::vector<std::string>& patterns,
                                    const Hub& hub) {
  if (patterns.empty()) return files;
  std::vector<HubFile> out;
  for (const std::string& pattern : patterns) {
    bool found = false;
    for (const HubFile& file : files) {
      if (::fnmatch(pattern.c_str(), file.name.c_str(), 0) != 0) continue;
      found = true;
      if (std::ranges::find(out, file.name, &HubFile::name) == out.end()) out.push_back(file);
    }
    if (!found) return error("{}: has no file {}", hub.repo.name, escaped(pattern));
  }
  return out;
}

// ---- One file ----

// The name that the blob's content asks for.
Result<std::string> content_hash(const fs::path& path, const HubFile& wanted) {
  const bool is_sha256 = wanted.hash.size() == 64;
  std::optional<MappedFile> file;  // none of an empty one
  if (wanted.num_bytes > 0) {
    QN_TRY(file, MappedFile::open(path));
  }
  const std::span<const std::byte> content = file ? file->bytes() : std::span<const std::byte>();
  const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  EVP_DigestInit_ex(context.get(), is_sha256 ? EVP_sha256() : EVP_sha1(), nullptr);
  const std::string frame = fmt::format("blob {}", content.size());
  if (!is_sha256) EVP_DigestUpdate(context.get(), frame.c_str(), frame.size() + 1);  // git's, with a zero at its end
  EVP_DigestUpdate(context.get(), content.data(), content.size());
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  EVP_DigestFinal_ex(context.get(), digest, &size);
  std::string out;
  for (unsigned i = 0; i < size; ++i) out += fmt::format("{:02x}", digest[i]);
  return out;
}

class OpenFile {
 public:
  OpenFile(const fs::path& path, int flags) : fd_(::open(path.c_str(), flags | O_CLOEXEC, 0644)) {}
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;
  ~OpenFile() {
    if (fd_ >= 0) ::close(fd_);
  }
  int fd() const { return fd_; }

 private:
  int fd_;
};

// Waits for another process that fetches the same blob. Errors: the lock file cannot be made; "interrupted".
Status lock(const OpenFile& file, const fs::path& path, const std::string& name) {
  if (file.fd() < 0) return error("{}: {}", path.string(), errno_text(errno));
  for (bool told = false; ::flock(file.fd(), LOCK_EX | LOCK_NB) != 0; told = true) {
    if (errno != EWOULDBLOCK && errno != EINTR)
      return error("{}: cannot be locked: {}", path.string(), errno_text(errno));
    if (!told) write_stderr(fmt::format("{}: another process fetches it; waiting\n", name));
    if (!wait_unless_interrupted(std::chrono::seconds(1))) return error("interrupted");
  }
  return success();
}

Status write_all(int fd, std::string_view bytes, const fs::path& path) {
  while (!bytes.empty()) {
    const ssize_t count = ::write(fd, bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return error("{}: cannot write: {}", path.string(), errno_text(errno));
    bytes.remove_prefix(static_cast<std::size_t>(count));
  }
  return success();
}

// Appends to `partial` until it has all of the file. What is there stays when the transfer breaks off.
Status fetch(const Hub& hub, const std::string& commit, const HubFile& file, const fs::path& partial,
             FunctionRef<void(std::uint64_t)> progress) {
  const OpenFile out(partial, O_WRONLY | O_CREAT);
  if (out.fd() < 0) return error("{}: {}", partial.string(), errno_text(errno));
  std::uint64_t num_bytes = static_cast<std::uint64_t>(::lseek(out.fd(), 0, SEEK_END));
  const auto restart = [&] {
    num_bytes = 0;
    return ::ftruncate(out.fd(), 0) == 0 && ::lseek(out.fd(), 0, SEEK_SET) == 0;
  };
  if (num_bytes > file.num_bytes) restart();
  for (std::size_t num_tries = 0; num_bytes < file.num_bytes; ++num_tries) {
    bool is_final = false;  // trying again would not help
    const std::uint64_t first = num_bytes;
    const auto append = [&](std::string_view bytes) -> Status {
      is_final = true;
      if (bytes.size() > file.num_bytes - num_bytes) return error("{}: longer than the Hub's list says", file.name);
      QN_RETURN_IF_ERROR(write_all(out.fd(), bytes, partial));
      is_final = false;
      num_bytes += bytes.size();
      progress(num_bytes);
      return success();
    };
    const auto reply =
        http_call({.url = fmt::format("{}/{}/resolve/{}/{}", hub.endpoint, hub.repo.name, commit, encoded(file.name)),
                   .bearer_token = hub.token,
                   .first_byte = first},
                  append);
    if (reply.ok() && reply->ok() && num_bytes == file.num_bytes) break;
    if (interrupted()) return error("interrupted");
    if (is_final) return error("{}", reply.message());
    const bool may_pass =
        !reply.ok() || reply->ok() || reply->status == 429 || reply->status >= 500 || reply->status == 416;
    if (!may_pass) return explain(*reply, hub, file.name);
    if (num_tries + 1 == kMaxTries) return reply.ok() ? explain(*reply, hub, file.name) : error("{}", reply.message());
    if (reply.ok() && reply->status == 416 && !restart()) {
      return error("{}: {}", partial.string(), errno_text(errno));
    }
    const std::chrono::seconds delay = retry_delay(reply.ok() ? *reply : HttpReply{}, num_tries);
    write_stderr(fmt::format("{}: broke off ({}); trying again in {} s\n", file.name,
                             reply.ok() ? std::to_string(reply->status) : reply.message(), delay.count()));
    if (!wait_unless_interrupted(delay)) return error("interrupted");
  }
  if (::fsync(out.fd()) != 0) return error("{}: {}", partial.string(), errno_text(errno));
  return success();
}

Status make_folder(const fs::path& folder) {
  std::error_code failure;
  fs::create_directories(folder, failure);
  if (failure) return error("{}: cannot create the folder: {}", folder.string(), failure.message());
  return success();
}

// Where a blob is while it comes; what broke off there goes on.
fs::path partial_of(const fs::path& blob) {
  return blob.string() + ".incomplete";
}

// The blob, whole and checked, whoever fetched it.
Status ensure_blob(const Hub& hub, const std::string& commit, const HubFile& file,
                   FunctionRef<void(std::uint64_t)> progress) {
  const fs::path blob = hub.folder / "blobs" / file.hash;
  const fs::path lock_path = hub_folder() / ".locks" / hub.folder.filename() / (file.hash + ".lock");
  QN_RETURN_IF_ERROR(make_folder(blob.parent_path()));
  QN_RETURN_IF_ERROR(make_folder(lock_path.parent_path()));
  const OpenFile lock_file(lock_path, O_RDWR | O_CREAT);
  QN_RETURN_IF_ERROR(lock(lock_file, lock_path, file.name));
  std::error_code failure;
  if (fs::exists(blob, failure)) {
    progress(file.num_bytes);
    return success();
  }
  const fs::path partial = partial_of(blob);
  QN_RETURN_IF_ERROR(fetch(hub, commit, file, partial, progress));
  QN_TRY(const std::string hash, content_hash(partial, file));
  if (hash != file.hash) {
    fs::remove(partial, failure);
    return error("{}: what came is not what the Hub's list says (hash {}, expected {}); it was removed, try again",
                 file.name, hash, file.hash);
  }
  fs::rename(partial, blob, failure);
  if (failure) return error("{}: {}", blob.string(), failure.message());
  return success();
}

// The link appears whole: it is made beside its place and renamed.
Status link_snapshot(const Hub& hub, const std::string& commit, const HubFile& file) {
  const fs::path link = hub.folder / "snapshots" / commit / file.name;
  QN_RETURN_IF_ERROR(make_folder(link.parent_path()));
  const fs::path target = (hub.folder / "blobs" / file.hash).lexically_relative(link.parent_path());
  const fs::path temporary = link.string() + fmt::format(".tmp-{}", ::getpid());
  std::error_code failure;
  fs::remove(temporary, failure);
  fs::create_symlink(target, temporary, failure);
  if (!failure) fs::rename(temporary, link, failure);
  if (failure) return error("{}: cannot make the link: {}", link.string(), failure.message());
  return success();
}

Status save_ref(const Hub& hub, const std::string& commit) {
  if (hub.repo.revision == commit) return success();
  const fs::path ref = hub.folder / "refs" / hub.repo.revision;
  QN_RETURN_IF_ERROR(make_folder(ref.parent_path()));
  return write_file(ref, commit);
}

Result<ExitCode> pull(const PullOptions& options) {
  QN_TRY(const Hub hub, make_hub(options));
  QN_TRY(const Listing listing, list_files(hub));
  QN_TRY(const std::vector<HubFile> files, choose(listing.files, options.files, hub));
  QN_RETURN_IF_ERROR(make_folder(hub.folder));
  std::uint64_t total_bytes = 0, missing_bytes = 0;
  for (const HubFile& file : files) {
    std::error_code ignored;
    total_bytes += file.num_bytes;
    const fs::path blob = hub.folder / "blobs" / file.hash;
    if (fs::exists(blob, ignored)) continue;
    const std::uint64_t begun = fs::file_size(partial_of(blob), ignored);
    missing_bytes += file.num_bytes - (ignored ? 0 : std::min(begun, file.num_bytes));
  }
  QN_RETURN_IF_ERROR(expect_free_space(hub.folder / "blobs", missing_bytes));
  std::uint64_t done_bytes = 0;
  {
    Progress progress(fmt::format("pulling {}", hub.repo.name));
    for (const HubFile& file : files) {
      const auto update = [&](std::uint64_t num_bytes) { progress.update(done_bytes + num_bytes, total_bytes); };
      QN_RETURN_IF_ERROR(ensure_blob(hub, listing.commit, file, update));
      QN_RETURN_IF_ERROR(link_snapshot(hub, listing.commit, file));
      done_bytes += file.num_bytes;
    }
  }
  QN_RETURN_IF_ERROR(save_ref(hub, listing.commit));
  write_stderr(fmt::format("{} files, {}\n", files.size(), bytes_text(total_bytes)));
  QN_RETURN_IF_ERROR(write_stdout((hub.folder / "snapshots" / listing.commit).string() + "\n"));
  return ExitCode::kDone;
}

}  // namespace

void add_pull_command(CLI::App& root, Action& action) {
  auto options = std::make_shared<PullOptions>();
  CLI::App& command = *root.add_subcommand("pull", "Fetch a model from the Hub into its cache.");
  command.add_option("REPO", options->repo, "OWNER/NAME, or OWNER/NAME@REVISION: a branch, a tag or a commit")
      ->required();
  command.add_option("FILE", options->files, "Only these files; * and ? stand for any (default: all)");
  command.add_option("--endpoint", options->endpoint, "The Hub's address (default: HF_ENDPOINT, or the public one)")
      ->type_name("URL");
  command.footer(
      "Fills the cache that Hugging Face's own tools use (HF_HOME, HF_HUB_CACHE), prints the folder, and checks size "
      "and\n"
      "hash of every file. What broke off goes on where it stopped; what is there already is not fetched again. "
      "HF_TOKEN\n"
      "opens private and gated models. Afterwards OWNER/NAME is a MODEL for every command, as is "
      "OWNER/NAME/FILE.gguf.\n\n"
      "Examples:\n"
      "  qnext pull Qwen/Qwen3-Next-80B-A3B-Instruct\n"
      "  qnext pull owner/name-GGUF '*Q4_K_M*.gguf'");
  command.callback([options, &action] { action = [options] { return pull(*options); }; });
}

}  // namespace qnext
