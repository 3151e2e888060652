#include "model/resident_weights.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>

#include "base/cpu.h"
#include "tensor/mapped_file.h"

namespace qnext {
namespace {

std::vector<Weight*> matrices_in_place(ModelWeights& weights) {
  std::vector<Weight*> out = multiplied_matrices(weights);
  std::erase_if(out, [](const Weight* w) { return w->packed != nullptr; });
  out.push_back(&weights.embedding);
  return out;
}

struct Pages {
  std::uintptr_t begin, end;  // whole ones
};

Pages pages_of(const std::byte* data, std::size_t num_bytes) {
  const auto page_bytes = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<std::uintptr_t>(data);
  return {begin / page_bytes * page_bytes, round_up(begin + num_bytes, page_bytes)};
}

// In order, and as few as there can be: experts by the thousand follow each other.
std::vector<Pages> merged(std::vector<Pages> pages) {
  std::ranges::sort(pages, {}, &Pages::begin);
  std::vector<Pages> out;
  for (const Pages& next : pages) {
    if (!out.empty() && next.begin <= out.back().end) {
      out.back().end = std::max(out.back().end, next.end);
    } else {
      out.push_back(next);
    }
  }
  return out;
}

}  // namespace

Status copy_mapped_weights(ModelWeights& weights) {
  std::map<const std::byte*, std::size_t> num_bytes;  // a head that is the embedding is copied once
  for (const Weight* w : matrices_in_place(weights)) num_bytes[w->data] = w->bytes();
  std::uint64_t sum = 0;
  for (const auto& [data, size] : num_bytes) sum += size;
  if (sum > available_memory_bytes()) {
    return error("no room for a copy of the weights: {:.2f} GiB wanted, {:.2f} GiB free", gib(sum),
                 gib(available_memory_bytes()));
  }
  std::map<const std::byte*, const std::byte*> copies;
  for (const auto& [data, size] : num_bytes) {
    std::byte* copy = weights.owned.allocate(size);
    std::memcpy(copy, data, size);
    copies[data] = copy;
  }
  for (Weight* w : matrices_in_place(weights)) w->data = copies[w->data];
  return success();
}

Status lock_weights(ModelWeights& weights, const Ops& ops) {
  std::vector<Pages> pages;
  for (const Weight* w : matrices_in_place(weights)) pages.push_back(pages_of(w->data, w->bytes()));
  for (const Weight* w : multiplied_matrices(weights)) {
    if (w->packed != nullptr) pages.push_back(pages_of(w->packed, ops.table().packed->packed_bytes(*w)));
  }
  pages = merged(std::move(pages));
  std::uint64_t sum = 0;
  for (const Pages& range : pages) sum += range.end - range.begin;
  for (const Pages& range : pages) {
    if (::mlock(reinterpret_cast<const void*>(range.begin), range.end - range.begin) == 0) continue;
    const int reason = errno;
    rlimit limit{};
    ::getrlimit(RLIMIT_MEMLOCK, &limit);
    const std::string allowed =
        limit.rlim_cur == RLIM_INFINITY ? "any amount" : fmt::format("{:.2f} GiB", gib(limit.rlim_cur));
    return error("cannot lock {:.2f} GiB of weights in memory: {}; this process may lock {} (ulimit -l)", gib(sum),
                 errno_text(reason), allowed);
  }
  return success();
}

}  // namespace qnext
