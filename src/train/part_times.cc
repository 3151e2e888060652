#include "train/part_times.h"

#include <cstddef>
#include <utility>

namespace qnext::train {
namespace {

PartTimes times = {};

}  // namespace

PartTimer::~PartTimer() {
  times[static_cast<std::size_t>(part_)] +=
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
}

PartTimes take_part_times() {
  return std::exchange(times, {});
}

}  // namespace qnext::train
