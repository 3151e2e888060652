#pragma once
// Random numbers that are a function of where they are used: no state to carry, save or share.

#include <array>
#include <cstdint>

namespace qnext {

// Philox4x32-10: 128 random bits from a 128-bit counter and a 64-bit key.
// Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 4.3.
inline std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> counter, std::array<std::uint32_t, 2> key) {
  constexpr int kNumRounds = 10;
  constexpr std::uint64_t kMultiplier[2] = {0xD2511F53, 0xCD9E8D57};
  constexpr std::uint32_t kKeyStep[2] = {0x9E3779B9, 0xBB67AE85};  // golden ratio and sqrt(3) - 1, as 32-bit fractions
  for (int round = 0; round < kNumRounds; ++round) {
    const std::uint64_t product0 = kMultiplier[0] * counter[0];
    const std::uint64_t product1 = kMultiplier[1] * counter[2];
    counter = {static_cast<std::uint32_t>(product1 >> 32) ^ counter[1] ^ key[0], static_cast<std::uint32_t>(product1),
               static_cast<std::uint32_t>(product0 >> 32) ^ counter[3] ^ key[1], static_cast<std::uint32_t>(product0)};
    key[0] += kKeyStep[0];
    key[1] += kKeyStep[1];
  }
  return counter;
}

// Uniform in [0, 1), 53 bits: of this seed's stream, the draw for the token at `position`.
inline double uniform_at(std::uint64_t seed, std::uint64_t position) {
  const auto bits = philox4x32({static_cast<std::uint32_t>(position), static_cast<std::uint32_t>(position >> 32), 0, 0},
                               {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)});
  const std::uint64_t word = (std::uint64_t{bits[1]} << 32) | bits[0];
  return static_cast<double>(word >> 11) * 0x1p-53;
}

}  // namespace qnext
