#include "base/cpu.h"

#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <limits>
#include <sstream>

namespace qnext {
namespace {

std::string read_text(const char* path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// The number after "KEY:" in the text of a /proc file, or nothing found: 0.
std::size_t proc_field(std::string_view text, std::string_view key) {
  const std::size_t at = text.find(key);
  if (at == std::string_view::npos) return 0;
  const std::size_t digits = text.find_first_of("0123456789", at + key.size());
  if (digits == std::string_view::npos) return 0;
  std::size_t value = 0;
  std::from_chars(text.data() + digits, text.data() + text.size(), value);
  return value;
}

}  // namespace

std::string cpu_name() {
  const std::string text = read_text("/proc/cpuinfo");
  for (std::string_view key : {"model name", "Model"}) {
    const std::size_t at = text.find(key);
    if (at == std::string::npos) continue;
    const std::size_t begin = text.find_first_not_of(" \t", text.find(':', at) + 1);
    return text.substr(begin, text.find('\n', begin) - begin);
  }
  return "unknown CPU";
}

std::size_t parse_cpu_quota(std::string_view cpu_max, std::size_t fallback) {
  double quota = 0;
  double period = 0;
  const auto [end, error] = std::from_chars(cpu_max.data(), cpu_max.data() + cpu_max.size(), quota);
  if (error != std::errc{} || end == cpu_max.data() + cpu_max.size()) return fallback;
  if (std::from_chars(end + 1, cpu_max.data() + cpu_max.size(), period).ec != std::errc{}) return fallback;
  if (quota <= 0 || period <= 0) return fallback;
  return static_cast<std::size_t>(
      std::max(1.0, std::min((quota + period - 1) / period, static_cast<double>(fallback))));
}

std::size_t usable_cores() {
  std::size_t cores = static_cast<std::size_t>(std::max(1L, sysconf(_SC_NPROCESSORS_ONLN)));
  cpu_set_t mask;
  if (sched_getaffinity(0, sizeof mask, &mask) == 0) {
    cores = static_cast<std::size_t>(std::max(1, CPU_COUNT(&mask)));
  }
  return std::min(cores, parse_cpu_quota(read_text("/sys/fs/cgroup/cpu.max"), cores));
}

std::size_t available_memory_bytes() {
  std::size_t available_bytes = proc_field(read_text("/proc/meminfo"), "MemAvailable:") * 1024;
  std::size_t limit_bytes = std::numeric_limits<std::size_t>::max();
  std::size_t used_bytes = 0;
  std::ifstream("/sys/fs/cgroup/memory.max") >> limit_bytes;
  std::ifstream("/sys/fs/cgroup/memory.current") >> used_bytes;
  if (limit_bytes > used_bytes) available_bytes = std::min(available_bytes, limit_bytes - used_bytes);
  return available_bytes;
}

std::size_t peak_resident_bytes() {
  rusage usage{};
  return getrusage(RUSAGE_SELF, &usage) == 0 ? static_cast<std::size_t>(usage.ru_maxrss) * 1024 : 0;
}

std::size_t resident_bytes() {
  return proc_field(read_text("/proc/self/status"), "VmRSS:") * 1024;
}

}  // namespace qnext
