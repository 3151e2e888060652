#include "tensor/atomic_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <string>
#include <system_error>
#include <utility>

#include "tensor/mapped_file.h"

namespace qnext {
namespace fs = std::filesystem;

namespace {

constexpr std::size_t kPendingBytes = std::size_t{1} << 20;

fs::path folder_of(const fs::path& file) {
  return file.has_parent_path() ? file.parent_path() : fs::path(".");
}

std::optional<std::uint64_t> try_available_bytes(const fs::path& folder) {
  std::error_code failure;
  const fs::space_info space = fs::space(folder, failure);
  if (failure) return std::nullopt;
  return space.available;
}

// A rename is durable once its folder is.
int sync_folder(const fs::path& folder) {
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return errno;
  const int error_number = ::fsync(fd) == 0 ? 0 : errno;
  ::close(fd);
  return error_number;
}

}  // namespace

Status expect_free_space(const fs::path& dst, std::uint64_t num_bytes) {
  const auto available_bytes = try_available_bytes(folder_of(dst));
  if (available_bytes && *available_bytes < num_bytes) {
    return error("{}: needs {} bytes, but the disk has {} available: free some space or write elsewhere", dst.string(),
                 num_bytes, *available_bytes);
  }
  return success();
}

AtomicFile::AtomicFile(fs::path dst, fs::path tmp, int fd, std::uint64_t num_bytes)
    : dst_(std::move(dst)), tmp_(std::move(tmp)), fd_(fd), expected_bytes_(num_bytes) {
  pending_.reserve(std::min<std::uint64_t>(kPendingBytes, num_bytes));
}

AtomicFile::AtomicFile(AtomicFile&& other) noexcept
    : dst_(std::move(other.dst_)),
      tmp_(std::move(other.tmp_)),
      fd_(std::exchange(other.fd_, std::nullopt)),
      expected_bytes_(other.expected_bytes_),
      written_bytes_(other.written_bytes_),
      pending_(std::move(other.pending_)) {}

AtomicFile::~AtomicFile() {
  discard();
}

void remove_abandoned_temporaries(const std::filesystem::path& dst) {
  const std::string prefix = dst.filename().string() + ".tmp-";
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(folder_of(dst), ignored)) {
    const std::string name = entry.path().filename().string();
    pid_t pid = 0;
    if (!name.starts_with(prefix)) continue;
    const char* end = name.data() + name.size();
    if (std::from_chars(name.data() + prefix.size(), end, pid).ptr != end || pid <= 0) continue;
    // Its writer's lock tells whether it lives; its number may be another's by now, or, in a container, our own.
    const int fd = ::open(entry.path().c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0) continue;
    if (::flock(fd, LOCK_EX | LOCK_NB) == 0) std::filesystem::remove(entry.path(), ignored);
    ::close(fd);
  }
}

Result<AtomicFile> AtomicFile::create(const fs::path& dst, std::uint64_t num_bytes) {
  QN_RETURN_IF_ERROR(expect_free_space(dst, num_bytes));
  fs::path tmp = dst;
  tmp += fmt::format(".tmp-{}", ::getpid());
  // O_EXCL: never through a link that someone left there, never into a file that another writer of ours has open.
  const int fd = ::open(tmp.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (fd < 0) {
    const int error_number = errno;
    return error("{}: cannot create: {}{}", tmp.string(), errno_text(error_number),
                 error_number == EEXIST ? "; remove it when no other process is writing it" : "");
  }
  ::flock(fd, LOCK_EX | LOCK_NB);  // for remove_abandoned_temporaries; held as long as it is open
  return AtomicFile(dst, std::move(tmp), fd, num_bytes);
}

Status AtomicFile::append(std::span<const std::byte> bytes) {
  QN_CHECK(fd_.has_value(), "append to {} after its end", dst_.string());
  written_bytes_ += bytes.size();
  if (pending_.size() + bytes.size() <= kPendingBytes) {
    pending_.insert(pending_.end(), bytes.begin(), bytes.end());
    return success();
  }
  QN_RETURN_IF_ERROR(flush());
  return write_all(bytes);
}

Status AtomicFile::commit() {
  QN_CHECK(fd_.has_value(), "commit of {} after its end", dst_.string());
  QN_CHECK(written_bytes_ == expected_bytes_, "{}: {} bytes written of {}", dst_.string(), written_bytes_,
           expected_bytes_);
  QN_RETURN_IF_ERROR(flush());
  if (::fsync(*fd_) != 0) return give_up("sync", errno);
  if (::rename(tmp_.c_str(), dst_.c_str()) != 0) return give_up("rename the finished file to this name", errno);
  ::close(*fd_);
  fd_.reset();
  if (const int error_number = sync_folder(folder_of(dst_)); error_number != 0) {
    return error("{}: written, but its folder could not be synced: {}; it may be lost if the machine fails now",
                 dst_.string(), errno_text(error_number));
  }
  return success();
}

Status AtomicFile::flush() {
  QN_RETURN_IF_ERROR(write_all(pending_));
  pending_.clear();
  return success();
}

Status AtomicFile::write_all(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(*fd_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return give_up("write", errno);
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
  return success();
}

Error AtomicFile::give_up(std::string_view action, int error_number) {
  discard();  // first: what it occupied counts as available again
  const auto available_bytes = try_available_bytes(folder_of(dst_));
  return error("{}: cannot {}: {}; needs {} bytes, the disk has {} available; the unfinished file was removed",
               dst_.string(), action, errno_text(error_number), expected_bytes_,
               available_bytes ? fmt::format("{}", *available_bytes) : std::string("an unknown number"));
}

void AtomicFile::discard() {
  if (!fd_) return;
  ::close(*fd_);
  ::unlink(tmp_.c_str());
  fd_.reset();
}

Status write_file(const fs::path& dst, std::string_view text) {
  QN_TRY(AtomicFile file, AtomicFile::create(dst, text.size()));
  QN_RETURN_IF_ERROR(file.append(std::as_bytes(std::span(text))));
  return file.commit();
}

}  // namespace qnext
