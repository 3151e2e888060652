#pragma once
// The corpus's random numbers: the same on every machine and with every library, which std:: distributions are not.

#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "base/split_mix.h"

namespace qnext::corpus {

// FNV-1a, mixed: what decides a split must not follow from how texts look alike.
constexpr std::uint64_t text_hash(std::string_view text) {
  std::uint64_t hash = 0xCBF29CE484222325;
  for (char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3;
  return mixed(hash);
}

// A document has a generator of its own, Random(seed, stream, index), so that any document can be made without those
// before it.
class Random {
 public:
  Random(std::uint64_t seed, std::string_view stream, std::uint64_t index)
      : words_(mixed(mixed(seed + SplitMix::kStep) ^ text_hash(stream)) + mixed(index + SplitMix::kStep)) {}

  std::uint64_t next() { return words_.next(); }

  // Uniform in [0, bound) but for a bias below bound / 2^64, which no corpus is long enough to show.
  std::uint64_t below(std::uint64_t bound) {
    QN_CHECK(bound > 0, "nothing to draw from");
    return next() % bound;
  }

  // Uniform in [first, last].
  std::int64_t between(std::int64_t first, std::int64_t last) {
    return first + static_cast<std::int64_t>(below(static_cast<std::uint64_t>(last - first + 1)));
  }

  bool one_in(std::uint64_t count) { return below(count) == 0; }

 private:
  SplitMix words_;
};

}  // namespace qnext::corpus
