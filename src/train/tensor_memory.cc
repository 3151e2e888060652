#include "train/tensor_memory.h"

#include <c10/core/CPUAllocator.h>
#include <malloc.h>
#include <sys/mman.h>
#include <torch/version.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <new>
#include <vector>

namespace qnext::train {
namespace {

constexpr std::size_t kHeaderBytes = 64;      // before the tensor's own, and its alignment
constexpr int kMostMmapThreshold = 32 << 20;  // that glibc takes
constexpr int kMostKeptBytes = 1 << 30;
constexpr std::size_t kHugeBytes = std::size_t{2} << 20;

// Eight sizes to a power of two, so that tensors whose sizes follow the data find each other's blocks.
std::size_t size_class(std::size_t bytes) {
  const std::size_t step = std::max(std::bit_floor(bytes) / 8, kHeaderBytes);
  return (bytes + step - 1) / step * step;
}

struct FreeBlocks {
  std::map<std::size_t, std::vector<void*>> by_size;
  ~FreeBlocks() {
    for (auto& [bytes, blocks] : by_size) {
      for (void* block : blocks) std::free(block);
    }
  }
};
thread_local FreeBlocks free_blocks;

void* new_block(std::size_t bytes) {
  const bool huge = bytes >= kHugeBytes;
  const std::size_t alignment = huge ? kHugeBytes : kHeaderBytes;
  void* block = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
  if (block == nullptr) throw std::bad_alloc();      // libtorch's own way, too
  if (huge) ::madvise(block, bytes, MADV_HUGEPAGE);  // advice, which may fail
  return block;
}

void give_back(void* data) {
  if (data == nullptr) return;
  void* block = static_cast<std::byte*>(data) - kHeaderBytes;
  free_blocks.by_size[*static_cast<std::size_t*>(block)].push_back(block);
}

c10::DataPtr kept_or_new(std::size_t num_bytes) {
  if (num_bytes == 0) return {nullptr, nullptr, &give_back, c10::Device(c10::DeviceType::CPU)};
  const std::size_t bytes = size_class(num_bytes + kHeaderBytes);
  std::vector<void*>& kept = free_blocks.by_size[bytes];
  void* block = kept.empty() ? new_block(bytes) : kept.back();
  if (!kept.empty()) kept.pop_back();
  *static_cast<std::size_t*>(block) = bytes;
  void* data = static_cast<std::byte*>(block) + kHeaderBytes;
  return {data, data, &give_back, c10::Device(c10::DeviceType::CPU)};
}

class KeepingAllocator final : public c10::Allocator {
 public:
  c10::DeleterFnPtr raw_deleter() const override { return &give_back; }
#if TORCH_VERSION_MAJOR > 1
  c10::DataPtr allocate(std::size_t num_bytes) override {
    return kept_or_new(num_bytes);
  }
  void copy_data(void* dst, const void* src, std::size_t n) const override {
    default_copy_data(dst, src, n);
  }
#else
  c10::DataPtr allocate(std::size_t num_bytes) const override {
    return kept_or_new(num_bytes);
  }
#endif
};

}  // namespace

void keep_tensor_memory() {
  // The ops' own buffers, too: what malloc gives back to the system costs a page fault each time it is taken again.
  ::mallopt(M_MMAP_THRESHOLD, kMostMmapThreshold);
  ::mallopt(M_TRIM_THRESHOLD, kMostKeptBytes);
  static KeepingAllocator allocator;
  c10::SetCPUAllocator(&allocator, /*priority=*/255);
}

}  // namespace qnext::train
