#include "model/pack_weights.h"

#include <sys/mman.h>

#include <algorithm>
#include <map>

#include "base/cpu.h"
#include "model/resident_weights.h"

namespace qnext {
namespace {

constexpr std::size_t kHugePageBytes = std::size_t{2} << 20;
constexpr std::size_t kGroupsATask = 16;
constexpr std::size_t kBatchBytes = std::size_t{64} << 20;

// Some groups of a matrix, and where they go.
struct Task {
  Weight* weight;
  Range groups;
  std::uint64_t begin;  // byte of the packed weights
  std::uint64_t num_bytes;
};

// All packed weights: matrix after matrix, in the order of multiplied_matrices.
struct Plan {
  std::vector<Weight*> matrices;
  std::vector<Task> tasks;
  std::uint64_t num_bytes = 0;
  std::map<DType, std::uint64_t> unpacked_bytes;  // of the types that the table does not pack
};

Plan make_plan(ModelWeights& weights, const PackedProducts& packed) {
  Plan plan;
  for (Weight* w : multiplied_matrices(weights)) {
    if (!packed.packs(*w)) {
      plan.unpacked_bytes[w->type] += w->rows * w->row_bytes;
      continue;
    }
    plan.matrices.push_back(w);
    const std::size_t num_groups = ceil_div(w->rows, kPackGrain);
    const std::uint64_t group_bytes = packed.packed_bytes(*w) / num_groups;
    for (std::size_t group = 0; group < num_groups; group += kGroupsATask) {
      const Range groups{group, std::min(group + kGroupsATask, num_groups)};
      plan.tasks.push_back({w, groups, plan.num_bytes, groups.count() * group_bytes});
      plan.num_bytes += plan.tasks.back().num_bytes;
    }
  }
  return plan;
}

// "1.2 GiB of bf16, 0.3 GiB of q2_k", of as much as a user would feel; or nothing.
std::string slow_part(const Plan& plan, std::uint64_t smallest_bytes) {
  std::vector<std::string> parts;
  for (const auto& [type, num_bytes] : plan.unpacked_bytes) {
    if (num_bytes >= smallest_bytes)
      parts.push_back(fmt::format("{:.1f} GiB of {}", gib(num_bytes), dtype_info(type).name));
  }
  return fmt::format("{}", fmt::join(parts, ", "));
}

void set_packed(const Plan& plan, const std::byte* memory) {
  for (const Task& task : plan.tasks) {
    if (task.groups.begin == 0) task.weight->packed = memory + task.begin;
  }
}

// Packs all tasks, in order: a batch into buffer(byte, size), which done(...) then takes.
Status pack_all(const Plan& plan, const ModelWeights& weights, const Ops& ops, const PackOptions& options,
                FunctionRef<std::byte*(std::uint64_t begin)> buffer, FunctionRef<Status(std::span<std::byte>)> done) {
  for (std::size_t first = 0; first < plan.tasks.size();) {
    const std::uint64_t begin = plan.tasks[first].begin;
    std::size_t last = first;
    std::uint64_t num_bytes = 0;
    for (; last < plan.tasks.size() && (last == first || num_bytes + plan.tasks[last].num_bytes <= kBatchBytes); ++last)
      num_bytes += plan.tasks[last].num_bytes;
    std::byte* out = buffer(begin);
    ops.pool().for_each(last - first, [&](std::size_t i) {
      const Task& task = plan.tasks[first + i];
      ops.table().packed->pack(out + (task.begin - begin), *task.weight, task.groups);
    });
    QN_RETURN_IF_ERROR(done({out, num_bytes}));
    // The file's own copies leave our resident set; they come back when they are touched.
    for (const MappedFile& file : weights_files(weights)) file.advise(AccessPattern::kDoneForNow);
    first = last;
    if (options.progress && !options.progress(begin + num_bytes, plan.num_bytes)) {
      return error("stopped while packing weights");
    }
  }
  return success();
}

// Each thread's rows of each matrix go to where it runs.
void keep_near_readers(const Plan& plan, const Ops& ops) {
  const ThreadPool& pool = ops.pool();
  if (pool.node_of(0) == nullptr) return;
  for (const Weight* w : plan.matrices) {
    const std::size_t group_bytes = ops.table().packed->packed_bytes(*w) / ceil_div(w->rows, kPackGrain);
    for (std::size_t part_idx = 0; part_idx < pool.num_threads(); ++part_idx) {
      const Range rows = split_range(w->rows, kPackedGrain, part_idx, pool.num_threads());
      const std::size_t begin = rows.begin / kPackGrain, end = ceil_div(rows.end, kPackGrain);
      keep_on_node({w->packed + begin * group_bytes, (end - begin) * group_bytes}, *pool.node_of(part_idx));
    }
  }
}

Status pack_in_memory(const Plan& plan, ModelWeights& weights, const Ops& ops, const PackOptions& options) {
  auto* memory = weights.owned.allocate(plan.num_bytes + kHugePageBytes);
  memory +=
      round_up(reinterpret_cast<std::uintptr_t>(memory), kHugePageBytes) - reinterpret_cast<std::uintptr_t>(memory);
  ::madvise(memory, plan.num_bytes, MADV_HUGEPAGE);  // fewer misses of the address translation; advice, which may fail
  set_packed(plan, memory);
  keep_near_readers(plan, ops);
  return pack_all(
      plan, weights, ops, options, [&](std::uint64_t begin) { return memory + begin; },
      [](std::span<std::byte>) { return success(); });
}

// ---- The cache ----

// What the packed weights are computed from: the table's layout, every matrix's type and shape, and some bytes of it.
std::uint64_t source_tag(const Plan& plan, std::string_view table, std::span<const MappedFile> files) {
  std::string text = fmt::format("{} {}", table, kPackedLayoutVersion);
  for (const MappedFile& file : files) {
    std::error_code ignored;
    text += fmt::format(" {} {}", file.bytes().size(),
                        std::filesystem::last_write_time(file.path(), ignored).time_since_epoch().count());
  }
  for (const Weight* w : plan.matrices) text += fmt::format(" {} {}x{}", dtype_info(w->type).name, w->rows, w->cols);
  std::uint64_t tag = hash_bytes(std::as_bytes(std::span(text)));
  constexpr std::size_t kSamples = 256, kSampleBytes = 256;
  const std::size_t step = ceil_div(plan.matrices.size(), kSamples);
  for (std::size_t i = 0; i < plan.matrices.size(); i += step) {
    const Weight& w = *plan.matrices[i];
    tag = hash_bytes({w.row(w.rows / 2), std::min(w.row_bytes, kSampleBytes)}, tag);
  }
  return tag;
}

std::filesystem::path cache_path(const PackOptions& options, std::string_view table,
                                 std::span<const MappedFile> files) {
  std::error_code ignored;
  const std::filesystem::path source = std::filesystem::weakly_canonical(files.front().path(), ignored);
  const std::string name = source.string();
  const std::uint64_t hash = hash_bytes(std::as_bytes(std::span(name)));
  return options.cache_folder / fmt::format("{}-{:016x}.{}", source.stem().string(), hash, table);
}

Status write_cache(const Plan& plan, const std::filesystem::path& path, std::uint64_t tag, const ModelWeights& weights,
                   const Ops& ops, const PackOptions& options) {
  std::error_code failure;
  std::filesystem::create_directories(path.parent_path(), failure);
  if (failure) return error("{}: cannot create the folder: {}", path.parent_path().string(), failure.message());
  remove_abandoned_temporaries(path);
  QN_RETURN_IF_ERROR(expect_free_space(path, 2 * plan.num_bytes));  // never the disk's last half
  QN_TRY(CheckedFileWriter writer, CheckedFileWriter::create(path, tag, plan.num_bytes));
  if (options.note) options.note(fmt::format("packing the weights for this CPU into {}, once", path.string()));
  std::vector<std::byte> batch(kBatchBytes);
  QN_RETURN_IF_ERROR(pack_all(
      plan, weights, ops, options, [&](std::uint64_t) { return batch.data(); },
      [&](std::span<std::byte> bytes) { return writer.append(bytes); }));
  return writer.commit();
}

Status open_cache(const Plan& plan, const std::filesystem::path& path, std::uint64_t tag, ModelWeights& weights,
                  const Ops& ops) {
  // More than memory holds is not read through: it comes in as it is used.
  const auto check =
      plan.num_bytes <= available_memory_bytes() ? CheckedFile::Check::kWhole : CheckedFile::Check::kFrame;
  QN_TRY(CheckedFile file, CheckedFile::open(path, tag, plan.num_bytes, check, ops.pool()));
  weights.packed_file.emplace(std::move(file));
  set_packed(plan, weights.packed_file->data().data());
  keep_near_readers(plan, ops);
  return success();
}

Status make_packed(ModelWeights& weights, const Ops& ops, const PackOptions& options) {
  if (ops.table().packed == nullptr) return success();
  const Plan plan = make_plan(weights, *ops.table().packed);
  const auto note = [&](const std::string& text) {
    if (options.note) options.note(text);
  };
  if (const std::string slow = slow_part(plan, options.smallest_slow_bytes); !slow.empty()) {
    note(fmt::format("{} have no packed form on {}: computed from the file's own, which is slower", slow,
                     ops.table().name));
  }
  if (plan.num_bytes == 0) return success();
  const std::span<const MappedFile> files = weights_files(weights);
  if (options.reads_mapped_files && !options.cache_folder.empty() && plan.num_bytes >= options.smallest_cache_bytes &&
      !files.empty()) {
    const std::filesystem::path path = cache_path(options, ops.table().name, files);
    const std::uint64_t tag = source_tag(plan, ops.table().name, files);
    std::error_code ignored;
    if (std::filesystem::exists(path, ignored)) {
      const Status opened = open_cache(plan, path, tag, weights, ops);
      if (opened.ok()) return success();
      note(opened.message());
    }
    Status made = write_cache(plan, path, tag, weights, ops, options);
    if (made.ok()) made = open_cache(plan, path, tag, weights, ops);  // unless somebody removed it meanwhile
    if (made.ok()) return success();
    if (options.progress && !options.progress(0, plan.num_bytes)) return made;
    note(made.message());
  }
  if (plan.num_bytes + plan.num_bytes / 16 > available_memory_bytes()) {
    note("no room for packed weights: computing from the file's own, which is slower");
    return success();
  }
  return pack_in_memory(plan, weights, ops, options);
}

}  // namespace

Status pack_weights(ModelWeights& weights, const Ops& ops, const PackOptions& options) {
  QN_RETURN_IF_ERROR(make_packed(weights, ops, options));
  if (!options.reads_mapped_files) QN_RETURN_IF_ERROR(copy_mapped_weights(weights));
  return options.locks_memory ? lock_weights(weights, ops) : success();
}

}  // namespace qnext
