#include "tensor/checked_file.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>

#include "base/units.h"

namespace qnext {
namespace {

constexpr std::size_t kHeaderBytes = 4096;
constexpr std::size_t kPieceBytes = std::size_t{16} << 20;
constexpr std::array<char, 8> kMagic = {'Q', 'N', 'X', 'C', 'H', 'K', '0', '1'};

struct Header {
  std::array<char, 8> magic = kMagic;
  std::uint64_t tag = 0;
  std::uint64_t num_bytes = 0;
};

std::vector<std::byte> header_bytes(std::uint64_t tag, std::uint64_t num_bytes) {
  const Header header{.tag = tag, .num_bytes = num_bytes};
  std::vector<std::byte> out(kHeaderBytes);
  std::memcpy(out.data(), &header, sizeof(header));
  return out;
}

// Header, data, a hash a piece, the hash of the frame.
std::uint64_t file_bytes(std::uint64_t num_bytes) {
  return kHeaderBytes + num_bytes + sizeof(std::uint64_t) * (ceil_div(num_bytes, kPieceBytes) + 1);
}

std::uint64_t frame_hash(std::span<const std::byte> header, std::span<const std::byte> hashes) {
  return hash_bytes(hashes, hash_bytes(header));
}

// The first piece of `data` that is not what its hash says; the number of pieces when all are.
std::size_t first_damaged_piece(std::span<const std::byte> data, std::span<const std::byte> hashes, ThreadPool& pool) {
  const std::size_t num_pieces = ceil_div(data.size(), kPieceBytes);
  std::atomic<std::size_t> first{num_pieces};
  pool.for_each(num_pieces, [&](std::size_t i) {
    std::uint64_t expected = 0;
    std::memcpy(&expected, hashes.data() + i * sizeof(expected), sizeof(expected));
    const std::size_t begin = i * kPieceBytes;
    if (hash_bytes(data.subspan(begin, std::min(kPieceBytes, data.size() - begin))) == expected) return;
    std::size_t seen = first.load();
    while (i < seen && !first.compare_exchange_weak(seen, i)) {
    }
  });
  return first;
}

}  // namespace

std::uint64_t hash_bytes(std::span<const std::byte> bytes, std::uint64_t seed) {
  return XXH3_64bits_withSeed(bytes.data(), bytes.size(), seed);
}

Result<CheckedFileWriter> CheckedFileWriter::create(const std::filesystem::path& dst, std::uint64_t tag,
                                                    std::uint64_t num_bytes) {
  QN_TRY(AtomicFile file, AtomicFile::create(dst, file_bytes(num_bytes)));
  std::vector<std::byte> header = header_bytes(tag, num_bytes);
  QN_RETURN_IF_ERROR(file.append(header));
  return CheckedFileWriter(std::move(file), std::move(header), num_bytes);
}

Status CheckedFileWriter::append(std::span<const std::byte> data) {
  QN_RETURN_IF_ERROR(file_.append(data));
  while (!data.empty()) {
    const std::size_t count = std::min(data.size(), kPieceBytes - piece_.size());
    piece_.insert(piece_.end(), data.begin(), data.begin() + static_cast<std::ptrdiff_t>(count));
    data = data.subspan(count);
    if (piece_.size() < kPieceBytes) continue;
    hashes_.push_back(hash_bytes(piece_));
    piece_.clear();
  }
  return success();
}

Status CheckedFileWriter::commit() {
  if (!piece_.empty()) hashes_.push_back(hash_bytes(piece_));
  QN_CHECK(hashes_.size() == ceil_div(num_bytes_, kPieceBytes), "{} pieces written of {} bytes", hashes_.size(),
           num_bytes_);
  hashes_.push_back(frame_hash(header_, std::as_bytes(std::span(hashes_))));
  QN_RETURN_IF_ERROR(file_.append(std::as_bytes(std::span(hashes_))));
  return file_.commit();
}

bool CheckedFile::is_one(const std::filesystem::path& path) {
  const auto file = MappedFile::open(path);
  return file.ok() && file->bytes().size() >= kMagic.size() &&
         std::memcmp(file->bytes().data(), kMagic.data(), kMagic.size()) == 0;
}

std::optional<std::uint64_t> CheckedFile::tag_of(const std::filesystem::path& path) {
  const auto file = MappedFile::open(path);
  Header header;
  if (!file.ok() || file->bytes().size() < sizeof(header)) return std::nullopt;
  std::memcpy(&header, file->bytes().data(), sizeof(header));
  if (std::memcmp(&header, kMagic.data(), kMagic.size()) != 0) return std::nullopt;
  return header.tag;
}

Result<CheckedFile> CheckedFile::open(const std::filesystem::path& path, std::uint64_t tag,
                                      std::optional<std::uint64_t> expected_bytes, Check check, ThreadPool& pool) {
  QN_TRY(MappedFile file, MappedFile::open(path));
  const std::span<const std::byte> bytes = file.bytes();
  if (bytes.size() < kHeaderBytes || std::memcmp(bytes.data(), kMagic.data(), kMagic.size()) != 0) {
    return error("{}: not a file of ours", path.string());
  }
  const std::span<const std::byte> header = bytes.first(kHeaderBytes);
  Header found;
  std::memcpy(&found, header.data(), sizeof(found));
  const std::uint64_t num_bytes = expected_bytes.value_or(found.num_bytes);
  const std::vector<std::byte> expected = header_bytes(tag, num_bytes);
  if (!std::equal(header.begin(), header.end(), expected.begin())) {
    return error("{}: made from something else", path.string());
  }
  if (num_bytes > bytes.size() || bytes.size() != file_bytes(num_bytes)) {
    return error("{}: torn, {} bytes with {} of data announced", path.string(), bytes.size(), num_bytes);
  }
  const std::span<const std::byte> trailer = bytes.subspan(kHeaderBytes + num_bytes);
  const std::span<const std::byte> hashes = trailer.first(trailer.size() - sizeof(std::uint64_t));
  const std::uint64_t hash = frame_hash(header, hashes);
  if (std::memcmp(&hash, trailer.data() + hashes.size(), sizeof(hash)) != 0) {
    return error("{}: its checksums are damaged", path.string());
  }
  CheckedFile out(std::move(file), num_bytes);
  if (check == Check::kWhole) {
    const std::size_t piece = first_damaged_piece(out.data(), hashes, pool);
    if (piece < ceil_div(num_bytes, kPieceBytes)) {
      return error("{}: damaged after byte {}", path.string(), kHeaderBytes + piece * kPieceBytes);
    }
  }
  return out;
}

std::span<const std::byte> CheckedFile::data() const {
  return file_.bytes().subspan(kHeaderBytes, num_bytes_);
}

}  // namespace qnext
