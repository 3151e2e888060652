#include "tensor/gguf_writer.h"

#include <bit>
#include <cstdint>
#include <cstring>
#include <utility>

#include "base/units.h"

namespace qnext {
namespace {

void put_bytes(std::vector<std::byte>& out, std::span<const std::byte> bytes) {
  out.insert(out.end(), bytes.begin(), bytes.end());
}

template <class T>
void put(std::vector<std::byte>& out, T value) {
  put_bytes(out, std::as_bytes(std::span(&value, 1)));
}

void put_string(std::vector<std::byte>& out, std::string_view text) {
  put<std::uint64_t>(out, text.size());
  put_bytes(out, std::as_bytes(std::span(text)));
}

// The bytes of a tensor that GGUF, and llama.cpp behind it, can hold.
Result<std::uint64_t> tensor_bytes(const TensorSpec& spec) {
  const std::string what =
      fmt::format("tensor '{}' {} {}", printable(spec.name), dtype_info(spec.type).name, shape_text(spec.shape));
  if (spec.name.empty() || spec.name.size() > kGgufMaxNameBytes) {
    return error("{}: GGUF names have 1 to {} bytes, found {}", what, kGgufMaxNameBytes, spec.name.size());
  }
  if (!dtype_info(spec.type).ggml_type) return error("{}: GGUF has no such type; convert it to another", what);
  if (spec.shape.empty() || spec.shape.size() > kGgufMaxRank) {
    return error("{}: GGUF tensors have 1 to {} axes, found {}", what, kGgufMaxRank, spec.shape.size());
  }
  const std::optional<std::size_t> bytes = try_tensor_bytes(spec.type, spec.shape);
  if (!bytes || *bytes == 0) {
    return error("{}: expected no empty axis and rows of a multiple of {} elements", what,
                 dtype_info(spec.type).block_elements);
  }
  return *bytes;
}

}  // namespace

void GgufHeader::begin_kv(std::string_view key, GgufType type) {
  const bool is_new = keys_.emplace(key).second;
  QN_CHECK(!key.empty() && is_new, "key '{}' added twice", key);
  put_string(metadata_, key);
  put(metadata_, type);
}

void GgufHeader::begin_array(std::string_view key, GgufType element_type, std::size_t num_elements) {
  begin_kv(key, GgufType::kArray);
  put(metadata_, element_type);
  put<std::uint64_t>(metadata_, num_elements);
}

void GgufHeader::add_bool(std::string_view key, bool value) {
  begin_kv(key, GgufType::kBool);
  put<std::uint8_t>(metadata_, value ? 1 : 0);
}

void GgufHeader::add_u32(std::string_view key, std::uint32_t value) {
  if (key == kGgufAlignmentKey) {
    QN_CHECK(std::has_single_bit(value) && value <= kGgufMaxAlignment, "alignment {}", value);
    alignment_ = value;
  }
  begin_kv(key, GgufType::kU32);
  put(metadata_, value);
}

void GgufHeader::add_u64(std::string_view key, std::uint64_t value) {
  begin_kv(key, GgufType::kU64);
  put(metadata_, value);
}

void GgufHeader::add_f32(std::string_view key, float value) {
  begin_kv(key, GgufType::kF32);
  put(metadata_, value);
}

void GgufHeader::add_string(std::string_view key, std::string_view value) {
  begin_kv(key, GgufType::kString);
  put_string(metadata_, value);
}

void GgufHeader::add_bools(std::string_view key, const std::vector<bool>& values) {
  begin_array(key, GgufType::kBool, values.size());
  for (const bool value : values) put<std::uint8_t>(metadata_, value ? 1 : 0);
}

void GgufHeader::add_u32s(std::string_view key, std::span<const std::uint32_t> values) {
  begin_array(key, GgufType::kU32, values.size());
  put_bytes(metadata_, std::as_bytes(values));
}

void GgufHeader::add_i32s(std::string_view key, std::span<const std::int32_t> values) {
  begin_array(key, GgufType::kI32, values.size());
  put_bytes(metadata_, std::as_bytes(values));
}

void GgufHeader::add_f32s(std::string_view key, std::span<const float> values) {
  begin_array(key, GgufType::kF32, values.size());
  put_bytes(metadata_, std::as_bytes(values));
}

void GgufHeader::add_strings(std::string_view key, std::span<const std::string_view> values) {
  begin_array(key, GgufType::kString, values.size());
  for (const std::string_view value : values) put_string(metadata_, value);
}

void GgufHeader::add_copy(const GgufKv& kv) {
  if (kv.key == kGgufAlignmentKey) {  // the reader has seen to its type and value
    std::uint32_t alignment = 0;
    std::memcpy(&alignment, kv.value.payload.data(), sizeof(alignment));
    return add_u32(kv.key, alignment);
  }
  if (kv.value.is_array()) {
    begin_array(kv.key, kv.value.element_type, kv.value.num_elements);
  } else {
    begin_kv(kv.key, kv.value.type);
  }
  put_bytes(metadata_, kv.value.payload);
}

Result<GgufHeader::Encoded> GgufHeader::encode() const {
  Encoded out{.bytes = {}, .data_bytes = 0, .alignment = alignment_};
  put_bytes(out.bytes, std::as_bytes(std::span(kGgufMagic)));
  put(out.bytes, kGgufVersion);
  put<std::uint64_t>(out.bytes, tensors_.size());
  put<std::uint64_t>(out.bytes, keys_.size());
  put_bytes(out.bytes, metadata_);

  std::set<std::string_view> names;
  for (const TensorSpec& spec : tensors_) {
    QN_TRY(const std::uint64_t bytes, tensor_bytes(spec));
    if (!names.insert(spec.name).second) return error("tensor '{}' is to be written twice", printable(spec.name));
    put_string(out.bytes, spec.name);
    put<std::uint32_t>(out.bytes, static_cast<std::uint32_t>(spec.shape.size()));
    for (std::size_t axis = spec.shape.size(); axis-- > 0;) put<std::uint64_t>(out.bytes, spec.shape[axis]);
    put(out.bytes, *dtype_info(spec.type).ggml_type);
    put(out.bytes, out.data_bytes);
    out.data_bytes += round_up(bytes, alignment_);  // each below 2^63, so that the sum cannot wrap unseen
    if (out.data_bytes > static_cast<std::uint64_t>(PTRDIFF_MAX)) {
      return error("tensor '{}': the tensors so far have more bytes than can be counted", printable(spec.name));
    }
  }
  out.bytes.resize(round_up(out.bytes.size(), alignment_));
  return out;
}

Result<GgufWriter> GgufWriter::create(const std::filesystem::path& path, const GgufHeader& header) {
  QN_TRY(const GgufHeader::Encoded encoded, header.encode());
  std::vector<std::uint64_t> tensor_bytes;
  for (const TensorSpec& spec : header.tensors()) tensor_bytes.push_back(*try_tensor_bytes(spec.type, spec.shape));
  QN_TRY(AtomicFile file, AtomicFile::create(path, encoded.bytes.size() + encoded.data_bytes));
  GgufWriter writer(std::move(file), std::move(tensor_bytes), encoded.alignment);
  QN_RETURN_IF_ERROR(writer.file_.append(encoded.bytes));
  return writer;
}

Status GgufWriter::append(std::span<const std::byte> bytes) {
  if (bytes.empty()) return success();
  QN_CHECK(tensor_idx_ < tensor_bytes_.size() && bytes.size() <= tensor_bytes_[tensor_idx_] - tensor_written_bytes_,
           "{} bytes for tensor {} of {}, of which {} are written", bytes.size(), tensor_idx_, tensor_bytes_.size(),
           tensor_written_bytes_);
  QN_RETURN_IF_ERROR(file_.append(bytes));
  tensor_written_bytes_ += bytes.size();
  if (tensor_written_bytes_ < tensor_bytes_[tensor_idx_]) return success();
  const std::vector<std::byte> padding(round_up(tensor_written_bytes_, alignment_) - tensor_written_bytes_);
  ++tensor_idx_;
  tensor_written_bytes_ = 0;
  return file_.append(padding);
}

}  // namespace qnext
