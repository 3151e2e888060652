#pragma once
// MappedFile: a whole file in the address space, read-only. Pages come in when they are touched, so that opening costs
// the same for a kilobyte and for 160 GB.

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>

#include "base/result.h"

namespace qnext {

// What the kernel is told about the reads to come (madvise). kDoneForNow: none soon; the pages leave our resident set,
// and come back from the file when they are touched again.
enum class AccessPattern { kNormal, kSequential, kRandom, kWillNeed, kDoneForNow };

class MappedFile {
 public:
  // Errors: the file is missing, unreadable, empty, or not a regular file; the text has the path and the system's
  // reason. A file that another process truncates while it is mapped kills us (SIGBUS): writers must replace files by
  // rename (atomic_file.h), which leaves the mapped one alone.
  static Result<MappedFile> open(const std::filesystem::path& path);

  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  const std::filesystem::path& path() const { return path_; }
  std::span<const std::byte> bytes() const { return bytes_; }

  // Advice only: a kernel that declines it changes nothing. `range` must lie inside bytes().
  void advise(AccessPattern pattern) const { advise(pattern, bytes_); }
  void advise(AccessPattern pattern, std::span<const std::byte> range) const;

 private:
  MappedFile(std::filesystem::path path, std::span<const std::byte> bytes) : path_(std::move(path)), bytes_(bytes) {}
  void unmap();

  std::filesystem::path path_;
  std::span<const std::byte> bytes_;  // page-aligned; empty once moved from
};

// "No space left on device (errno 28)"
std::string errno_text(int error_number);

}  // namespace qnext
