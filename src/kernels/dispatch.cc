#include "kernels/dispatch.h"

#include "kernels/simd/targets.h"

#include <fmt/ranges.h>
#include <hwy/targets.h>

#include <vector>

#include "kernels/ref/ref_kernels.h"
#include "kernels/simd/simd_kernels.h"
#include "kernels/x86/packed.h"

namespace qnext {
namespace {

KernelTable make_ref_table() {
  KernelTable table{};
  table.name = "ref";
  add_matmul(table);
  add_experts(table);
  add_rows(table);
  add_delta_net(table);
  add_attention(table);
  return table;
}

// The kernels of the target that Highway has chosen.
KernelTable make_simd_table(std::string_view name) {
  KernelTable table{};
  table.name = name;
  add_simd_matmul(table);
  add_simd_rows(table);
  add_simd_delta_net(table);
  add_simd_delta_chunk(table);
  add_simd_attention(table);
  return table;
}

struct Target {
  std::string_view name;
  std::int64_t highway_target;
};

// Slowest first.
#if HWY_ARCH_X86
constexpr Target kTargets[] = {{"sse4", HWY_SSE4}, {"avx2", HWY_AVX2}, {"avx512", HWY_AVX3}};
#else
constexpr Target kTargets[] = {{"neon", HWY_NEON}};
#endif

std::vector<KernelTable> make_tables() {
  std::vector<KernelTable> tables = {make_ref_table()};
  const std::int64_t supported = hwy::SupportedTargets() & HWY_TARGETS;
  for (const Target& target : kTargets) {
    if ((supported & target.highway_target) == 0) continue;
    hwy::GetChosenTarget().Update(target.highway_target);
    tables.push_back(make_simd_table(target.name));
  }
  hwy::GetChosenTarget().Update(supported);
  if (const PackedProducts* products = vnni_products(); products != nullptr && tables.back().name == "avx512") {
    KernelTable table = tables.back();
    table.name = "vnni";
    table.packed = products;
    tables.push_back(table);
  }
  return tables;
}

}  // namespace

std::span<const KernelTable> available_tables() {
  static const std::vector<KernelTable> tables = make_tables();
  return tables;
}

Result<const KernelTable*> find_table(std::string_view name) {
  const std::span<const KernelTable> tables = available_tables();
  if (name.empty()) return &tables.back();
  std::vector<std::string_view> names;
  for (const KernelTable& table : tables) {
    if (table.name == name) return &table;
    names.push_back(table.name);
  }
  return error(
      "instruction set \"{}\": unknown, or not supported by this CPU; expected one of {} (or none for the best)", name,
      fmt::join(names, ", "));
}

}  // namespace qnext
