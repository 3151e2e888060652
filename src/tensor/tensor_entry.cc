#include "tensor/tensor_entry.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <numeric>

#include "tensor/block_formats.h"

namespace qnext {
namespace {

enum class ScaleKind : std::uint8_t { kNone, kF16, kBF16, kF32, kE4M3, kE8M0 };

// Where a block keeps its scales: num_scales values of `kind`, one after the other, from `offset`.
struct ScaleLayout {
  ScaleKind kind = ScaleKind::kNone;
  std::size_t offset = 0;
  std::size_t num_scales = 0;
};

ScaleLayout scale_layout(DType type) {
  switch (type) {
    // clang-format off
    case DType::kF32:    return {ScaleKind::kF32, 0, 1};
    case DType::kF16:    return {ScaleKind::kF16, 0, 1};
    case DType::kBF16:   return {ScaleKind::kBF16, 0, 1};
    case DType::kF8E4M3: return {ScaleKind::kE4M3, 0, 1};
    case DType::kQ4_0:   return {ScaleKind::kF16, offsetof(BlockQ4_0, d), 1};
    case DType::kQ4_1:   return {ScaleKind::kF16, offsetof(BlockQ4_1, d), 2};
    case DType::kQ5_0:   return {ScaleKind::kF16, offsetof(BlockQ5_0, d), 1};
    case DType::kQ5_1:   return {ScaleKind::kF16, offsetof(BlockQ5_1, d), 2};
    case DType::kQ8_0:   return {ScaleKind::kF16, offsetof(BlockQ8_0, d), 1};
    case DType::kQ2_K:   return {ScaleKind::kF16, offsetof(BlockQ2_K, d), 2};
    case DType::kQ3_K:   return {ScaleKind::kF16, offsetof(BlockQ3_K, d), 1};
    case DType::kQ4_K:   return {ScaleKind::kF16, offsetof(BlockQ4_K, d), 2};
    case DType::kQ5_K:   return {ScaleKind::kF16, offsetof(BlockQ5_K, d), 2};
    case DType::kQ6_K:   return {ScaleKind::kF16, offsetof(BlockQ6_K, d), 1};
    case DType::kIQ4_NL: return {ScaleKind::kF16, offsetof(BlockIQ4_NL, d), 1};
    case DType::kIQ4_XS: return {ScaleKind::kF16, offsetof(BlockIQ4_XS, d), 1};
    case DType::kMXFP4:  return {ScaleKind::kE8M0, offsetof(BlockMXFP4, exponent), 1};
    case DType::kI32:
    case DType::kI64:
    case DType::kU8:
    case DType::kI16:    break;
      // clang-format on
  }
  return {};
}

template <class Bits>
Bits load_bits(const std::byte* from) {
  Bits bits;
  std::memcpy(&bits, from, sizeof(bits));
  return bits;
}

// An all-ones exponent is infinity or NaN; e4m3 has only NaN (S.1111.111), e8m0 only 0xFF.
struct F32Scale {
  using Bits = std::uint32_t;
  static bool finite(Bits bits) { return (bits & 0x7F800000U) != 0x7F800000U; }
};
struct BF16Scale {
  using Bits = std::uint16_t;
  static bool finite(Bits bits) { return (bits & 0x7F80U) != 0x7F80U; }
};
struct F16Scale {
  using Bits = std::uint16_t;
  static bool finite(Bits bits) { return (bits & 0x7C00U) != 0x7C00U; }
};
struct E4M3Scale {
  using Bits = std::uint8_t;
  static bool finite(Bits bits) { return (bits & 0x7FU) != 0x7FU; }
};
struct E8M0Scale {
  using Bits = std::uint8_t;
  static bool finite(Bits bits) { return bits != 0xFFU; }
};

// The first of num_blocks scales, stride_bytes apart, that is not finite. Runs of blocks are first judged as a whole:
// without a way out in the inner loop it can be vectorised, and dense types then pass at the speed of memory.
template <class Scale>
std::optional<std::size_t> find_non_finite(const std::byte* scales, std::size_t stride_bytes, std::size_t num_blocks) {
  using Bits = typename Scale::Bits;
  constexpr std::size_t kRun = 1024;
  for (std::size_t begin = 0; begin < num_blocks; begin += kRun) {
    const std::size_t end = std::min(begin + kRun, num_blocks);
    Bits any = 0;
    if (stride_bytes == sizeof(Bits) && end - begin == kRun) {
      for (std::size_t i = 0; i < kRun; ++i)
        any |= !Scale::finite(load_bits<Bits>(scales + (begin + i) * sizeof(Bits)));
    } else {
      for (std::size_t i = begin; i < end; ++i) any |= !Scale::finite(load_bits<Bits>(scales + i * stride_bytes));
    }
    if (any == 0) continue;
    while (Scale::finite(load_bits<Bits>(scales + begin * stride_bytes))) ++begin;
    return begin;
  }
  return std::nullopt;
}

template <class Scale>
Status expect_finite(const TensorEntry& entry, const ScaleLayout& layout) {
  using Bits = typename Scale::Bits;
  const DTypeInfo& info = dtype_info(entry.type);
  const std::size_t num_blocks = entry.bytes / info.block_bytes;
  for (std::size_t scale_idx = 0; scale_idx < layout.num_scales; ++scale_idx) {
    const std::byte* scales = entry.data + layout.offset + scale_idx * sizeof(Bits);
    const auto bad_idx = find_non_finite<Scale>(scales, info.block_bytes, num_blocks);
    if (!bad_idx) continue;
    return error(
        "tensor '{}' ({}): block {} of {}: expected a finite scale, found bits {:#x}; the file is damaged: copy or "
        "convert it again",
        printable(entry.name), info.name, *bad_idx, num_blocks, load_bits<Bits>(scales + *bad_idx * info.block_bytes));
  }
  return success();
}

}  // namespace

Result<TensorTable> TensorTable::make(std::vector<TensorEntry> entries, std::span<const std::string> file_names) {
  TensorTable table;
  table.entries_ = std::move(entries);
  const std::vector<TensorEntry>& all = table.entries_;
  table.by_name_.resize(all.size());
  std::iota(table.by_name_.begin(), table.by_name_.end(), std::size_t{0});
  std::sort(table.by_name_.begin(), table.by_name_.end(),
            [&](std::size_t a, std::size_t b) { return all[a].name < all[b].name; });
  for (std::size_t i = 1; i < table.by_name_.size(); ++i) {
    const TensorEntry& a = all[table.by_name_[i - 1]];
    const TensorEntry& b = all[table.by_name_[i]];
    if (a.name == b.name) {
      return error("tensor '{}' is there twice: in {} and in {}; a checkpoint has each name once", printable(a.name),
                   file_names[a.file_idx], file_names[b.file_idx]);
    }
  }
  return table;
}

const TensorEntry* TensorTable::find(std::string_view name) const {
  const auto at = std::lower_bound(by_name_.begin(), by_name_.end(), name,
                                   [&](std::size_t idx, std::string_view key) { return entries_[idx].name < key; });
  return at != by_name_.end() && entries_[*at].name == name ? &entries_[*at] : nullptr;
}

std::string shape_text(std::span<const std::size_t> shape) {
  constexpr std::size_t kMaxAxes = 16;
  const auto shown = shape.first(std::min(shape.size(), kMaxAxes));
  return fmt::format("[{}{}]", fmt::join(shown, ", "), shown.size() < shape.size() ? ", ..." : "");
}

std::string printable(std::string_view text) {
  constexpr std::size_t kMaxBytes = 120;
  std::string out;
  for (const char c : text.substr(0, kMaxBytes)) {
    const auto code = static_cast<unsigned char>(c);
    if (code < 0x20 || code == 0x7F) {
      out += fmt::format("\\x{:02x}", code);
    } else {
      if (c == '\\' || c == '\'') out += '\\';
      out += c;
    }
  }
  if (text.size() > kMaxBytes) out += fmt::format("... ({} bytes)", text.size());
  return out;
}

std::optional<std::size_t> try_tensor_bytes(DType type, std::span<const std::size_t> shape) {
  const DTypeInfo& info = dtype_info(type);
  const std::size_t fastest = shape.empty() ? 1 : shape.back();
  if (fastest % info.block_elements != 0) return std::nullopt;
  std::size_t bytes = info.block_bytes;
  for (std::size_t axis = 0; axis < shape.size(); ++axis) {
    const std::size_t extent = axis + 1 == shape.size() ? fastest / info.block_elements : shape[axis];
    if (__builtin_mul_overflow(bytes, extent, &bytes)) return std::nullopt;
  }
  if (bytes > static_cast<std::size_t>(PTRDIFF_MAX)) return std::nullopt;
  return bytes;
}

Status expect_finite_scales(const TensorEntry& entry) {
  const ScaleLayout layout = scale_layout(entry.type);
  switch (layout.kind) {
    case ScaleKind::kF32:
      return expect_finite<F32Scale>(entry, layout);
    case ScaleKind::kBF16:
      return expect_finite<BF16Scale>(entry, layout);
    case ScaleKind::kF16:
      return expect_finite<F16Scale>(entry, layout);
    case ScaleKind::kE4M3:
      return expect_finite<E4M3Scale>(entry, layout);
    case ScaleKind::kE8M0:
      return expect_finite<E8M0Scale>(entry, layout);
    case ScaleKind::kNone:
      break;
  }
  return success();
}

}  // namespace qnext
