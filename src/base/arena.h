#pragma once
// Arena: scratch memory handed out in order and given back all at once or down to a mark. After the first steps have
// shown how much is needed, it allocates nothing.

#include <cstddef>
#include <cstring>
#include <memory>
#include <type_traits>
#include <vector>

#include "base/units.h"

namespace qnext {

class Arena {
 public:
  static constexpr std::size_t kAlignment = 64;

  Arena() = default;
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // Uninitialised memory for `count` values, 64-byte aligned, valid until its scope is released.
  // Builds with QNEXT_POISON fill it with 0xFF bytes: every float in it is a NaN.
  template <class T>
  T* allocate(std::size_t count) {
    static_assert(std::is_trivially_copyable_v<T> && std::is_trivially_destructible_v<T>);
    return static_cast<T*>(allocate_bytes(count * sizeof(T)));
  }

  // Gives back, at the end of its life, what was allocated since its beginning. Scopes nest.
  class Scope {
   public:
    explicit Scope(Arena& arena) : arena_(arena), block_idx_(arena.block_idx_), used_bytes_(arena.used_bytes_) {}
    ~Scope() { arena_.release(block_idx_, used_bytes_); }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Arena& arena_;
    std::size_t block_idx_;
    std::size_t used_bytes_;
  };

  std::size_t reserved_bytes() const;

 private:
  struct FreeDeleter {
    void operator()(std::byte* memory) const;
  };
  struct Block {
    std::unique_ptr<std::byte, FreeDeleter> memory;
    std::size_t capacity_bytes = 0;
  };

  void* allocate_bytes(std::size_t num_bytes) {
    const std::size_t rounded_bytes = round_up(num_bytes > 0 ? num_bytes : 1, kAlignment);
    if (block_idx_ == blocks_.size() || used_bytes_ + rounded_bytes > blocks_[block_idx_].capacity_bytes) {
      find_block(rounded_bytes);
    }
    std::byte* out = blocks_[block_idx_].memory.get() + used_bytes_;
    used_bytes_ += rounded_bytes;
#ifdef QNEXT_POISON
    std::memset(out, 0xFF, rounded_bytes);
#endif
    return out;
  }
  void find_block(std::size_t rounded_bytes);  // makes the block in use one with this much room
  void release(std::size_t block_idx, std::size_t used_bytes);

  std::vector<Block> blocks_;
  std::size_t block_idx_ = 0;   // the block in use
  std::size_t used_bytes_ = 0;  // of that block
};

}  // namespace qnext
