#include "tensor/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <system_error>
#include <utility>

namespace qnext {
namespace {

int madvise_flag(AccessPattern pattern) {
  switch (pattern) {
    case AccessPattern::kSequential:
      return MADV_SEQUENTIAL;
    case AccessPattern::kRandom:
      return MADV_RANDOM;
    case AccessPattern::kWillNeed:
      return MADV_WILLNEED;
    case AccessPattern::kDoneForNow:
      return MADV_DONTNEED;
    case AccessPattern::kNormal:
      break;
  }
  return MADV_NORMAL;
}

// Closes on every way out; a mapping outlives its descriptor.
struct Descriptor {
  int fd;
  ~Descriptor() { ::close(fd); }
};

}  // namespace

std::string errno_text(int error_number) {
  return fmt::format("{} (errno {})", std::generic_category().message(error_number), error_number);
}

Result<MappedFile> MappedFile::open(const std::filesystem::path& path) {
  // O_NONBLOCK: opening a named pipe must fail below rather than wait for its writer.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return error("{}: cannot open for reading: {}", path.string(), errno_text(errno));
  const Descriptor descriptor{fd};

  struct stat status {};
  if (::fstat(fd, &status) != 0) return error("{}: cannot read the file's size: {}", path.string(), errno_text(errno));
  if (S_ISDIR(status.st_mode)) return error("{}: expected a file, found a directory", path.string());
  if (!S_ISREG(status.st_mode))
    return error("{}: expected a regular file, found a device, pipe or socket", path.string());
  if (status.st_size == 0) return error("{}: the file is empty; copy or download it again", path.string());

  const auto num_bytes = static_cast<std::size_t>(status.st_size);
  void* address = ::mmap(nullptr, num_bytes, PROT_READ, MAP_SHARED, fd, 0);
  if (address == MAP_FAILED) return error("{}: cannot map {} bytes: {}", path.string(), num_bytes, errno_text(errno));
  return MappedFile(path, {static_cast<const std::byte*>(address), num_bytes});
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)), bytes_(std::exchange(other.bytes_, {})) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  if (this != &other) {
    unmap();
    path_ = std::move(other.path_);
    bytes_ = std::exchange(other.bytes_, {});
  }
  return *this;
}

MappedFile::~MappedFile() {
  unmap();
}

void MappedFile::unmap() {
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

void MappedFile::advise(AccessPattern pattern, std::span<const std::byte> range) const {
  if (range.empty()) return;
  QN_CHECK(range.data() >= bytes_.data() && range.data() + range.size() <= bytes_.data() + bytes_.size(),
           "range of {} bytes outside the {} bytes of {}", range.size(), bytes_.size(), path_.string());
  const auto page_bytes = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<std::uintptr_t>(range.data()) / page_bytes * page_bytes;
  const auto end = reinterpret_cast<std::uintptr_t>(range.data() + range.size());
  ::madvise(reinterpret_cast<void*>(begin), end - begin, madvise_flag(pattern));
}

}  // namespace qnext
