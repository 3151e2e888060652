#include "tensor/block_formats.h"

#include "base/check.h"

namespace qnext {
namespace {

// Each decode(out, block) is the equation beside the block's layout in the header.

int low_nibble(std::uint8_t byte) {
  return byte & 0xf;
}
int high_nibble(std::uint8_t byte) {
  return byte >> 4;
}

// The code of element i of 32 that lie in halves.
int half_code(const std::uint8_t* codes, std::size_t i) {
  return i < 16 ? low_nibble(codes[i]) : high_nibble(codes[i - 16]);
}

void decode(float* out, const BlockQ4_0& block) {
  const float d = f16_to_f32(block.d);
  for (std::size_t i = 0; i < kSmallBlock; ++i) out[i] = d * static_cast<float>(half_code(block.codes, i) - 8);
}

void decode(float* out, const BlockQ4_1& block) {
  const float d = f16_to_f32(block.d);
  const float m = f16_to_f32(block.m);
  for (std::size_t i = 0; i < kSmallBlock; ++i) out[i] = d * static_cast<float>(half_code(block.codes, i)) + m;
}

// Bits 0-3 in halves, bit 4 apart.
int five_bit_code(const std::uint8_t* codes, std::uint32_t high_bits, std::size_t i) {
  return half_code(codes, i) | static_cast<int>(high_bits >> i & 1) << 4;
}

void decode(float* out, const BlockQ5_0& block) {
  const float d = f16_to_f32(block.d);
  for (std::size_t i = 0; i < kSmallBlock; ++i) {
    out[i] = d * static_cast<float>(five_bit_code(block.codes, block.high_bits, i) - 16);
  }
}

void decode(float* out, const BlockQ5_1& block) {
  const float d = f16_to_f32(block.d);
  const float m = f16_to_f32(block.m);
  for (std::size_t i = 0; i < kSmallBlock; ++i) {
    out[i] = d * static_cast<float>(five_bit_code(block.codes, block.high_bits, i)) + m;
  }
}

void decode(float* out, const BlockQ8_0& block) {
  const float d = f16_to_f32(block.d);
  for (std::size_t i = 0; i < kSmallBlock; ++i) out[i] = d * static_cast<float>(block.codes[i]);
}

// The low two bits of element i of a Q2_K or Q3_K block.
int two_bit_code(const std::uint8_t* codes, std::size_t i) {
  return codes[i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 0x3;
}

void decode(float* out, const BlockQ2_K& block) {
  const float d = f16_to_f32(block.d);
  const float dmin = f16_to_f32(block.dmin);
  for (std::size_t i = 0; i < kSuperBlock; ++i) {
    const std::uint8_t scale_min = block.scales_mins[i / 16];
    const float scale = d * static_cast<float>(low_nibble(scale_min));
    const float min = dmin * static_cast<float>(high_nibble(scale_min));
    out[i] = scale * static_cast<float>(two_bit_code(block.codes, i)) - min;
  }
}

void decode(float* out, const BlockQ3_K& block) {
  const float d = f16_to_f32(block.d);
  const std::array<std::int8_t, 16> scales = unpack_q3_k_scales(block.scales);
  for (std::size_t i = 0; i < kSuperBlock; ++i) {
    const int code = two_bit_code(block.codes, i) | (block.high_bits[i % 32] >> (i / 32) & 1) << 2;
    out[i] = (d * static_cast<float>(scales[i / 16])) * static_cast<float>(code - 4);
  }
}

// The low four bits of element i of a Q4_K or Q5_K block.
int four_bit_code(const std::uint8_t* codes, std::size_t i) {
  const std::uint8_t byte = codes[i / 64 * 32 + i % 32];
  return i % 64 < 32 ? low_nibble(byte) : high_nibble(byte);
}

void decode(float* out, const BlockQ4_K& block) {
  const float d = f16_to_f32(block.d);
  const float dmin = f16_to_f32(block.dmin);
  const ScalesMins sub = unpack_scales_mins(block.scales_mins);
  for (std::size_t i = 0; i < kSuperBlock; ++i) {
    const float scale = d * static_cast<float>(sub.scales[i / 32]);
    const float min = dmin * static_cast<float>(sub.mins[i / 32]);
    out[i] = scale * static_cast<float>(four_bit_code(block.codes, i)) - min;
  }
}

void decode(float* out, const BlockQ5_K& block) {
  const float d = f16_to_f32(block.d);
  const float dmin = f16_to_f32(block.dmin);
  const ScalesMins sub = unpack_scales_mins(block.scales_mins);
  for (std::size_t i = 0; i < kSuperBlock; ++i) {
    const float scale = d * static_cast<float>(sub.scales[i / 32]);
    const float min = dmin * static_cast<float>(sub.mins[i / 32]);
    const int code = four_bit_code(block.codes, i) | (block.high_bits[i % 32] >> (i / 32) & 1) << 4;
    out[i] = scale * static_cast<float>(code) - min;
  }
}

void decode(float* out, const BlockQ6_K& block) {
  const float d = f16_to_f32(block.d);
  for (std::size_t i = 0; i < kSuperBlock; ++i) {
    const std::size_t half = i / 128;
    const std::size_t pair = i / 32 % 4;
    const std::uint8_t low = block.low_bits[half * 64 + pair % 2 * 32 + i % 32];
    const int high = block.high_bits[half * 32 + i % 32] >> (pair * 2) & 0x3;
    const int code = (pair < 2 ? low_nibble(low) : high_nibble(low)) | high << 4;
    const std::int8_t scale = block.scales[i / 16];
    out[i] = (d * static_cast<float>(scale)) * static_cast<float>(code - 32);
  }
}

void decode(float* out, const BlockIQ4_NL& block) {
  const float d = f16_to_f32(block.d);
  for (std::size_t i = 0; i < kSmallBlock; ++i) {
    out[i] = d * static_cast<float>(kIq4Levels[static_cast<std::size_t>(half_code(block.codes, i))]);
  }
}

void decode(float* out, const BlockIQ4_XS& block) {
  const float d = f16_to_f32(block.d);
  for (std::size_t i = 0; i < kSuperBlock; ++i) {
    const float scale = d * static_cast<float>(iq4_xs_scale(block, i / 32));
    const int code = half_code(block.codes + i / 32 * 16, i % 32);
    out[i] = scale * static_cast<float>(kIq4Levels[static_cast<std::size_t>(code)]);
  }
}

void decode(float* out, const BlockMXFP4& block) {
  const float scale = mxfp4_scale(block.exponent);
  for (std::size_t i = 0; i < kSmallBlock; ++i) {
    out[i] = scale * static_cast<float>(kMxfp4Levels[static_cast<std::size_t>(half_code(block.codes, i))]);
  }
}

template <class Block>
void decode_all(float* out, const std::byte* blocks, DType type, std::size_t num_elements) {
  const DTypeInfo& info = dtype_info(type);
  QN_CHECK(info.block_bytes == sizeof(Block), "{} has blocks of {} bytes, not {}", info.name, info.block_bytes,
           sizeof(Block));
  for (std::size_t i = 0; i < num_elements; i += info.block_elements, blocks += sizeof(Block)) {
    decode(out + i, load_block<Block>(blocks));
  }
}

// Plain types: element by element through `convert`.
template <class Element, class Convert>
void decode_plain(float* out, const std::byte* elements, std::size_t num_elements, Convert convert) {
  for (std::size_t i = 0; i < num_elements; ++i) out[i] = convert(load_block<Element>(elements + i * sizeof(Element)));
}

}  // namespace

void decode_blocks(float* out, const std::byte* blocks, DType type, std::size_t num_elements) {
  const DTypeInfo& info = dtype_info(type);
  QN_CHECK(num_elements % info.block_elements == 0, "{} elements of {}", num_elements, info.name);
  switch (type) {
    case DType::kF32:
      return decode_plain<float>(out, blocks, num_elements, [](float value) { return value; });
    case DType::kF16:
      return decode_plain<std::uint16_t>(out, blocks, num_elements, f16_to_f32);
    case DType::kBF16:
      return decode_plain<std::uint16_t>(out, blocks, num_elements, bf16_to_f32);
    case DType::kF8E4M3:
      return decode_plain<std::uint8_t>(out, blocks, num_elements, e4m3_to_f32);
    case DType::kQ4_0:
      return decode_all<BlockQ4_0>(out, blocks, type, num_elements);
    case DType::kQ4_1:
      return decode_all<BlockQ4_1>(out, blocks, type, num_elements);
    case DType::kQ5_0:
      return decode_all<BlockQ5_0>(out, blocks, type, num_elements);
    case DType::kQ5_1:
      return decode_all<BlockQ5_1>(out, blocks, type, num_elements);
    case DType::kQ8_0:
      return decode_all<BlockQ8_0>(out, blocks, type, num_elements);
    case DType::kQ2_K:
      return decode_all<BlockQ2_K>(out, blocks, type, num_elements);
    case DType::kQ3_K:
      return decode_all<BlockQ3_K>(out, blocks, type, num_elements);
    case DType::kQ4_K:
      return decode_all<BlockQ4_K>(out, blocks, type, num_elements);
    case DType::kQ5_K:
      return decode_all<BlockQ5_K>(out, blocks, type, num_elements);
    case DType::kQ6_K:
      return decode_all<BlockQ6_K>(out, blocks, type, num_elements);
    case DType::kIQ4_NL:
      return decode_all<BlockIQ4_NL>(out, blocks, type, num_elements);
    case DType::kIQ4_XS:
      return decode_all<BlockIQ4_XS>(out, blocks, type, num_elements);
    case DType::kMXFP4:
      return decode_all<BlockMXFP4>(out, blocks, type, num_elements);
    case DType::kI32:
    case DType::kI64:
    case DType::kU8:
    case DType::kI16:
      break;
  }
  QN_CHECK(false, "{} is not a type of weights", info.name);
}

void decode_row(float* out, const Weight& weight, std::size_t row_idx) {
  QN_CHECK(row_idx < weight.rows, "row {} of {}", row_idx, weight.rows);
  decode_blocks(out, weight.row(row_idx), weight.type, weight.cols);
  if (weight.type != DType::kF8E4M3 || weight.block_scales == nullptr) return;
  const float* scales = weight.block_scales + row_idx / kFp8ScaleBlock * weight.scales_per_row;
  for (std::size_t col = 0; col < weight.cols; ++col) out[col] *= scales[col / kFp8ScaleBlock];
}

}  // namespace qnext
