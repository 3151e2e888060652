#include "apps/load_model.h"

#include <filesystem>
#include <optional>

#include "apps/console.h"
#include "apps/progress.h"
#include "base/env.h"

namespace qnext {
namespace {

constexpr std::uint64_t kWorthShowing = std::uint64_t{256} << 20;  // bytes; less is packed in no time

// Empty: no cache.
std::filesystem::path cache_folder(const MachineOptions& options) {
  if (options.pack_cache == "none") return {};
  if (!options.pack_cache.empty()) return options.pack_cache;
  if (const auto cache = env("XDG_CACHE_HOME")) return std::filesystem::path(*cache) / "qnext";
  if (const auto home = env("HOME")) return std::filesystem::path(*home) / ".cache" / "qnext";
  return {};
}

}  // namespace

Result<std::unique_ptr<const Qwen3Next>> load_model(const std::string& path, const Ops& ops,
                                                    const MachineOptions& options) {
  std::optional<Progress> progress;
  PackOptions pack;
  pack.cache_folder = cache_folder(options);
  pack.reads_mapped_files = !options.no_mmap;
  pack.locks_memory = options.mlock;
  pack.note = [&](const std::string& line) {
    progress.reset();
    write_stderr(fmt::format("qnext: {}\n", line));
  };
  pack.progress = [&](std::uint64_t done_bytes, std::uint64_t total_bytes) {
    if (!progress && total_bytes >= kWorthShowing) progress.emplace("packing");
    if (progress) progress->update(done_bytes, total_bytes);
    return !interrupted();
  };
  return Qwen3Next::load(path, ops, pack);
}

}  // namespace qnext
