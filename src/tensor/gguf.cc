#include "tensor/gguf.h"

#include <charconv>
#include <cstring>
#include <iterator>
#include <optional>
#include <utility>

namespace qnext {
namespace fs = std::filesystem;

namespace {

constexpr std::string_view kSplitNo = "split.no";
constexpr std::string_view kSplitCount = "split.count";
constexpr std::string_view kSplitTensorsCount = "split.tensors.count";

// "qwen-00002-of-00005.gguf": prefix "qwen", part_idx 1, num_parts 5.
struct SplitName {
  std::string prefix;
  std::size_t part_idx = 0;
  std::size_t num_parts = 0;

  std::string part_name(std::size_t idx) const {
    return fmt::format("{}-{:05}-of-{:05}.gguf", prefix, idx + 1, num_parts);
  }
};

std::optional<SplitName> try_split_name(const std::string& file_name) {
  constexpr std::string_view kPattern = "-00000-of-00000.gguf";
  if (file_name.size() <= kPattern.size()) return std::nullopt;
  const std::size_t prefix_bytes = file_name.size() - kPattern.size();
  std::size_t part = 0;
  SplitName split{.prefix = file_name.substr(0, prefix_bytes)};
  const char* const tail = file_name.data() + prefix_bytes;
  std::from_chars(tail + 1, tail + 6, part);
  std::from_chars(tail + 10, tail + 15, split.num_parts);
  if (part == 0 || part > split.num_parts) return std::nullopt;
  split.part_idx = part - 1;
  if (split.part_name(split.part_idx) != file_name) return std::nullopt;  // the dashes, "of", five digits, the ending
  return split;
}

template <class Stored>
Stored load(const std::byte* from) {
  Stored value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

template <class To, class Stored>
std::optional<To> fit(const std::byte* from) {
  const auto value = load<Stored>(from);
  if (!std::in_range<To>(value)) return std::nullopt;
  return static_cast<To>(value);
}

// One scalar of the file as a To; none when its type cannot be one, or its value does not fit.
template <class To>
std::optional<To> try_decode(GgufType type, const std::byte* from) {
  if constexpr (std::is_same_v<To, bool>) {
    if (type == GgufType::kBool) return load<std::uint8_t>(from) == 1;
  } else if constexpr (std::is_same_v<To, float>) {
    if (type == GgufType::kF32) return load<float>(from);
    if (type == GgufType::kF64) return static_cast<float>(load<double>(from));
  } else {
    switch (type) {
      case GgufType::kU8:
        return fit<To, std::uint8_t>(from);
      case GgufType::kI8:
        return fit<To, std::int8_t>(from);
      case GgufType::kU16:
        return fit<To, std::uint16_t>(from);
      case GgufType::kI16:
        return fit<To, std::int16_t>(from);
      case GgufType::kU32:
        return fit<To, std::uint32_t>(from);
      case GgufType::kI32:
        return fit<To, std::int32_t>(from);
      case GgufType::kU64:
        return fit<To, std::uint64_t>(from);
      case GgufType::kI64:
        return fit<To, std::int64_t>(from);
      default:
        break;
    }
  }
  return std::nullopt;
}

template <class T>
constexpr std::string_view kTypeName = "";
template <>
constexpr std::string_view kTypeName<bool> = "bool";
template <>
constexpr std::string_view kTypeName<float> = "f32";
template <>
constexpr std::string_view kTypeName<std::uint32_t> = "u32";
template <>
constexpr std::string_view kTypeName<std::int32_t> = "i32";
template <>
constexpr std::string_view kTypeName<std::uint64_t> = "u64";

Error missing_key(const std::string& file_name, std::string_view key, std::string_view expected) {
  return error("{}: key '{}': expected {}, found no such key", file_name, key, expected);
}

}  // namespace

Status Gguf::add_part(std::span<const std::byte> bytes, std::string name, std::vector<TensorEntry>& entries) {
  QN_TRY(GgufPart part, parse_gguf_part(bytes, file_names_.size(), name));
  if (file_names_.empty()) metadata_ = part.metadata;
  QN_RETURN_IF_ERROR(expect_split_keys(part, name));
  entries.insert(entries.end(), std::make_move_iterator(part.tensors.begin()),
                 std::make_move_iterator(part.tensors.end()));
  file_names_.push_back(std::move(name));
  return success();
}

// A part says which of how many it is; the file's name must agree.
Status Gguf::expect_split_keys(const GgufPart& part, const std::string& name) const {
  Gguf view;  // the getters, over this part's metadata
  view.metadata_ = part.metadata;
  view.file_names_ = {name};
  if (num_parts_ == 1 && view.find(kSplitCount) == nullptr) return success();
  QN_TRY(const std::uint32_t count, view.get_u32(kSplitCount));
  if (count != num_parts_) {
    return error(
        "{}: key '{}': expected {}, found {}; name the parts NAME-00001-of-{:05}.gguf and keep all in one folder", name,
        kSplitCount, num_parts_, count, count);
  }
  QN_TRY(const std::uint32_t part_idx, view.get_u32(kSplitNo));
  if (part_idx != file_names_.size()) {
    return error("{}: key '{}': expected {}, found {}; the parts were renamed", name, kSplitNo, file_names_.size(),
                 part_idx);
  }
  return success();
}

Status Gguf::make_table(std::vector<TensorEntry> entries) {
  if (find(kSplitTensorsCount) != nullptr) {
    QN_TRY(const std::uint32_t expected, get_u32(kSplitTensorsCount));
    if (expected != entries.size()) {
      return error("{}: key '{}': the first part promises {} tensors, the parts have {}", file_names_.front(),
                   kSplitTensorsCount, expected, entries.size());
    }
  }
  QN_TRY(table_, TensorTable::make(std::move(entries), file_names_));
  return success();
}

Result<Gguf> Gguf::parse(std::span<const std::byte> bytes, std::string name) {
  Gguf out;
  std::vector<TensorEntry> entries;
  QN_RETURN_IF_ERROR(out.add_part(bytes, std::move(name), entries));
  QN_RETURN_IF_ERROR(out.make_table(std::move(entries)));
  return out;
}

Result<Gguf> Gguf::open(const fs::path& path) {
  const std::optional<SplitName> split = try_split_name(path.filename().string());
  Gguf out;
  out.num_parts_ = split ? split->num_parts : 1;
  std::vector<TensorEntry> entries;
  for (std::size_t part_idx = 0; part_idx < out.num_parts_; ++part_idx) {
    const fs::path part_path = split ? path.parent_path() / split->part_name(part_idx) : path;
    QN_TRY(MappedFile file, MappedFile::open(part_path));
    QN_RETURN_IF_ERROR(out.add_part(file.bytes(), part_path.string(), entries));
    out.files_.push_back(std::move(file));
  }
  QN_RETURN_IF_ERROR(out.make_table(std::move(entries)));
  return out;
}

const GgufValue* Gguf::find(std::string_view key) const {
  for (const GgufKv& kv : metadata_) {
    if (kv.key == key) return &kv.value;
  }
  return nullptr;
}

template <class T>
Result<T> Gguf::get_scalar(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return missing_key(file_names_.front(), key, kTypeName<T>);
  const auto decoded = try_decode<T>(value->type, value->payload.data());  // none for strings and arrays
  if (decoded) return *decoded;
  return error("{}: key '{}': expected {}, found {}", file_names_.front(), key, kTypeName<T>, gguf_value_text(*value));
}

template <class T>
Result<std::vector<T>> Gguf::get_array(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return missing_key(file_names_.front(), key, fmt::format("an array of {}", kTypeName<T>));
  std::vector<T> out;
  if (value->is_array()) {
    out.reserve(value->num_elements);
    const std::size_t step_bytes = gguf_scalar_bytes(value->element_type);
    for (std::uint64_t i = 0; i < value->num_elements; ++i) {
      const auto decoded = try_decode<T>(value->element_type, value->payload.data() + i * step_bytes);
      if (!decoded) break;
      out.push_back(*decoded);
    }
    if (out.size() == value->num_elements) return out;
  }
  return error("{}: key '{}': expected an array of {}, found {}{}", file_names_.front(), key, kTypeName<T>,
               gguf_value_text(*value), out.empty() ? "" : fmt::format(", element {} does not fit", out.size()));
}

Result<bool> Gguf::get_bool(std::string_view key) const {
  return get_scalar<bool>(key);
}
Result<std::uint32_t> Gguf::get_u32(std::string_view key) const {
  return get_scalar<std::uint32_t>(key);
}
Result<std::uint64_t> Gguf::get_u64(std::string_view key) const {
  return get_scalar<std::uint64_t>(key);
}
Result<float> Gguf::get_f32(std::string_view key) const {
  return get_scalar<float>(key);
}

Result<std::string_view> Gguf::get_string(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return missing_key(file_names_.front(), key, "a string");
  if (value->type != GgufType::kString) {
    return error("{}: key '{}': expected a string, found {}", file_names_.front(), key, gguf_value_text(*value));
  }
  auto payload = value->payload;
  return take_gguf_string(payload);
}

Result<std::vector<std::string_view>> Gguf::get_strings(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return missing_key(file_names_.front(), key, "an array of strings");
  if (!value->is_array() || value->element_type != GgufType::kString) {
    return error("{}: key '{}': expected an array of strings, found {}", file_names_.front(), key,
                 gguf_value_text(*value));
  }
  std::vector<std::string_view> out;
  out.reserve(value->num_elements);
  auto payload = value->payload;
  for (std::uint64_t i = 0; i < value->num_elements; ++i) out.push_back(take_gguf_string(payload));
  return out;
}

Result<std::vector<std::uint32_t>> Gguf::get_u32s(std::string_view key) const {
  return get_array<std::uint32_t>(key);
}
Result<std::vector<std::int32_t>> Gguf::get_i32s(std::string_view key) const {
  return get_array<std::int32_t>(key);
}
Result<std::vector<float>> Gguf::get_f32s(std::string_view key) const {
  return get_array<float>(key);
}
Result<std::vector<bool>> Gguf::get_bools(std::string_view key) const {
  return get_array<bool>(key);
}

}  // namespace qnext
