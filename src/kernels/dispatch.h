#pragma once
// Which kernel table runs: chosen once at start.

#include <span>
#include <string_view>

#include "base/result.h"
#include "kernels/kernels.h"

namespace qnext {

// Every table that this CPU can run, slowest first: ref, then the SIMD targets. Built once.
std::span<const KernelTable> available_tables();

// The table of this name ("ref", "avx2", ...), or the best one for "". An unknown name, or one that the CPU lacks, is
// an error that lists the names that would work. Callers pass the QNEXT_ISA environment variable (base/env.h).
Result<const KernelTable*> find_table(std::string_view name);

}  // namespace qnext
