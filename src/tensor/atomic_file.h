#pragma once
// AtomicFile: a file that appears whole or not at all. The bytes go to DST.tmp-PID in the same folder; commit() makes
// them durable and renames them over DST. Until then, and after any failure, an older DST is untouched, and processes
// that have it mapped keep their version.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace qnext {

// Error: the disk that `dst` would be on has less than num_bytes available.
Status expect_free_space(const std::filesystem::path& dst, std::uint64_t num_bytes);

// Removes what writers of `dst` that were killed left beside it.
void remove_abandoned_temporaries(const std::filesystem::path& dst);

class AtomicFile {
 public:
  // num_bytes: what will be written, so that a disk that is too small is refused before an hour of work, not after.
  // Errors: folder missing or not writable; not enough free space; a temporary file of our name is there already.
  static Result<AtomicFile> create(const std::filesystem::path& dst, std::uint64_t num_bytes);

  AtomicFile(AtomicFile&& other) noexcept;
  AtomicFile& operator=(AtomicFile&& other) = delete;
  ~AtomicFile();  // without commit(): the temporary file is removed

  // Small pieces are gathered. Errors: disk full, I/O; the temporary file is removed, and nothing more may be called.
  Status append(std::span<const std::byte> bytes);

  // Flush, fsync, rename, fsync of the folder. Aborts when the bytes appended are not the bytes announced.
  Status commit();

  std::uint64_t written_bytes() const { return written_bytes_; }

 private:
  AtomicFile(std::filesystem::path dst, std::filesystem::path tmp, int fd, std::uint64_t num_bytes);
  Status flush();
  Status write_all(std::span<const std::byte> bytes);
  Error give_up(std::string_view action, int error_number);
  void discard();

  std::filesystem::path dst_;
  std::filesystem::path tmp_;
  std::optional<int> fd_;  // none once committed, given up or moved from
  std::uint64_t expected_bytes_ = 0;
  std::uint64_t written_bytes_ = 0;
  std::vector<std::byte> pending_;  // appended, not yet written
};

// A text as a whole file.
Status write_file(const std::filesystem::path& dst, std::string_view text);

}  // namespace qnext
