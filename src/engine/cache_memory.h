#pragma once
// CacheMemory: address space for a cache. The system gives it pages, zeroed, only as they are touched.

#include <cstddef>
#include <utility>

#include "base/result.h"

namespace qnext {

// In builds with QNEXT_POISON, what a cache gives up is filled with 0xFF bytes: every float in it is a NaN.
#ifdef QNEXT_POISON
inline constexpr bool kPoison = true;
#else
inline constexpr bool kPoison = false;
#endif

class CacheMemory {
 public:
  // `purpose` names it in the error: the system refuses.
  static Result<CacheMemory> make(std::size_t num_bytes, const char* purpose);
  ~CacheMemory();
  CacheMemory(CacheMemory&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), num_bytes_(std::exchange(other.num_bytes_, 0)) {}
  CacheMemory& operator=(CacheMemory&&) = delete;

  std::byte* data() const { return data_; }  // 4,096-byte aligned; null when num_bytes was 0
  std::size_t num_bytes() const { return num_bytes_; }

 private:
  CacheMemory(std::byte* data, std::size_t num_bytes) : data_(data), num_bytes_(num_bytes) {}

  std::byte* data_ = nullptr;
  std::size_t num_bytes_ = 0;
};

}  // namespace qnext
