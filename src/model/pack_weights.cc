#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "base/cpu.h"
#include "model/weights.h"

namespace qnext {
namespace {

constexpr std::size_t kHugePageBytes = std::size_t{2} << 20;
constexpr std::size_t kLineBytes = 64;
constexpr std::size_t kGroupsATask = 16;

void add(std::vector<Weight*>& out, DenseWeights& w) {
  out.insert(out.end(), {&w.gate, &w.up, &w.down});
}

void add(std::vector<Weight*>& out, LayerWeights& layer) {
  if (auto* attention = std::get_if<AttentionWeights>(&layer.mixer)) {
    out.insert(out.end(), {&attention->q, &attention->k, &attention->v, &attention->out});
  } else {
    auto& delta_net = std::get<DeltaNetWeights>(layer.mixer);
    out.insert(out.end(), {&delta_net.qkv, &delta_net.z, &delta_net.ba, &delta_net.out});
  }
  if (auto* moe = std::get_if<MoeWeights>(&layer.ffn)) {
    out.push_back(&moe->router);
    for (auto* experts : {&moe->gate, &moe->up, &moe->down}) {
      for (Weight& w : *experts) out.push_back(&w);
    }
    if (moe->shared) add(out, *moe->shared);
    if (moe->shared) out.push_back(&moe->shared_gate);
  } else {
    add(out, std::get<DenseWeights>(layer.ffn));
  }
}

// Every matrix that is multiplied by; the embedding is read row by row, as it lies in the file.
std::vector<Weight*> multiplied_matrices(ModelWeights& weights) {
  std::vector<Weight*> out;
  for (LayerWeights& layer : weights.layers) add(out, layer);
  out.push_back(&weights.head);
  if (weights.mtp) {
    out.push_back(&weights.mtp->fc);
    add(out, weights.mtp->layer);
  }
  return out;
}

// Tells the kernel that these bytes of a mapped file are no longer needed in memory; they can be read again.
void drop_pages(std::vector<std::span<const std::byte>> ranges) {
  std::sort(ranges.begin(), ranges.end(), [](const auto& a, const auto& b) { return a.data() < b.data(); });
  const auto page_bytes = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  for (std::size_t i = 0; i < ranges.size();) {
    const auto begin = reinterpret_cast<std::uintptr_t>(ranges[i].data());
    std::uintptr_t end = begin + ranges[i].size();
    for (++i; i < ranges.size() && reinterpret_cast<std::uintptr_t>(ranges[i].data()) == end; ++i) {
      end += ranges[i].size();
    }
    const std::uintptr_t first_page = round_up(begin, page_bytes);
    const std::uintptr_t end_page = end / page_bytes * page_bytes;
    if (first_page < end_page) ::madvise(reinterpret_cast<void*>(first_page), end_page - first_page, MADV_DONTNEED);
  }
}

}  // namespace

void pack_weights(ModelWeights& weights, const Ops& ops) {
  const PackedProducts* packed = ops.table().packed;
  if (packed == nullptr) return;
  struct Task {
    const Weight* weight;
    std::byte* out;
    Range groups;
  };
  std::vector<Weight*> matrices = multiplied_matrices(weights);
  std::erase_if(matrices, [&](const Weight* w) { return !packed->packs(*w); });
  std::size_t num_bytes = 0;
  for (const Weight* w : matrices) num_bytes += round_up(packed->packed_bytes(*w), kLineBytes);
  if (num_bytes == 0 || num_bytes + num_bytes / 16 > available_memory_bytes()) return;

  auto* memory = weights.owned.allocate(num_bytes + kHugePageBytes);
  memory +=
      round_up(reinterpret_cast<std::uintptr_t>(memory), kHugePageBytes) - reinterpret_cast<std::uintptr_t>(memory);
  ::madvise(memory, num_bytes, MADV_HUGEPAGE);  // fewer misses of the address translation; advice, which may fail
  std::vector<Task> tasks;
  std::vector<std::span<const std::byte>> file_ranges;
  for (Weight* w : matrices) {
    const std::size_t num_groups = ceil_div(w->rows, kPackGrain);
    for (std::size_t group = 0; group < num_groups; group += kGroupsATask) {
      tasks.push_back({w, memory, {group, std::min(group + kGroupsATask, num_groups)}});
    }
    file_ranges.emplace_back(w->data, w->bytes());
    w->packed = memory;
    memory += round_up(packed->packed_bytes(*w), kLineBytes);
  }
  ops.pool().for_each(tasks.size(), [&](std::size_t task_idx) {
    const Task& task = tasks[task_idx];
    packed->pack(task.out, *task.weight, task.groups);
  });
  drop_pages(std::move(file_ranges));
}

}  // namespace qnext
