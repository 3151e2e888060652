#include "engine/cache_memory.h"

#include <sys/mman.h>

#include <cerrno>

#include "tensor/mapped_file.h"

namespace qnext {

Result<CacheMemory> CacheMemory::make(std::size_t num_bytes, const char* purpose) {
  if (num_bytes == 0) return CacheMemory(nullptr, 0);
  void* data = mmap(nullptr, num_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) {
    return error("cannot reserve {} bytes of memory for the {}: {}; lower the context or the number of sequences",
                 num_bytes, purpose, errno_text(errno));
  }
  return CacheMemory(static_cast<std::byte*>(data), num_bytes);
}

CacheMemory::~CacheMemory() {
  if (data_ != nullptr) munmap(data_, num_bytes_);
}

}  // namespace qnext
