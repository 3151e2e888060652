#include "base/numa.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <thread>

#include "base/thread_pool.h"

namespace qnext::test {
namespace {

std::vector<int> cpus_of_this_thread() {
  cpu_set_t mask;
  std::vector<int> out;
  if (sched_getaffinity(0, sizeof mask, &mask) != 0) return out;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &mask)) out.push_back(cpu);
  }
  return out;
}

TEST(Numa, ListsOfCpus) {
  EXPECT_EQ(parse_cpu_list("0-3,8,10-11"), (std::vector<int>{0, 1, 2, 3, 8, 10, 11}));
  EXPECT_EQ(parse_cpu_list("5"), std::vector<int>{5});
  EXPECT_EQ(parse_cpu_list("1,x"), std::vector<int>{1});
  EXPECT_EQ(parse_cpu_list("2,7-3"), std::vector<int>{2});
  EXPECT_EQ(parse_cpu_list("2,0-99999999"), std::vector<int>{2});
  for (const char* none : {"", "-", "a", "-3", "99999999999999"}) EXPECT_TRUE(parse_cpu_list(none).empty()) << none;
}

// As the kernel lists them: here with nodes of memory alone, of CPUs that are not ours, and what is no node.
TEST(Numa, NodesAreFound) {
  const std::filesystem::path folder = std::filesystem::temp_directory_path() / ("nodes-" + std::to_string(getpid()));
  const int own = cpus_of_this_thread().front();
  const std::map<std::string, std::string> lists = {{"node10", std::to_string(own) + "\n"},
                                                    {"node2", std::to_string(own) + ",1022\n"},
                                                    {"node3", "\n"},
                                                    {"node4", "1021-1022\n"},
                                                    {"node", "0\n"},
                                                    {"nodes5", "0\n"},
                                                    {"power", "0\n"}};
  for (const auto& [name, list] : lists) {
    std::filesystem::create_directories(folder / name);
    std::ofstream(folder / name / "cpulist") << list;
  }
  std::filesystem::create_directories(folder / "node7");  // without a list
  const std::vector<NumaNode> nodes = find_numa_nodes(folder);
  std::filesystem::remove_all(folder);
  ASSERT_EQ(nodes.size(), 2U);
  EXPECT_EQ(nodes[0].id, 2);
  EXPECT_EQ(nodes[1].id, 10);
  EXPECT_EQ(nodes[0].cpus, std::vector<int>{own});
  EXPECT_TRUE(find_numa_nodes(folder).empty());  // it is gone
}

TEST(Numa, EachNodeGetsThreadsAsItHasCpus) {
  const std::vector<NumaNode> nodes = {{0, {0, 1, 2, 3}}, {1, {4, 5}}};
  std::vector<int> ids;
  for (std::size_t i = 0; i < 6; ++i) ids.push_back(node_of_part(nodes, i, 6).id);
  EXPECT_EQ(ids, (std::vector<int>{0, 0, 0, 0, 1, 1}));
  EXPECT_EQ(node_of_part(nodes, 0, 1).id, 0);
  EXPECT_EQ(node_of_part(nodes, 2, 3).id, 1);
  EXPECT_EQ(node_of_part(nodes, 11, 12).id, 1);  // more threads than CPUs
}

TEST(Numa, EachPartRunsOnItsNode) {
  const std::vector<int> own = cpus_of_this_thread();
  if (own.size() < 2) GTEST_SKIP() << "one CPU only";
  std::thread([&] {  // which the pool binds
    const std::vector<NumaNode> nodes = {{0, {own[0]}}, {0, {own[1]}}};
    ThreadPool pool(2, nodes);
    std::vector<std::vector<int>> cpus(2);
    pool.run([&](std::size_t part_idx) { cpus[part_idx] = cpus_of_this_thread(); });
    EXPECT_EQ(cpus, (std::vector<std::vector<int>>{{own[0]}, {own[1]}}));
    EXPECT_EQ(pool.node_of(1)->cpus, std::vector<int>{own[1]});
  })
      .join();
  EXPECT_EQ(ThreadPool(2, {{0, own}}).node_of(0), nullptr);
  EXPECT_EQ(ThreadPool(2, {}).node_of(0), nullptr);
  EXPECT_EQ(cpus_of_this_thread(), own);
}

// Pages that are there, pages that are not, and less than a page.
TEST(Numa, MemoryKeepsWhatItHolds) {
  std::vector<std::byte> bytes(std::size_t{1} << 20, std::byte{7});
  const std::vector<NumaNode> nodes = find_numa_nodes();
  if (nodes.empty()) GTEST_SKIP() << "the system tells of no nodes";
  EXPECT_TRUE(keep_on_node(bytes, nodes[0]));
  EXPECT_TRUE(keep_on_node(std::span(bytes).first(100), nodes[0]));
  EXPECT_TRUE(keep_on_node({}, nodes[0]));
  EXPECT_FALSE(keep_on_node(bytes, {.id = 1000, .cpus = {}}));
  EXPECT_FALSE(keep_on_node(bytes, {.id = 5000, .cpus = {}}));
  EXPECT_TRUE(std::ranges::all_of(bytes, [](std::byte b) { return b == std::byte{7}; }));
}

}  // namespace
}  // namespace qnext::test
