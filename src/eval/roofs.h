#pragma once
// The walls of this machine, measured in the same run as what is held against them.

#include <cstddef>
#include <cstdint>
#include <memory>

#include "base/result.h"
#include "kernels/ops.h"

namespace qnext {

struct Roofs {
  double read_bytes_per_s = 0;  // all threads streaming one buffer, far larger than any cache, from memory
  // All threads in the table's own f32 matmul, on data that stays in each core's cache; where the table packs weights,
  // in the integer multiply-adds of its products, on registers.
  double matmul_ops_per_s = 0;
  std::size_t read_buffer_bytes = 0;
};

class RoofMeter {
 public:
  // Takes a buffer of 1 GiB, or of half the free memory where that is less, and touches it. Errors: no memory.
  static Result<RoofMeter> make(const Ops& ops);

  // The best of several runs each; about a quarter of a second in all.
  Roofs measure() const;

 private:
  explicit RoofMeter(const Ops& ops) : ops_(&ops) {}
  double best_read_bytes_per_s() const;
  double best_matmul_ops_per_s() const;

  const Ops* ops_;
  std::unique_ptr<std::uint64_t[]> words_;
  std::size_t num_words_ = 0;
};

// The larger of each, for roofs measured before and after.
Roofs best_of(const Roofs& a, const Roofs& b);

}  // namespace qnext
