// Any bytes as a safetensors file: an error or tensors that lie inside the bytes.

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/check.h"
#include "tensor/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t num_bytes) {
  const auto bytes = std::as_bytes(std::span(data, num_bytes));
  const auto checkpoint = qnext::Safetensors::parse(bytes, "fuzz.safetensors");
  if (!checkpoint.ok()) return 0;
  std::size_t total_bytes = 0;
  for (const qnext::TensorEntry& entry : checkpoint->tensors()) {
    QN_CHECK(entry.data >= bytes.data() && entry.data + entry.bytes <= bytes.data() + bytes.size(), "'{}' lies outside",
             entry.name);
    QN_CHECK(checkpoint->find(entry.name) == &entry, "'{}' is not found", entry.name);
    total_bytes += entry.bytes;
    (void)qnext::expect_finite_scales(entry);
  }
  QN_CHECK(total_bytes <= num_bytes, "{} bytes of tensors in {}", total_bytes, num_bytes);
  return 0;
}
