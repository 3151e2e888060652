#pragma once
// Random numbers that are a function of where they are used: no state to carry, save or share.

#include <array>
#include <cstdint>

namespace qnext {

// Philox4x32-10: 128 random bits from a 128-bit counter and a 64-bit key.
// Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 4.3.
std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> counter, std::array<std::uint32_t, 2> key);

// Uniform in [0, 1), 53 bits: of this seed's stream, the draw for the token at `position`.
double uniform_at(std::uint64_t seed, std::uint64_t position);

}  // namespace qnext
