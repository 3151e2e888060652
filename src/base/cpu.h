#pragma once
// What this machine offers: its name, the cores that we may use, its memory.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace qnext {

// "Intel(R) Xeon(R) Processor", or "unknown CPU".
std::string cpu_name();

// Threads worth starting: the cores that the affinity mask and the cgroup's CPU quota leave, at least 1.
std::size_t usable_cores();

// Memory that this process could still take, in bytes: the smaller of what the machine has free and the cgroup's limit.
std::size_t available_memory_bytes();

// For messages.
constexpr double gib(std::uint64_t num_bytes) {
  return static_cast<double>(num_bytes) / (std::uint64_t{1} << 30);
}

// Largest and current resident set of this process, in bytes; 0 where the system does not tell.
std::size_t peak_resident_bytes();
std::size_t resident_bytes();

// Parses a cgroup v2 cpu.max ("200000 100000", "max 100000"): cores rounded up, or `fallback` when unlimited or
// malformed.
std::size_t parse_cpu_quota(std::string_view cpu_max, std::size_t fallback);

}  // namespace qnext
