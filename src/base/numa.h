#pragma once
// NUMA: on machines of several sockets a core reads its own node's memory faster than another's. Threads stay on a
// node, and what one thread alone reads is kept there. All of it is advice: where the system declines, things are
// slower.

#include <cstddef>
#include <filesystem>
#include <span>
#include <string_view>
#include <vector>

namespace qnext {

struct NumaNode {
  int id = 0;
  std::vector<int> cpus;  // those that this process may use
};

// The nodes with CPUs that this process may use, by their ids. None where the system does not tell.
std::vector<NumaNode> find_numa_nodes(const std::filesystem::path& folder = "/sys/devices/system/node");

// Those of when this was first called: before threads were bound to any.
const std::vector<NumaNode>& numa_nodes();

// "0-3,8" -> 0 1 2 3 8. What is malformed, and what comes after it, is left out.
std::vector<int> parse_cpu_list(std::string_view text);

// The node of thread part_idx of num_parts: each gets threads as it has CPUs. Requires nodes.
const NumaNode& node_of_part(std::span<const NumaNode> nodes, std::size_t part_idx, std::size_t num_parts);

// Binds the calling thread to the node's CPUs. False: the system declined.
bool stay_on_node(const NumaNode& node);

// Has the pages of these bytes on the node: those that are there move, later ones are taken there. A page that is only
// partly theirs counts as theirs where they begin in it. False: the system declined.
bool keep_on_node(std::span<const std::byte> bytes, const NumaNode& node);

}  // namespace qnext
