#pragma once
// Strong ids and ranges: what would otherwise be a bare integer.

#include <compare>
#include <cstddef>
#include <cstdint>

namespace qnext {

using TokenId = std::int32_t;  // the vocabulary's own numbering; -1 never means anything

// An id that converts to nothing: mixing a page with a slot does not compile.
template <class Tag>
struct Id {
  std::uint32_t value = 0;
  friend auto operator<=>(const Id&, const Id&) = default;
};

using PageId = Id<struct PageTag>;            // a page of K/V cache
using StateSlotId = Id<struct StateSlotTag>;  // a slot of recurrent + conv state
using RequestId = Id<struct RequestTag>;      // a request accepted by the engine

// [begin, end)
struct Range {
  std::size_t begin = 0;
  std::size_t end = 0;
  constexpr std::size_t count() const { return end - begin; }
  constexpr bool empty() const { return begin >= end; }
  friend bool operator==(const Range&, const Range&) = default;
};

// The part_idx-th of num_parts nearly equal parts of [0, total), cut at multiples of `grain` (the last may be short).
constexpr Range split_range(std::size_t total, std::size_t grain, std::size_t part_idx, std::size_t num_parts) {
  const std::size_t num_grains = (total + grain - 1) / grain;
  const std::size_t begin = num_grains * part_idx / num_parts * grain;
  const std::size_t end = num_grains * (part_idx + 1) / num_parts * grain;
  return {begin < total ? begin : total, end < total ? end : total};
}

constexpr std::size_t ceil_div(std::size_t dividend, std::size_t divisor) {
  return (dividend + divisor - 1) / divisor;
}
constexpr std::size_t round_up(std::size_t value, std::size_t multiple) {
  return ceil_div(value, multiple) * multiple;
}

}  // namespace qnext
