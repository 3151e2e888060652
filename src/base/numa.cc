#include "base/numa.h"

#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <string>

#include "base/units.h"

namespace qnext {
namespace {

// Of linux/mempolicy.h, which Debian ships with the kernel's headers alone.
constexpr int kPreferred = 1;            // MPOL_PREFERRED
constexpr unsigned kMove = 2;            // MPOL_MF_MOVE
constexpr std::size_t kMaskBits = 1024;  // nodes
constexpr std::size_t kPageBytes = 4096;

}  // namespace

std::vector<int> parse_cpu_list(std::string_view text) {
  std::vector<int> out;
  const char* at = text.data();
  const char* const end = at + text.size();
  while (at < end) {
    int first = 0;
    const auto [after, error] = std::from_chars(at, end, first);
    if (error != std::errc{} || first < 0) break;
    int last = first;
    at = after;
    if (at < end && *at == '-') {
      const auto [after_last, last_error] = std::from_chars(at + 1, end, last);
      if (last_error != std::errc{} || last < first || last >= CPU_SETSIZE) break;
      at = after_last;
    }
    for (int cpu = first; cpu <= last; ++cpu) out.push_back(cpu);
    if (at == end || *at != ',') break;
    ++at;
  }
  return out;
}

std::vector<NumaNode> find_numa_nodes(const std::filesystem::path& folder) {
  std::vector<NumaNode> out;
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return out;
  std::error_code failure;
  for (std::filesystem::directory_iterator entry(folder, failure), end; !failure && entry != end;
       entry.increment(failure)) {
    const std::string name = entry->path().filename().string();
    int id = 0;
    const char* const last = name.data() + name.size();
    if (!name.starts_with("node") || std::from_chars(name.data() + 4, last, id) != std::from_chars_result{last, {}}) {
      continue;
    }
    std::string list;
    std::getline(std::ifstream(entry->path() / "cpulist") >> std::ws, list);
    NumaNode node{.id = id, .cpus = parse_cpu_list(list)};
    std::erase_if(node.cpus, [&](int cpu) { return cpu >= CPU_SETSIZE || !CPU_ISSET(cpu, &allowed); });
    if (!node.cpus.empty()) out.push_back(std::move(node));
  }
  std::ranges::sort(out, {}, &NumaNode::id);
  return out;
}

const std::vector<NumaNode>& numa_nodes() {
  static const std::vector<NumaNode> nodes = find_numa_nodes();
  return nodes;
}

const NumaNode& node_of_part(std::span<const NumaNode> nodes, std::size_t part_idx, std::size_t num_parts) {
  std::size_t num_cpus = 0;
  for (const NumaNode& node : nodes) num_cpus += node.cpus.size();
  std::size_t cpu = num_cpus * part_idx / num_parts;  // as if threads stood on CPUs in a row
  for (const NumaNode& node : nodes) {
    if (cpu < node.cpus.size()) return node;
    cpu -= node.cpus.size();
  }
  return nodes.back();
}

bool stay_on_node(const NumaNode& node) {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  for (int cpu : node.cpus) CPU_SET(cpu, &cpus);
  return sched_setaffinity(0, sizeof cpus, &cpus) == 0;
}

bool keep_on_node(std::span<const std::byte> bytes, const NumaNode& node) {
  const auto begin = reinterpret_cast<std::uintptr_t>(bytes.data()) / kPageBytes * kPageBytes;
  const auto end = reinterpret_cast<std::uintptr_t>(bytes.data() + bytes.size()) / kPageBytes * kPageBytes;
  if (begin >= end) return true;
  constexpr std::size_t kWordBits = 8 * sizeof(unsigned long);
  if (node.id < 0 || static_cast<std::size_t>(node.id) >= kMaskBits) return false;
  unsigned long mask[kMaskBits / kWordBits] = {};
  mask[static_cast<std::size_t>(node.id) / kWordBits] |= 1UL << (static_cast<std::size_t>(node.id) % kWordBits);
  return syscall(SYS_mbind, begin, end - begin, kPreferred, mask, kMaskBits, kMove) == 0;
}

}  // namespace qnext
