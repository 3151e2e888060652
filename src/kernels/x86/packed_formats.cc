#include "kernels/x86/packed_formats.h"

#include <algorithm>
#include <cstring>

namespace qnext {
namespace {

// The place of a code in PackedNibbles: 8 columns make 4 bytes of a row, evens in the first two.
void put_nibbles(PackedNibbles& out, std::size_t row, const std::uint8_t (&codes)[32]) {
  for (std::size_t v = 0; v < 4; ++v) {
    std::uint64_t c;  // columns 0..7, a byte each
    std::memcpy(&c, codes + 8 * v, sizeof(c));
    c |= c >> 12;  // byte 0: columns 0 and 2, byte 1: 1 and 3; byte 4: 4 and 6, byte 5: 5 and 7
    const auto low = static_cast<std::uint32_t>(c), high = static_cast<std::uint32_t>(c >> 32);
    const std::uint32_t bytes = (low & 0xff) | (high & 0xff) << 8 | (low & 0xff00) << 8 | (high & 0xff00) << 16;
    std::memcpy(out + 64 * v + 4 * row, &bytes, sizeof(bytes));
  }
}

// 2-bit codes: 16 columns make 4 bytes of a row.
void put_two_bits(std::uint8_t (&out)[128], std::size_t row, const std::uint8_t (&codes)[32]) {
  for (std::size_t h = 0; h < 2; ++h) {
    std::uint8_t bytes[4] = {};
    for (std::size_t c = 0; c < 16; ++c) {
      const std::size_t pair = c / 2;
      bytes[2 * (c % 2) + pair / 4] |= static_cast<std::uint8_t>(codes[16 * h + c] << (2 * (pair % 4)));
    }
    std::memcpy(out + 64 * h + 4 * row, bytes, sizeof(bytes));
  }
}

void put_row(PackedQ4K& out, std::size_t row, const BlockQ4_K& block) {
  out.d[row] = block.d;
  out.dmin[row] = block.dmin;
  const ScalesMins sub = unpack_scales_mins(block.scales_mins);
  for (std::size_t run = 0; run < kRuns; ++run) {
    out.scales[run][row] = sub.scales[run];
    out.mins[run][row] = sub.mins[run];
    std::uint8_t codes[32];
    const std::uint8_t* bytes = block.codes + 32 * (run / 2);
    for (std::size_t c = 0; c < 32; ++c) codes[c] = run % 2 == 0 ? bytes[c] & 0xf : bytes[c] >> 4;
    put_nibbles(out.codes[run], row, codes);
  }
}

void put_row(PackedQ6K& out, std::size_t row, const BlockQ6_K& block) {
  out.d[row] = block.d;
  for (std::size_t sub = 0; sub < 2 * kRuns; ++sub) out.scales[sub][row] = block.scales[sub];
  for (std::size_t run = 0; run < kRuns; ++run) {
    const std::size_t half = run / 4, quarter = run % 4;
    const std::uint8_t* low_bytes = block.low_bits + 64 * half + 32 * (quarter % 2);
    const std::uint8_t* high_bytes = block.high_bits + 32 * half;
    std::uint8_t low[32], high[32];
    for (std::size_t c = 0; c < 32; ++c) {
      low[c] = quarter < 2 ? low_bytes[c] & 0xf : low_bytes[c] >> 4;
      high[c] = high_bytes[c] >> (2 * quarter) & 0x3;
    }
    put_nibbles(out.low_bits[run], row, low);
    put_two_bits(out.high_bits[run], row, high);
  }
}

template <class Packed, class Block>
void pack_rows(Packed* out, const Weight& w, std::size_t group_idx) {
  const std::size_t num_blocks = w.cols / kSuperBlock;
  const std::size_t first_row = group_idx * kGroupRows;
  const std::size_t num_rows = std::min(kGroupRows, w.rows - first_row);
  if (num_rows < kGroupRows) std::memset(static_cast<void*>(out), 0, num_blocks * sizeof(Packed));
  for (std::size_t block_idx = 0; block_idx < num_blocks; ++block_idx) {
    for (std::size_t r = 0; r < num_rows; ++r) {
      put_row(out[block_idx], r, load_block<Block>(w.row(first_row + r) + block_idx * sizeof(Block)));
    }
  }
}

}  // namespace

void pack_group(PackedQ4K* out, const Weight& w, std::size_t group_idx) {
  pack_rows<PackedQ4K, BlockQ4_K>(out, w, group_idx);
}

void pack_group(PackedQ6K* out, const Weight& w, std::size_t group_idx) {
  pack_rows<PackedQ6K, BlockQ6_K>(out, w, group_idx);
}

}  // namespace qnext
