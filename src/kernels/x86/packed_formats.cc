#include "kernels/x86/packed_formats.h"

#include <algorithm>
#include <cstring>

namespace qnext {
namespace {

using RunCodes = std::uint8_t[kRun];

// ---- The place of a row's codes ----

void put(PackedBits1& out, std::size_t row, const RunCodes& codes) {
  std::uint16_t halves[2] = {};
  for (std::size_t c = 0; c < kRun; ++c) halves[c % 2] |= static_cast<std::uint16_t>(codes[c] << (c / 2));
  std::memcpy(out + 4 * row, halves, sizeof(halves));
}

void put(PackedBits2& out, std::size_t row, const RunCodes& codes) {
  for (std::size_t v = 0; v < 2; ++v) {
    std::uint16_t halves[2] = {};
    for (std::size_t c = 0; c < 16; ++c) {
      halves[c % 2] |= static_cast<std::uint16_t>(codes[16 * v + c] << (2 * (c / 2)));
    }
    std::memcpy(out[v] + 4 * row, halves, sizeof(halves));
  }
}

void put(PackedBits4& out, std::size_t row, const RunCodes& codes) {
  for (std::size_t v = 0; v < 4; ++v) {
    std::uint64_t c;  // columns 0..7, a byte each
    std::memcpy(&c, codes + 8 * v, sizeof(c));
    c |= c >> 12;  // byte 0: columns 0 and 2, byte 1: 1 and 3; byte 4: 4 and 6, byte 5: 5 and 7
    const auto low = static_cast<std::uint32_t>(c), high = static_cast<std::uint32_t>(c >> 32);
    const std::uint32_t bytes = (low & 0xff) | (high & 0xff) << 8 | (low & 0xff00) << 8 | (high & 0xff00) << 16;
    std::memcpy(out[v] + 4 * row, &bytes, sizeof(bytes));
  }
}

void put(PackedBits8& out, std::size_t row, const RunCodes& codes) {
  for (std::size_t v = 0; v < 8; ++v) {
    const std::uint8_t* c = codes + 4 * v;
    const std::uint8_t bytes[4] = {c[0], c[2], c[1], c[3]};
    std::memcpy(out[v] + 4 * row, bytes, sizeof(bytes));
  }
}

// ---- A row's 256 columns, from the file ----

// The nibbles of a run in a Q4_K or Q5_K block.
void read_nibbles(RunCodes& codes, const std::uint8_t* bytes, std::size_t run) {
  bytes += 32 * (run / 2);
  for (std::size_t c = 0; c < kRun; ++c) codes[c] = run % 2 == 0 ? bytes[c] & 0xf : bytes[c] >> 4;
}

// The nibbles of 16 bytes of halves (block_formats.h).
void read_halves(RunCodes& codes, const std::uint8_t* bytes) {
  for (std::size_t c = 0; c < kRun; ++c) codes[c] = c < 16 ? bytes[c] & 0xf : bytes[c - 16] >> 4;
}

template <class Block>
void put_affine(PackedQ4K& out, std::size_t row, const Block& block) {
  out.d[row] = block.d;
  out.dmin[row] = block.dmin;
  const ScalesMins sub = unpack_scales_mins(block.scales_mins);
  for (std::size_t run = 0; run < kRuns; ++run) {
    out.scales[run][row] = sub.scales[run];
    out.mins[run][row] = sub.mins[run];
    RunCodes codes;
    read_nibbles(codes, block.codes, run);
    put(out.codes[run], row, codes);
  }
}

void put_row(PackedQ4K& out, std::size_t row, const std::byte* bytes) {
  put_affine(out, row, load_block<BlockQ4_K>(bytes));
}

void put_row(PackedQ5K& out, std::size_t row, const std::byte* bytes) {
  const auto block = load_block<BlockQ5_K>(bytes);
  put_affine(out, row, block);
  for (std::size_t run = 0; run < kRuns; ++run) {
    RunCodes codes;
    for (std::size_t c = 0; c < kRun; ++c) codes[c] = block.high_bits[c] >> run & 1;
    put(out.high_bits[run], row, codes);
  }
}

void put_row(PackedQ6K& out, std::size_t row, const std::byte* bytes) {
  const auto block = load_block<BlockQ6_K>(bytes);
  out.d[row] = block.d;
  for (std::size_t sub = 0; sub < 2 * kRuns; ++sub) out.scales[sub][row] = block.scales[sub];
  for (std::size_t run = 0; run < kRuns; ++run) {
    const std::size_t half = run / 4, quarter = run % 4;
    const std::uint8_t* low_bytes = block.low_bits + 64 * half + 32 * (quarter % 2);
    const std::uint8_t* high_bytes = block.high_bits + 32 * half;
    RunCodes low, high;
    for (std::size_t c = 0; c < kRun; ++c) {
      low[c] = quarter < 2 ? low_bytes[c] & 0xf : low_bytes[c] >> 4;
      high[c] = high_bytes[c] >> (2 * quarter) & 0x3;
    }
    put(out.low_bits[run], row, low);
    put(out.high_bits[run], row, high);
  }
}

void put_row(PackedQ8_0& out, std::size_t row, const std::byte* bytes) {
  for (std::size_t run = 0; run < kRuns; ++run) {
    const auto block = load_block<BlockQ8_0>(bytes + run * sizeof(BlockQ8_0));
    out.d[run][row] = block.d;
    RunCodes codes;
    std::memcpy(codes, block.codes, sizeof(codes));
    put(out.codes[run], row, codes);
  }
}

// Of Q4_0 or IQ4_NL, which differ in what codes mean.
void put_row(PackedQ4_0& out, std::size_t row, const std::byte* bytes) {
  static_assert(sizeof(BlockIQ4_NL) == sizeof(BlockQ4_0));
  for (std::size_t run = 0; run < kRuns; ++run) {
    const auto block = load_block<BlockQ4_0>(bytes + run * sizeof(BlockQ4_0));
    out.d[run][row] = block.d;
    RunCodes codes;
    read_halves(codes, block.codes);
    put(out.codes[run], row, codes);
  }
}

void put_row(PackedIQ4XS& out, std::size_t row, const std::byte* bytes) {
  const auto block = load_block<BlockIQ4_XS>(bytes);
  out.d[row] = block.d;
  for (std::size_t run = 0; run < kRuns; ++run) {
    out.scales[run][row] = static_cast<std::int8_t>(iq4_xs_scale(block, run));
    RunCodes codes;
    read_halves(codes, block.codes + 16 * run);
    put(out.codes[run], row, codes);
  }
}

void put_row(PackedMXFP4& out, std::size_t row, const std::byte* bytes) {
  for (std::size_t run = 0; run < kRuns; ++run) {
    const auto block = load_block<BlockMXFP4>(bytes + run * sizeof(BlockMXFP4));
    out.exponents[run][row] = block.exponent;
    RunCodes codes;
    read_halves(codes, block.codes);
    put(out.codes[run], row, codes);
  }
}

template <class Packed>
void pack_rows(Packed* out, const Weight& w, std::size_t group_idx) {
  const std::size_t num_blocks = w.cols / kSuperBlock;
  const std::size_t first_row = group_idx * kGroupRows;
  const std::size_t num_rows = std::min(kGroupRows, w.rows - first_row);
  const std::size_t file_bytes = dtype_bytes(w.type, kSuperBlock);
  std::memset(static_cast<void*>(out), 0, num_blocks * sizeof(Packed));  // missing rows, and padding
  for (std::size_t block_idx = 0; block_idx < num_blocks; ++block_idx) {
    for (std::size_t r = 0; r < num_rows; ++r)
      put_row(out[block_idx], r, w.row(first_row + r) + block_idx * file_bytes);
  }
}

}  // namespace

bool has_packed_layout(DType type) {
  switch (type) {
    case DType::kQ4_K:
    case DType::kQ5_K:
    case DType::kQ6_K:
    case DType::kQ8_0:
    case DType::kQ4_0:
    case DType::kIQ4_NL:
    case DType::kIQ4_XS:
    case DType::kMXFP4:
      return true;
    default:
      return false;
  }
}

std::size_t packed_group_bytes(const Weight& w) {
  const std::size_t block_bytes =
      with_packed_layout(w.type, []<class Packed>(std::type_identity<Packed>) { return sizeof(Packed); });
  return w.cols / kSuperBlock * block_bytes;
}

void pack_group(std::byte* out, const Weight& w, std::size_t group_idx) {
  with_packed_layout(w.type, [&]<class Packed>(std::type_identity<Packed>) {
    pack_rows(reinterpret_cast<Packed*>(out), w, group_idx);
  });
}

}  // namespace qnext
