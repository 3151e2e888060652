#include "tensor/gguf_format.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <numeric>
#include <optional>
#include <utility>

#include "base/units.h"

namespace qnext {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF numbers are read as they lie in the file");

struct TypeInfo {
  std::string_view name;
  std::size_t scalar_bytes;
};
constexpr std::array<TypeInfo, kNumGgufTypes> kTypes = {{{"u8", 1},
                                                         {"i8", 1},
                                                         {"u16", 2},
                                                         {"i16", 2},
                                                         {"u32", 4},
                                                         {"i32", 4},
                                                         {"f32", 4},
                                                         {"bool", 1},
                                                         {"string", 0},
                                                         {"array", 0},
                                                         {"u64", 8},
                                                         {"i64", 8},
                                                         {"f64", 8}}};

constexpr std::size_t kStringPrefixBytes = 8;                                    // u64 length
constexpr std::size_t kArrayPrefixBytes = 4 + 8;                                 // u32 type, u64 count
constexpr std::size_t kMinKvBytes = kStringPrefixBytes + 1 + 4 + 1;              // key, type, value
constexpr std::size_t kMinTensorBytes = kStringPrefixBytes + 1 + 4 + 8 + 4 + 8;  // name, rank, one extent, type, offset

// Reads forward; refuses to pass the end.
class ByteReader {
 public:
  explicit ByteReader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  std::size_t position() const { return position_; }
  std::size_t remaining() const { return bytes_.size() - position_; }

  template <class T>
  std::optional<T> try_read() {
    T value;
    if (remaining() < sizeof(T)) return std::nullopt;
    std::memcpy(&value, bytes_.data() + position_, sizeof(T));
    position_ += sizeof(T);
    return value;
  }
  std::optional<std::span<const std::byte>> try_take(std::uint64_t num_bytes) {
    if (num_bytes > remaining()) return std::nullopt;
    const auto taken = bytes_.subspan(position_, num_bytes);
    position_ += num_bytes;
    return taken;
  }
  std::optional<std::string_view> try_read_string() {
    const auto num_bytes = try_read<std::uint64_t>();
    const auto text = num_bytes ? try_take(*num_bytes) : std::nullopt;
    if (!text) return std::nullopt;
    return std::string_view(reinterpret_cast<const char*>(text->data()), text->size());
  }
  std::span<const std::byte> since(std::size_t begin) const { return bytes_.subspan(begin, position_ - begin); }

 private:
  std::span<const std::byte> bytes_;
  std::size_t position_ = 0;
};

class PartParser {
 public:
  PartParser(std::span<const std::byte> bytes, std::size_t file_idx, const std::string& file_name)
      : bytes_(bytes), reader_(bytes), file_idx_(file_idx), file_name_(file_name) {}

  Result<GgufPart> parse() {
    QN_RETURN_IF_ERROR(parse_prefix());
    part_.metadata.reserve(num_kvs_);
    for (std::uint64_t kv_idx = 0; kv_idx < num_kvs_; ++kv_idx) QN_RETURN_IF_ERROR(parse_kv(kv_idx));
    QN_RETURN_IF_ERROR(expect_distinct_keys());
    QN_RETURN_IF_ERROR(apply_alignment());
    part_.tensors.reserve(num_tensors_);
    offsets_.reserve(num_tensors_);
    for (std::uint64_t tensor_idx = 0; tensor_idx < num_tensors_; ++tensor_idx) {
      QN_RETURN_IF_ERROR(parse_tensor(tensor_idx));
    }
    QN_RETURN_IF_ERROR(place_tensors());
    QN_RETURN_IF_ERROR(expect_no_overlap());
    return std::move(part_);
  }

 private:
  Error cut_off(std::string_view what) const {
    return error(
        "{}: {} at byte {}: the file ends inside it ({} bytes); it is damaged or cut off: copy or download it again",
        file_name_, what, reader_.position(), bytes_.size());
  }

  Status parse_prefix() {
    const auto magic = reader_.try_take(kGgufMagic.size());
    if (!magic || std::memcmp(magic->data(), kGgufMagic.data(), kGgufMagic.size()) != 0) {
      return error("{}: expected a GGUF file, which begins with the letters GGUF", file_name_);
    }
    const auto version = reader_.try_read<std::uint32_t>();
    if (!version) return cut_off("the version");
    if (*version != 2 && *version != kGgufVersion) {
      const bool swapped = (*version & 0xFFFFU) == 0;
      return error("{}: version: expected 2 or 3, found {}{}", file_name_, *version,
                   swapped ? "; big-endian files are not supported: convert it to little-endian"
                           : "; convert the model again with a current converter");
    }
    const auto num_tensors = reader_.try_read<std::uint64_t>();
    const auto num_kvs = reader_.try_read<std::uint64_t>();
    if (!num_tensors || !num_kvs) return cut_off("the tensor and key counts");
    // A count is believed only when the rest of the file could hold as many of the smallest.
    if (*num_kvs > reader_.remaining() / kMinKvBytes || *num_tensors > reader_.remaining() / kMinTensorBytes) {
      return error("{}: header: {} keys and {} tensors do not fit in a file of {} bytes; it is damaged or cut off",
                   file_name_, *num_kvs, *num_tensors, bytes_.size());
    }
    num_tensors_ = *num_tensors;
    num_kvs_ = *num_kvs;
    return success();
  }

  Status parse_kv(std::uint64_t kv_idx) {
    const auto key = reader_.try_read_string();
    if (!key) return cut_off(fmt::format("the name of key {}", kv_idx));
    if (key->empty()) return error("{}: key {}: expected a name, found an empty one", file_name_, kv_idx);
    const std::string what = fmt::format("key '{}'", printable(*key));
    GgufValue value;
    QN_TRY(value.type, parse_type(what));
    value.element_type = value.type;
    if (value.is_array()) {
      QN_TRY(value.element_type, parse_type(what));
      const auto count = reader_.try_read<std::uint64_t>();
      if (!count) return cut_off(what);
      value.num_elements = *count;
    }
    const std::size_t begin = reader_.position();
    QN_RETURN_IF_ERROR(skip_elements(what, value.element_type, value.num_elements, 1));
    value.payload = reader_.since(begin);
    part_.metadata.push_back({*key, value});
    return success();
  }

  Result<GgufType> parse_type(std::string_view what) {
    const auto number = reader_.try_read<std::uint32_t>();
    if (!number) return cut_off(what);
    if (*number >= kNumGgufTypes) {
      return error("{}: {}: expected a value type below {}, found {}", file_name_, what, kNumGgufTypes, *number);
    }
    return static_cast<GgufType>(*number);
  }

  // `depth`: how many arrays are around the elements, the value itself counted as one.
  Status skip_elements(std::string_view what, GgufType type, std::uint64_t count, std::size_t depth) {
    if (type == GgufType::kString) {
      if (count > reader_.remaining() / kStringPrefixBytes) return cut_off(what);
      for (std::uint64_t i = 0; i < count; ++i) {
        if (!reader_.try_read_string()) return cut_off(what);
      }
      return success();
    }
    if (type == GgufType::kArray) {
      if (depth == kGgufMaxNesting)
        return error("{}: {}: arrays nested more than {} deep", file_name_, what, kGgufMaxNesting);
      if (count > reader_.remaining() / kArrayPrefixBytes) return cut_off(what);
      for (std::uint64_t i = 0; i < count; ++i) {
        QN_TRY(const GgufType inner, parse_type(what));
        const auto inner_count = reader_.try_read<std::uint64_t>();
        if (!inner_count) return cut_off(what);
        QN_RETURN_IF_ERROR(skip_elements(what, inner, *inner_count, depth + 1));
      }
      return success();
    }
    const std::size_t scalar_bytes = gguf_scalar_bytes(type);
    if (count > reader_.remaining() / scalar_bytes) return cut_off(what);
    const auto scalars = reader_.try_take(count * scalar_bytes);
    if (type == GgufType::kBool &&
        std::any_of(scalars->begin(), scalars->end(), [](std::byte b) { return b > std::byte{1}; })) {
      return error("{}: {}: expected a bool to be 0 or 1, found another byte", file_name_, what);
    }
    return success();
  }

  Status expect_distinct_keys() const {
    std::vector<std::string_view> keys;
    keys.reserve(part_.metadata.size());
    for (const GgufKv& kv : part_.metadata) keys.push_back(kv.key);
    std::sort(keys.begin(), keys.end());
    const auto twice = std::adjacent_find(keys.begin(), keys.end());
    if (twice != keys.end()) return error("{}: key '{}' is there twice", file_name_, printable(*twice));
    return success();
  }

  Status apply_alignment() {
    for (const GgufKv& kv : part_.metadata) {
      if (kv.key != kGgufAlignmentKey) continue;
      if (kv.value.type != GgufType::kU32) {
        return error("{}: key '{}': expected u32, found {}", file_name_, kv.key, gguf_type_text(kv.value));
      }
      std::uint32_t alignment = 0;
      std::memcpy(&alignment, kv.value.payload.data(), sizeof(alignment));
      if (!std::has_single_bit(alignment) || alignment > kGgufMaxAlignment) {
        return error("{}: key '{}': expected a power of two up to {}, found {}", file_name_, kv.key, kGgufMaxAlignment,
                     alignment);
      }
      part_.alignment = alignment;
    }
    return success();
  }

  Status parse_tensor(std::uint64_t tensor_idx) {
    const auto name = reader_.try_read_string();
    if (!name) return cut_off(fmt::format("the name of tensor {}", tensor_idx));
    if (name->empty() || name->size() > kGgufMaxNameBytes) {
      return error("{}: tensor {}: expected a name of 1 to {} bytes, found {} bytes", file_name_, tensor_idx,
                   kGgufMaxNameBytes, name->size());
    }
    const std::string what = fmt::format("tensor '{}'", printable(*name));
    TensorEntry entry{.name = std::string(*name), .shape = {}, .file_idx = file_idx_};
    QN_RETURN_IF_ERROR(parse_shape(entry, what));
    const auto type_number = reader_.try_read<std::uint32_t>();
    const auto offset = reader_.try_read<std::uint64_t>();
    if (!type_number || !offset) return cut_off(what);

    const std::optional<DType> type = dtype_from_ggml(*type_number);
    if (!type) {
      return error(
          "{}: {}: tensor type number {} is not supported; convert the model to a type that `qnext convert --help` "
          "lists",
          file_name_, what, *type_number);
    }
    entry.type = *type;
    const DTypeInfo& info = dtype_info(*type);
    if (entry.shape.back() % info.block_elements != 0) {
      return error("{}: {}: {} rows need a multiple of {} elements, found shape {}", file_name_, what, info.name,
                   info.block_elements, shape_text(entry.shape));
    }
    const std::optional<std::size_t> bytes = try_tensor_bytes(*type, entry.shape);
    if (!bytes)
      return error("{}: {}: shape {} has more bytes than can be counted", file_name_, what, shape_text(entry.shape));
    if (*offset % part_.alignment != 0) {
      return error("{}: {}: data offset: expected a multiple of {}, found {}", file_name_, what, part_.alignment,
                   *offset);
    }
    entry.bytes = *bytes;
    offsets_.push_back(*offset);
    part_.tensors.push_back(std::move(entry));
    return success();
  }

  Status parse_shape(TensorEntry& entry, std::string_view what) {
    const auto rank = reader_.try_read<std::uint32_t>();
    if (!rank) return cut_off(what);
    if (*rank == 0 || *rank > kGgufMaxRank) {
      return error("{}: {}: expected 1 to {} axes, found {}", file_name_, what, kGgufMaxRank, *rank);
    }
    for (std::uint32_t axis = 0; axis < *rank; ++axis) {
      const auto extent = reader_.try_read<std::uint64_t>();
      if (!extent) return cut_off(what);
      if (*extent == 0) return error("{}: {}: axis {}: expected at least 1 element, found 0", file_name_, what, axis);
      entry.shape.push_back(*extent);
    }
    std::reverse(entry.shape.begin(), entry.shape.end());  // the file has the fastest axis first
    return success();
  }

  // Offsets count from the data section, which begins at the next multiple of the alignment behind the header.
  Status place_tensors() {
    if (part_.tensors.empty()) return success();
    const std::size_t data_begin = std::min(round_up(reader_.position(), part_.alignment), bytes_.size());
    const auto data = bytes_.subspan(data_begin);
    for (std::size_t i = 0; i < part_.tensors.size(); ++i) {
      TensorEntry& entry = part_.tensors[i];
      if (offsets_[i] > data.size() || entry.bytes > data.size() - offsets_[i]) {
        return error(
            "{}: tensor '{}': {} bytes at offset {} pass the end of the file's data ({} bytes); "
            "it is damaged or cut off: copy or download it again",
            file_name_, printable(entry.name), entry.bytes, offsets_[i], data.size());
      }
      entry.data = data.data() + offsets_[i];
    }
    return success();
  }

  Status expect_no_overlap() const {
    std::vector<std::size_t> by_offset(offsets_.size());
    std::iota(by_offset.begin(), by_offset.end(), std::size_t{0});
    std::sort(by_offset.begin(), by_offset.end(),
              [&](std::size_t a, std::size_t b) { return offsets_[a] < offsets_[b]; });
    for (std::size_t i = 1; i < by_offset.size(); ++i) {
      const TensorEntry& a = part_.tensors[by_offset[i - 1]];
      const TensorEntry& b = part_.tensors[by_offset[i]];
      if (a.data + a.bytes > b.data) {
        return error("{}: tensors '{}' ({} bytes at offset {}) and '{}' (at offset {}) overlap", file_name_,
                     printable(a.name), a.bytes, offsets_[by_offset[i - 1]], printable(b.name), offsets_[by_offset[i]]);
      }
    }
    return success();
  }

  std::span<const std::byte> bytes_;
  ByteReader reader_;
  std::size_t file_idx_;
  const std::string& file_name_;
  std::uint64_t num_tensors_ = 0;
  std::uint64_t num_kvs_ = 0;
  std::vector<std::uint64_t> offsets_;  // of part_.tensors, from the data section's begin
  GgufPart part_;
};

}  // namespace

std::string_view gguf_type_name(GgufType type) {
  return kTypes[static_cast<std::uint32_t>(type)].name;
}

std::size_t gguf_scalar_bytes(GgufType type) {
  return kTypes[static_cast<std::uint32_t>(type)].scalar_bytes;
}

std::string gguf_type_text(const GgufValue& value) {
  if (!value.is_array()) return std::string(gguf_type_name(value.type));
  return fmt::format("array of {} {}", value.num_elements, gguf_type_name(value.element_type));
}

std::string gguf_value_text(const GgufValue& value) {
  std::string text = gguf_type_text(value);
  if (value.is_array()) return text;
  const auto append = [&]<class T>(T scalar) {
    std::memcpy(&scalar, value.payload.data(), sizeof(scalar));
    text += fmt::format(" {}", scalar);
  };
  auto payload = value.payload;
  switch (value.type) {
    case GgufType::kU8:
      append(std::uint8_t{});
      break;
    case GgufType::kI8:
      append(std::int8_t{});
      break;
    case GgufType::kU16:
      append(std::uint16_t{});
      break;
    case GgufType::kI16:
      append(std::int16_t{});
      break;
    case GgufType::kU32:
      append(std::uint32_t{});
      break;
    case GgufType::kI32:
      append(std::int32_t{});
      break;
    case GgufType::kF32:
      append(float{});
      break;
    case GgufType::kU64:
      append(std::uint64_t{});
      break;
    case GgufType::kI64:
      append(std::int64_t{});
      break;
    case GgufType::kF64:
      append(double{});
      break;
    case GgufType::kBool:
      text += payload.front() == std::byte{1} ? " true" : " false";
      break;
    case GgufType::kString:
      text += fmt::format(" '{}'", printable(take_gguf_string(payload)));
      break;
    case GgufType::kArray:
      break;
  }
  return text;
}

Result<GgufPart> parse_gguf_part(std::span<const std::byte> bytes, std::size_t file_idx, const std::string& file_name) {
  return PartParser(bytes, file_idx, file_name).parse();
}

std::string_view take_gguf_string(std::span<const std::byte>& payload) {
  std::uint64_t num_bytes = 0;
  std::memcpy(&num_bytes, payload.data(), sizeof(num_bytes));
  const std::string_view text(reinterpret_cast<const char*>(payload.data()) + kStringPrefixBytes, num_bytes);
  payload = payload.subspan(kStringPrefixBytes + num_bytes);
  return text;
}

}  // namespace qnext
