#include "tensor/safetensors_header.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

namespace qnext {
namespace {

using Json = nlohmann::json;

// Reads JSON as events, so that depth and repeated keys are refused as they come and nothing is built that the format
// lacks. Every event is a failure until a subclass allows it. nlohmann's parser is iterative: depth costs no stack.
class JsonEvents : public Json::json_sax_t {
 public:
  const std::string& problem() const { return problem_; }

  bool null() override { return fail("found null"); }
  bool boolean(bool) override { return fail("found a boolean"); }
  bool number_integer(std::int64_t value) override { return fail(fmt::format("found the negative number {}", value)); }
  bool number_unsigned(std::uint64_t value) override { return fail(fmt::format("found the number {}", value)); }
  bool number_float(double value, const std::string&) override {
    return fail(fmt::format("found the number {}", value));
  }
  bool string(std::string& value) override { return fail(fmt::format("found the text '{}'", printable(value))); }
  bool binary(Json::binary_t&) override { return fail("found binary data"); }
  bool start_object(std::size_t) override { return fail("found an object"); }
  bool start_array(std::size_t) override { return fail("found an array"); }
  bool parse_error(std::size_t position, const std::string&, const Json::exception&) override {
    problem_ = fmt::format("not valid JSON at byte {} of the text", position);
    return false;
  }

 protected:
  virtual std::string expected() const = 0;  // "tensor 'x': expected ...", for where the reader stands

  bool fail(std::string_view found) {
    problem_ = fmt::format("{}, {}", expected(), found);
    return false;
  }

 private:
  std::string problem_;
};

std::string read_json(std::string_view json, JsonEvents& events) {
  // The parser takes a zero byte for the end of its input, and what stands behind it would go unread.
  if (const std::size_t zero = json.find('\0'); zero != std::string_view::npos) {
    return fmt::format("not valid JSON at byte {} of the text: a zero byte", zero + 1);
  }
  const bool complete = Json::sax_parse(json.data(), json.data() + json.size(), &events);
  return complete ? std::string() : events.problem();
}

// {"__metadata__": {text: text}, NAME: {"dtype": text, "shape": [..], "data_offsets": [begin, end]}, ...}
struct RawTensor {
  std::string name;
  std::optional<std::string> dtype;
  std::optional<std::vector<std::size_t>> shape;
  std::optional<std::vector<std::size_t>> data_offsets;
};

class HeaderEvents final : public JsonEvents {
 public:
  std::vector<RawTensor> tensors;
  std::map<std::string, std::string> metadata;

  bool start_object(std::size_t) override {
    switch (place_) {
      case Place::kStart:
        place_ = Place::kRoot;
        return true;
      case Place::kRootMetadata:
        place_ = Place::kMetadata;
        return true;
      case Place::kRootTensor:
        place_ = Place::kTensor;
        return true;
      default:
        return fail("found an object");
    }
  }
  bool end_object() override {
    place_ = place_ == Place::kRoot ? Place::kEnd : Place::kRoot;
    return true;
  }
  bool key(std::string& text) override {
    if (place_ == Place::kRoot) return root_key(text);
    if (place_ == Place::kMetadata) {
      metadata_key_ = text;
      place_ = Place::kMetadataValue;
      return true;
    }
    return tensor_key(text);
  }
  bool string(std::string& text) override {
    if (place_ == Place::kMetadataValue) {
      place_ = Place::kMetadata;
      return metadata.emplace(metadata_key_, std::move(text)).second || fail("found it again");
    }
    if (place_ != Place::kDtype) return JsonEvents::string(text);
    tensors.back().dtype = std::move(text);
    place_ = Place::kTensor;
    return true;
  }
  bool start_array(std::size_t) override {
    if (place_ != Place::kShape && place_ != Place::kOffsets) return fail("found an array");
    numbers_ = &(place_ == Place::kShape ? tensors.back().shape : tensors.back().data_offsets).emplace();
    place_ = Place::kNumbers;
    return true;
  }
  bool number_unsigned(std::uint64_t value) override {
    if (place_ != Place::kNumbers) return JsonEvents::number_unsigned(value);
    if (numbers_->size() == kMaxSafetensorsRank) return fail("found a longer one");
    numbers_->push_back(value);
    return true;
  }
  bool end_array() override {
    place_ = Place::kTensor;
    return true;
  }

 private:
  enum class Place {
    kStart,
    kRoot,
    kRootMetadata,
    kRootTensor,
    kMetadata,
    kMetadataValue,
    kTensor,
    kDtype,
    kShape,
    kOffsets,
    kNumbers,
    kEnd
  };

  bool root_key(std::string& text) {
    if (text == "__metadata__") {
      place_ = Place::kRootMetadata;
      return !std::exchange(saw_metadata_, true) || fail("found a second one");
    }
    place_ = Place::kRootTensor;
    tensors.push_back({.name = std::move(text), .dtype = {}, .shape = {}, .data_offsets = {}});
    return true;
  }
  bool tensor_key(const std::string& text) {
    const RawTensor& tensor = tensors.back();
    bool seen = false;
    if (text == "dtype") {
      place_ = Place::kDtype;
      seen = tensor.dtype.has_value();
    } else if (text == "shape") {
      place_ = Place::kShape;
      seen = tensor.shape.has_value();
    } else if (text == "data_offsets") {
      place_ = Place::kOffsets;
      seen = tensor.data_offsets.has_value();
    } else {
      return fail(fmt::format("found the field '{}'", printable(text)));
    }
    return !seen || fail("found a second one");
  }
  std::string expected() const override {
    const std::string tensor = tensors.empty() ? "" : fmt::format("tensor '{}': ", printable(tensors.back().name));
    switch (place_) {
      case Place::kStart:
        return "expected an object of tensors";
      case Place::kRootMetadata:
        return "__metadata__: expected one object";
      case Place::kMetadata:
      case Place::kMetadataValue:
        return fmt::format("__metadata__ '{}': expected one text", printable(metadata_key_));
      case Place::kRootTensor:
        return tensor + "expected an object";
      case Place::kTensor:
        return tensor + "expected dtype, shape and data_offsets";
      case Place::kDtype:
        return tensor + "dtype: expected one text";
      case Place::kShape:
        return tensor + "shape: expected one array";
      case Place::kOffsets:
        return tensor + "data_offsets: expected one array";
      case Place::kNumbers:
        return tensor + fmt::format("expected an array of at most {} whole numbers", kMaxSafetensorsRank);
      case Place::kRoot:
      case Place::kEnd:
        break;
    }
    return "expected the end of the header";
  }

  Place place_ = Place::kStart;
  bool saw_metadata_ = false;
  std::string metadata_key_;
  std::vector<std::size_t>* numbers_ = nullptr;  // the array being read
};

// One tensor's fields, checked against each other and against the data section.
Result<TensorEntry> resolve(RawTensor& raw, std::span<const std::byte> data, const std::string& file_name) {
  const std::string where = fmt::format("{}: tensor '{}'", file_name, printable(raw.name));
  if (!raw.dtype || !raw.shape || !raw.data_offsets) {
    return error("{}: expected dtype, shape and data_offsets, found no {}", where,
                 !raw.dtype ? "dtype" : (!raw.shape ? "shape" : "data_offsets"));
  }
  const std::optional<DType> type = dtype_from_safetensors(*raw.dtype);
  if (!type) {
    return error(
        "{}: expected dtype F32, F16, BF16, F8_E4M3, I32, I64 or U8, found '{}'; convert the checkpoint to one of "
        "these",
        where, printable(*raw.dtype));
  }
  if (raw.data_offsets->size() != 2) {
    return error("{}: data_offsets: expected [begin, end], found {} numbers", where, raw.data_offsets->size());
  }
  const std::size_t begin = (*raw.data_offsets)[0];
  const std::size_t end = (*raw.data_offsets)[1];
  if (begin > end || end > data.size()) {
    return error(
        "{}: data_offsets: expected begin <= end <= {} (the file's data bytes), found [{}, {}]; "
        "the file is damaged or cut off: copy or download it again",
        where, data.size(), begin, end);
  }
  const std::optional<std::size_t> bytes = try_tensor_bytes(*type, *raw.shape);
  if (!bytes) return error("{}: shape {} has more bytes than can be counted", where, shape_text(*raw.shape));
  if (*bytes != end - begin) {
    return error("{}: shape {} of {} has {} bytes, but data_offsets [{}, {}] span {}", where, shape_text(*raw.shape),
                 *raw.dtype, *bytes, begin, end, end - begin);
  }
  return TensorEntry{.name = std::move(raw.name),
                     .type = *type,
                     .shape = std::move(*raw.shape),
                     .data = data.data() + begin,
                     .bytes = *bytes};
}

// The format demands that tensors cover the data section: no overlap, no hole, nothing behind the last.
Status expect_coverage(std::span<const TensorEntry> sorted, std::span<const std::byte> data,
                       const std::string& file_name) {
  const std::byte* covered = data.data();
  std::string_view previous = "(start)";
  for (const TensorEntry& entry : sorted) {
    if (entry.data != covered) {
      return error(
          "{}: tensor '{}' begins at byte {} of the data, but '{}' before it ends at {}: expected no overlap and no "
          "hole",
          file_name, printable(entry.name), entry.data - data.data(), printable(previous), covered - data.data());
    }
    covered += entry.bytes;
    previous = entry.name;
  }
  if (covered != data.data() + data.size()) {
    return error(
        "{}: the tensors end at byte {} of the data, but the file has {}: expected nothing behind the last tensor",
        file_name, covered - data.data(), data.size());
  }
  return success();
}

class IndexEvents final : public JsonEvents {
 public:
  std::map<std::string, std::string> weight_map;
  bool saw_weight_map = false;

  // Fields beside weight_map ("metadata", and what other tools add) are skipped.
  bool null() override { return !in_map_ || JsonEvents::null(); }
  bool boolean(bool value) override { return !in_map_ || JsonEvents::boolean(value); }
  bool number_integer(std::int64_t value) override { return !in_map_ || JsonEvents::number_integer(value); }
  bool number_unsigned(std::uint64_t value) override { return !in_map_ || JsonEvents::number_unsigned(value); }
  bool number_float(double value, const std::string& text) override {
    return !in_map_ || JsonEvents::number_float(value, text);
  }
  bool string(std::string& text) override {
    if (!in_map_) return depth_ > 0 || JsonEvents::string(text);
    return weight_map.emplace(key_, std::move(text)).second || fail("found it again");
  }
  bool start_object(std::size_t) override {
    if (in_map_) return fail("found an object");
    if (depth_ == 1 && key_ == "weight_map") {
      if (std::exchange(saw_weight_map, true)) return fail("found a second one");
      in_map_ = true;
    }
    return enter();
  }
  bool start_array(std::size_t) override { return in_map_ || depth_ == 0 ? fail("found an array") : enter(); }
  bool end_object() override {
    in_map_ = false;
    --depth_;
    return true;
  }
  bool end_array() override {
    --depth_;
    return true;
  }
  bool key(std::string& text) override {
    if (in_map_ || depth_ == 1) key_ = std::move(text);
    return true;
  }

 private:
  static constexpr std::size_t kMaxDepth = 16;

  bool enter() { return ++depth_ <= kMaxDepth || fail("found deeper nesting"); }
  std::string expected() const override {
    if (in_map_) return fmt::format("weight_map '{}': expected one file name", printable(key_));
    return fmt::format("expected an object with one weight_map, at most {} deep", kMaxDepth);
  }

  std::size_t depth_ = 0;
  bool in_map_ = false;
  std::string key_;
};

}  // namespace

Result<SafetensorsHeader> parse_safetensors_header(std::span<const std::byte> file, std::size_t file_idx,
                                                   const std::string& file_name) {
  std::uint64_t header_bytes = 0;
  if (file.size() < kSafetensorsPrefixBytes) {
    return error("{}: expected a safetensors file, found only {} bytes", file_name, file.size());
  }
  std::memcpy(&header_bytes, file.data(), sizeof(header_bytes));
  const std::size_t limit = std::min(kMaxSafetensorsHeaderBytes, file.size() - kSafetensorsPrefixBytes);
  if (header_bytes > limit) {
    return error("{}: header length: expected at most {} bytes, found {}; not a safetensors file, or cut off",
                 file_name, limit, header_bytes);
  }
  const auto* text = reinterpret_cast<const char*>(file.data()) + kSafetensorsPrefixBytes;
  if (header_bytes == 0 || *text != '{')
    return error("{}: header: expected a JSON object beginning with '{{'", file_name);

  HeaderEvents events;
  if (std::string problem = read_json({text, header_bytes}, events); !problem.empty()) {
    return error("{}: header: {}", file_name, problem);
  }
  const auto data = file.subspan(kSafetensorsPrefixBytes + header_bytes);
  SafetensorsHeader header{.entries = {}, .metadata = std::move(events.metadata)};
  header.entries.reserve(events.tensors.size());
  for (RawTensor& raw : events.tensors) {
    QN_TRY(TensorEntry entry, resolve(raw, data, file_name));
    entry.file_idx = file_idx;
    header.entries.push_back(std::move(entry));
  }
  // Empty tensors before the one that begins where they stand.
  std::stable_sort(header.entries.begin(), header.entries.end(), [](const TensorEntry& a, const TensorEntry& b) {
    return a.data != b.data ? a.data < b.data : a.bytes < b.bytes;
  });
  QN_RETURN_IF_ERROR(expect_coverage(header.entries, data, file_name));
  return header;
}

Result<std::map<std::string, std::string>> parse_safetensors_index(std::string_view json,
                                                                   const std::string& file_name) {
  IndexEvents events;
  if (std::string problem = read_json(json, events); !problem.empty()) return error("{}: {}", file_name, problem);
  if (!events.saw_weight_map) return error("{}: expected the object weight_map, found none", file_name);
  if (events.weight_map.empty()) return error("{}: weight_map: expected tensors, found none", file_name);
  for (const auto& [tensor, shard] : events.weight_map) {
    // A shard lies beside its index: a checkpoint from elsewhere must not make us open other files.
    const bool plain = !shard.empty() && shard != "." && shard != ".." && shard.find('/') == std::string::npos &&
                       shard.find('\\') == std::string::npos && shard.find('\0') == std::string::npos;
    if (!plain) {
      return error("{}: weight_map '{}': expected the name of a file in the same folder, found '{}'", file_name,
                   printable(tensor), printable(shard));
    }
  }
  return std::move(events.weight_map);
}

}  // namespace qnext
