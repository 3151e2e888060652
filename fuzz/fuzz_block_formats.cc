// Any bytes are valid blocks: decode_blocks must neither read beyond them nor meet undefined behaviour.
// Input: one byte that picks the type, then the blocks (a last part of a block is ignored).

#include <cstddef>
#include <cstdint>
#include <vector>

#include "tensor/block_formats.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t num_bytes) {
  using namespace qnext;
  if (num_bytes == 0) return 0;
  const auto type = static_cast<DType>(data[0] % kNumDTypes);
  if (type == DType::kI32 || type == DType::kI64 || type == DType::kU8 || type == DType::kI16) return 0;
  const DTypeInfo& info = dtype_info(type);
  // An exact copy, so that the sanitizer sees a read of even one byte too many.
  const std::size_t num_blocks = (num_bytes - 1) / info.block_bytes;
  const auto* first = reinterpret_cast<const std::byte*>(data + 1);
  const std::vector<std::byte> blocks(first, first + num_blocks * info.block_bytes);
  std::vector<float> values(num_blocks * info.block_elements);
  decode_blocks(values.data(), blocks.data(), type, values.size());
  return 0;
}
