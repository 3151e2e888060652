#pragma once
// CheckedFile: data that can be computed again, kept in a file between runs. It says what it was computed from, and
// damage shows.
//
//   4,096 bytes   "QNXCHK01", tag, number of data bytes (little endian, 8 bytes each), zeros
//   data
//   8 bytes each  XXH3 of every 16 MiB of the data, then of all that stands before and after the data

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/result.h"
#include "base/thread_pool.h"
#include "tensor/atomic_file.h"
#include "tensor/mapped_file.h"

namespace qnext {

// XXH3 of `bytes`, continued from `seed`.
std::uint64_t hash_bytes(std::span<const std::byte> bytes, std::uint64_t seed = 0);

class CheckedFileWriter {
 public:
  // `tag`: what the data is computed from, as a hash. Errors: AtomicFile::create's.
  static Result<CheckedFileWriter> create(const std::filesystem::path& dst, std::uint64_t tag, std::uint64_t num_bytes);

  // Errors: AtomicFile::append's, AtomicFile::commit's. An older dst stays until commit() succeeds.
  Status append(std::span<const std::byte> data);
  Status commit();

 private:
  CheckedFileWriter(AtomicFile file, std::vector<std::byte> header, std::uint64_t num_bytes)
      : file_(std::move(file)), header_(std::move(header)), num_bytes_(num_bytes) {}

  AtomicFile file_;
  std::vector<std::byte> header_;
  std::uint64_t num_bytes_;
  std::vector<std::byte> piece_;  // appended, not yet hashed
  std::vector<std::uint64_t> hashes_;
};

class CheckedFile {
 public:
  // kWhole reads and checks all data, with every thread of the pool; kFrame checks all but the data.
  enum class Check { kWhole, kFrame };

  // num_bytes: of the data, where the caller knows how many it must be.
  // Errors: MappedFile::open's; a file that is not one of these, was made from something else, or is damaged.
  static Result<CheckedFile> open(const std::filesystem::path& path, std::uint64_t tag,
                                  std::optional<std::uint64_t> num_bytes, Check check, ThreadPool& pool);

  // Whether the file, whole or not, is one of these: whether a newer one may take its place.
  static bool is_one(const std::filesystem::path& path);

  // What the file says that it was made from, if it is one of these and long enough to say so.
  static std::optional<std::uint64_t> tag_of(const std::filesystem::path& path);

  std::span<const std::byte> data() const;  // begins at a page

 private:
  explicit CheckedFile(MappedFile file, std::uint64_t num_bytes) : file_(std::move(file)), num_bytes_(num_bytes) {}

  MappedFile file_;
  std::uint64_t num_bytes_;
};

}  // namespace qnext
