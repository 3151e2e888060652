#pragma once
// splitmix64: random words that are the same on every machine and with every library, which std:: distributions and
// shuffles are not. Source: Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators".

#include <cstdint>

namespace qnext {

// A finaliser whose every output bit depends on every input bit.
constexpr std::uint64_t mixed(std::uint64_t word) {
  word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9;
  word = (word ^ (word >> 27)) * 0x94D049BB133111EB;
  return word ^ (word >> 31);
}

class SplitMix {
 public:
  static constexpr std::uint64_t kStep = 0x9E3779B97F4A7C15;

  explicit constexpr SplitMix(std::uint64_t state) : state_(state) {}
  constexpr std::uint64_t next() { return mixed(state_ += kStep); }

 private:
  std::uint64_t state_;
};

}  // namespace qnext
