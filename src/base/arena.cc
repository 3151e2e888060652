#include "base/arena.h"

#include <algorithm>
#include <cstdlib>

#include "base/check.h"

namespace qnext {
namespace {

constexpr std::size_t kFirstBlockBytes = std::size_t{1} << 20;

}  // namespace

void Arena::FreeDeleter::operator()(std::byte* memory) const {
  std::free(memory);
}

void Arena::find_block(std::size_t rounded_bytes) {
  while (block_idx_ < blocks_.size() && used_bytes_ + rounded_bytes > blocks_[block_idx_].capacity_bytes) {
    ++block_idx_;
    used_bytes_ = 0;
  }
  if (block_idx_ < blocks_.size()) return;
  const std::size_t grown_bytes = blocks_.empty() ? kFirstBlockBytes : 2 * blocks_.back().capacity_bytes;
  const std::size_t capacity_bytes = std::max(grown_bytes, rounded_bytes);
  auto* memory = static_cast<std::byte*>(std::aligned_alloc(kAlignment, round_up(capacity_bytes, kAlignment)));
  QN_CHECK(memory != nullptr, "out of memory: {} bytes of scratch", capacity_bytes);
  blocks_.push_back({std::unique_ptr<std::byte, FreeDeleter>(memory), capacity_bytes});
}

void Arena::release(std::size_t block_idx, std::size_t used_bytes) {
  block_idx_ = block_idx;
  used_bytes_ = used_bytes;
  // Once empty, several blocks become one that holds them all, so that the next step walks dense memory.
  if (block_idx_ == 0 && used_bytes_ == 0 && blocks_.size() > 1) {
    const std::size_t total_bytes = reserved_bytes();
    blocks_.clear();
    allocate_bytes(total_bytes);
    used_bytes_ = 0;
  }
}

std::size_t Arena::reserved_bytes() const {
  std::size_t total_bytes = 0;
  for (const Block& block : blocks_) total_bytes += block.capacity_bytes;
  return total_bytes;
}

}  // namespace qnext
