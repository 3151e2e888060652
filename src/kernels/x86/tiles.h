#pragma once
// Tiles: small matrices of bytes, and sums of products of two of them. Two implementations with the same names: AMX's
// instructions (packed_amx.cc), and this emulation, exact, so that what is written for tiles is tested on every
// machine. Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2 (TILELOADD, TDPBUUD, ...),
// and volume 1, chapter "Programming with Intel AMX" (the configuration).

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace qnext {

inline constexpr std::size_t kTileRows = 16;
inline constexpr std::size_t kTileRowBytes = 64;

// What ldtilecfg reads.
struct alignas(64) TileConfig {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {};  // of tile i; 8 tiles there are
  std::uint8_t rows[16] = {};

  void set(std::size_t tile, std::size_t num_rows, std::size_t num_row_bytes) {
    rows[tile] = static_cast<std::uint8_t>(num_rows);
    row_bytes[tile] = static_cast<std::uint16_t>(num_row_bytes);
  }
};
static_assert(sizeof(TileConfig) == 64);

// Of the calling thread, as the CPU's tiles are.
class EmulatedTiles {
 public:
  // Every tile becomes zero.
  static void configure(const TileConfig& config) { state() = {.config = config}; }
  static void release() { state() = {}; }

  template <int kTile>
  static void zero() {
    state().data[kTile] = {};
  }

  // Row r of the tile from p + r * stride.
  template <int kTile>
  static void load(const void* p, std::size_t stride) {
    const State& s = state();
    zero<kTile>();
    for (std::size_t r = 0; r < s.config.rows[kTile]; ++r) {
      std::memcpy(row<kTile>(r), static_cast<const std::byte*>(p) + r * stride, s.config.row_bytes[kTile]);
    }
  }
  template <int kTile>
  static void store(void* p, std::size_t stride) {
    const State& s = state();
    for (std::size_t r = 0; r < s.config.rows[kTile]; ++r) {
      std::memcpy(static_cast<std::byte*>(p) + r * stride, row<kTile>(r), s.config.row_bytes[kTile]);
    }
  }

  // C[m, n] += sum_k sum_{i < 4} A[m, 4k + i] * B[k, 4n + i], C in 32 bits, A and B bytes: unsigned both ...
  template <int kC, int kA, int kB>
  static void add_unsigned_products() {
    add_products<kC, kA, kB, std::uint8_t>();
  }
  // ... or A signed, B unsigned.
  template <int kC, int kA, int kB>
  static void add_signed_products() {
    add_products<kC, kA, kB, std::int8_t>();
  }

 private:
  using Data = std::array<std::uint8_t, kTileRows * kTileRowBytes>;
  struct State {
    TileConfig config = {};
    std::array<Data, 8> data = {};
  };
  static State& state() {
    thread_local State out;
    return out;
  }
  template <int kTile>
  static std::uint8_t* row(std::size_t r) {
    return state().data[kTile].data() + r * kTileRowBytes;
  }

  template <int kC, int kA, int kB, class OfA>
  static void add_products() {
    const TileConfig& config = state().config;
    for (std::size_t m = 0; m < config.rows[kC]; ++m) {
      for (std::size_t n = 0; n < config.row_bytes[kC] / 4u; ++n) {
        std::int32_t sum;
        std::memcpy(&sum, row<kC>(m) + 4 * n, sizeof(sum));
        for (std::size_t k = 0; k < config.row_bytes[kA] / 4u; ++k) {
          for (std::size_t i = 0; i < 4; ++i) {
            sum += static_cast<OfA>(row<kA>(m)[4 * k + i]) * row<kB>(k)[4 * n + i];
          }
        }
        std::memcpy(row<kC>(m) + 4 * n, &sum, sizeof(sum));
      }
    }
  }
};

}  // namespace qnext
