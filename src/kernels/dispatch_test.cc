#include "kernels/dispatch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <set>

namespace qnext {
namespace {

TEST(Dispatch, RefComesFirstAndNamesAreUnique) {
  const auto tables = available_tables();
  ASSERT_FALSE(tables.empty());
  EXPECT_EQ(tables.front().name, "ref");
  std::set<std::string_view> names;
  for (const KernelTable& table : tables) names.insert(table.name);
  EXPECT_EQ(names.size(), tables.size());
}

TEST(Dispatch, NoTableHasAGap) {
  for (const KernelTable& table : available_tables()) {
    constexpr std::size_t kNumPointers = (sizeof(KernelTable) - sizeof(std::string_view)) / sizeof(void*);
    void* pointers[kNumPointers];
    std::memcpy(pointers, reinterpret_cast<const std::byte*>(&table) + sizeof(std::string_view), sizeof(pointers));
    // The last one is `packed`, which a table may lack.
    for (std::size_t i = 0; i + 1 < kNumPointers; ++i)
      EXPECT_NE(pointers[i], nullptr) << table.name << " pointer " << i;
    if (table.packed == nullptr) continue;
    void* products[sizeof(PackedProducts) / sizeof(void*)];
    std::memcpy(products, table.packed, sizeof(products));
    for (const void* product : products) EXPECT_NE(product, nullptr) << table.name;
  }
}

TEST(Dispatch, EveryTableHasItsOwnCode) {
  std::set<std::pair<Matmul, const PackedProducts*>> products;
  for (const KernelTable& table : available_tables()) products.insert({table.matmul, table.packed});
  EXPECT_EQ(products.size(), available_tables().size());
}

TEST(Dispatch, FindsTablesByName) {
  for (const KernelTable& table : available_tables()) {
    const auto found = find_table(table.name);
    ASSERT_TRUE(found.ok());
    EXPECT_EQ(*found, &table);
  }
  const auto best = find_table("");
  ASSERT_TRUE(best.ok());
  EXPECT_EQ(*best, &available_tables().back());
}

TEST(Dispatch, AnUnknownNameIsAnErrorThatListsTheKnownOnes) {
  const auto found = find_table("avx1024");
  ASSERT_FALSE(found.ok());
  EXPECT_THAT(found.message(), testing::HasSubstr("avx1024"));
  for (const KernelTable& table : available_tables()) {
    EXPECT_THAT(found.message(), testing::HasSubstr(std::string(table.name)));
  }
  EXPECT_FALSE(find_table("REF").ok());
}

}  // namespace
}  // namespace qnext
