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
KernelTable make_simd_table(std::string_view name, const PackedProducts* packed, bool has_vnni) {
  KernelTable table{};
  table.name = name;
  table.packed = packed;
  add_simd_matmul(table);
  add_simd_rows(table);
  add_simd_delta_net(table);
  add_simd_delta_chunk(table);
  add_simd_attention(table, has_vnni);
  return table;
}

struct Target {
  std::string_view name;
  std::int64_t highway_target;
  const PackedProducts* (*packed)();  // null: the table packs nothing
  bool has_vnni = false;              // where `packed` returns anything
};

// Slowest first.
#if HWY_ARCH_X86
constexpr Target kTargets[] = {{"sse4", HWY_SSE4, nullptr},
                               {"avx2", HWY_AVX2, avx2_products},
                               {"avx512", HWY_AVX3, avx2_products},
                               {"vnni", HWY_AVX3, vnni_products, true},
                               {"amx", HWY_AVX3, amx_products, true}};
#else
constexpr Target kTargets[] = {{"neon", HWY_NEON, nullptr}};
#endif

std::vector<KernelTable> make_tables() {
  std::vector<KernelTable> tables = {make_ref_table()};
  const std::int64_t supported = hwy::SupportedTargets() & HWY_TARGETS;
  for (const Target& target : kTargets) {
    if ((supported & target.highway_target) == 0) continue;
    const PackedProducts* packed = target.packed != nullptr ? target.packed() : nullptr;
    if (target.packed != nullptr && packed == nullptr) continue;
    hwy::GetChosenTarget().Update(target.highway_target);
    tables.push_back(make_simd_table(target.name, packed, target.has_vnni));
  }
  hwy::GetChosenTarget().Update(supported);
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
