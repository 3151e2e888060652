// Any bytes as a GGUF file: an error, or tensors that lie inside the bytes, metadata that every getter survives, and a
// header that reads the same after being written.

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/check.h"
#include "tensor/gguf.h"
#include "tensor/gguf_writer.h"

namespace {

void read_everything(const qnext::Gguf& gguf) {
  for (const qnext::GgufKv& kv : gguf.metadata()) {
    (void)qnext::gguf_value_text(kv.value);
    (void)gguf.get_bool(kv.key);
    (void)gguf.get_u32(kv.key);
    (void)gguf.get_u64(kv.key);
    (void)gguf.get_f32(kv.key);
    (void)gguf.get_string(kv.key);
    (void)gguf.get_strings(kv.key);
    (void)gguf.get_u32s(kv.key);
    (void)gguf.get_i32s(kv.key);
    (void)gguf.get_f32s(kv.key);
    (void)gguf.get_bools(kv.key);
  }
}

void write_again(const qnext::Gguf& gguf) {
  qnext::GgufHeader header;
  for (const qnext::GgufKv& kv : gguf.metadata()) header.add_copy(kv);
  for (const qnext::TensorEntry& entry : gguf.tensors()) header.add_tensor({entry.name, entry.type, entry.shape});
  auto encoded = header.encode();
  QN_CHECK(encoded.ok(), "{}", encoded.message());
  constexpr std::size_t kMostBytes = 1 << 24;  // a huge alignment makes huge, empty padding
  if (encoded->bytes.size() + encoded->data_bytes > kMostBytes) return;
  encoded->bytes.resize(encoded->bytes.size() + encoded->data_bytes);
  const auto again = qnext::Gguf::parse(encoded->bytes, "again.gguf");
  QN_CHECK(again.ok(), "{}", again.message());
  QN_CHECK(again->metadata().size() == gguf.metadata().size(), "{} keys", again->metadata().size());
  QN_CHECK(again->tensors().size() == gguf.tensors().size(), "{} tensors", again->tensors().size());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t num_bytes) {
  const auto bytes = std::as_bytes(std::span(data, num_bytes));
  const auto gguf = qnext::Gguf::parse(bytes, "fuzz.gguf");
  if (!gguf.ok()) return 0;
  for (const qnext::TensorEntry& entry : gguf->tensors()) {
    QN_CHECK(entry.data >= bytes.data() && entry.data + entry.bytes <= bytes.data() + bytes.size(), "'{}' lies outside",
             entry.name);
    QN_CHECK(gguf->find_tensor(entry.name) == &entry, "'{}' is not found", entry.name);
    (void)qnext::expect_finite_scales(entry);
  }
  read_everything(*gguf);
  write_again(*gguf);
  return 0;
}
