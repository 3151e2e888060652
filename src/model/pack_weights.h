#pragma once
// Weights in the layout of the kernel table that multiplies by them (PackedProducts), and the cache that keeps them
// between runs.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

#include "base/result.h"
#include "kernels/ops.h"
#include "model/weights.h"

namespace qnext {

struct PackOptions {
  std::filesystem::path cache_folder;                             // empty: no cache
  bool reads_mapped_files = true;                                 // false: no cache, and copies of what is not packed
  bool locks_memory = false;                                      // of all weights, as mlock does
  std::uint64_t smallest_cache_bytes = std::uint64_t{256} << 20;  // less is packed in no time
  std::uint64_t smallest_slow_bytes = std::uint64_t{256} << 20;   // of a type: a note says that it is not packed
  std::function<void(const std::string& line)> note;              // told what a user should know; may be null
  std::function<bool(std::uint64_t done_bytes, std::uint64_t total_bytes)> progress;  // false stops; may be null
};

// Packs the matrices that the table takes, with all of the pool's threads. Packed weights are kept
// in the cache and mapped from there: made once, then ready as fast as they are read; processes share their memory, and
// they may exceed it. Where the cache cannot be written (a note says why), they are packed in memory, if they fit, and
// else the table computes from the file. A table that packs nothing computes from the file. Then, where the options
// say so, what is left in mapped files is copied, and all of it locked (resident_weights.h).
//
// Cost    the first time, reading the file and writing as much; then reading the cache, to check it.
// Memory  the packed weights, mapped or not; the file's own copies leave the resident set.
// Errors  stopped by `progress`; resident_weights.h's.
Status pack_weights(ModelWeights& weights, const Ops& ops, const PackOptions& options);

}  // namespace qnext
