// Products of packed weights, of every table that packs.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "kernels/compare.h"
#include "kernels/dispatch.h"
#include "kernels/random_weight.h"
#include "kernels/x86/packed_emulated.h"

namespace qnext {
namespace {

constexpr float kUntouched = -7.0f;

std::vector<const KernelTable*> packing_tables() {
  std::vector<const KernelTable*> out;
  for (const KernelTable& table : available_tables()) {
    if (table.packed != nullptr) out.push_back(&table);
  }
  static const KernelTable emulated = [] {
    KernelTable table{};
    table.name = "emulated amx";
    table.packed = emulated_products();
    return table;
  }();
  if (emulated.packed != nullptr) out.push_back(&emulated);
  return out;
}

class Packed : public testing::Test {
 protected:
  void SetUp() override {
    if (packing_tables().empty()) GTEST_SKIP() << "no table of this CPU packs weights";
  }
};

// Memory that ends where the next access faults, and that begins at a page.
class Guarded {
 public:
  explicit Guarded(std::size_t num_bytes) {
    const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    mapped_bytes_ = round_up(num_bytes, page) + page;
    memory_ = static_cast<std::byte*>(
        ::mmap(nullptr, mapped_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    QN_CHECK(memory_ != MAP_FAILED, "no memory for {} bytes", mapped_bytes_);
    QN_CHECK(::mprotect(memory_ + mapped_bytes_ - page, page, PROT_NONE) == 0, "no guard page");
    data_ = memory_ + (mapped_bytes_ - page - num_bytes);
  }
  ~Guarded() { ::munmap(memory_, mapped_bytes_); }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  std::byte* data() const { return data_; }

 private:
  std::byte* memory_;
  std::byte* data_;
  std::size_t mapped_bytes_;
};

// A random weight, packed for a table into guarded memory.
struct PackedWeight {
  RandomWeight random;
  Guarded memory;
  Weight weight;

  PackedWeight(const KernelTable& table, DType type, std::size_t rows, std::size_t cols, std::uint32_t seed)
      : random(type, rows, cols, seed), memory(table.packed->packed_bytes(random.weight)), weight(random.weight) {
    const std::size_t num_groups = ceil_div(rows, kPackGrain);
    const std::size_t group_bytes = table.packed->packed_bytes(weight) / num_groups;
    const std::size_t middle = num_groups / 2;  // in two parts, as two threads would
    table.packed->pack(memory.data(), weight, {0, middle});
    table.packed->pack(memory.data() + middle * group_bytes, weight, {middle, num_groups});
    weight.packed = memory.data();
  }
};

// Activations [T, K] of a table, in guarded memory, and what they stand for.
struct Rounded {
  Guarded memory;
  View<ActivationBlock> blocks;
  std::vector<float> values;

  Rounded(const KernelTable& table, const std::vector<float>& x, std::size_t cols)
      : memory(x.size() / kActivationBlock * sizeof(ActivationBlock)),
        blocks(reinterpret_cast<ActivationBlock*>(memory.data()), {x.size() / cols, cols / kActivationBlock}) {
    const std::size_t num_tokens = x.size() / cols;
    table.packed->quantise(blocks, View<const float>(x.data(), {num_tokens, cols}), {0, num_tokens});
    for (std::size_t i = 0; i < x.size(); ++i) {
      const ActivationBlock& block = blocks.data()[i / kActivationBlock];
      values.push_back(block.scale * static_cast<float>(block.codes[i % kActivationBlock]));
    }
  }
};

ActivationBlock round_block(const KernelTable& table, const std::vector<float>& x) {
  ActivationBlock out{};
  table.packed->quantise(View<ActivationBlock>(&out, {1, 1}), View<const float>(x.data(), {1, kActivationBlock}),
                         {0, 1});
  return out;
}

// ---- Rounding ----

TEST_F(Packed, ActivationsAreRoundedToTheNearestOf65535Steps) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (const KernelTable* table : packing_tables()) {
    for (int exponent = -100; exponent <= 120; exponent += 5) {
      std::vector<float> x(kActivationBlock);
      for (float& value : x) value = std::ldexp(normal(random), exponent);
      const ActivationBlock block = round_block(*table, x);
      float largest = 0;
      for (float value : x) largest = std::max(largest, std::abs(value));
      ASSERT_FLOAT_EQ(block.scale, largest / 32767);
      std::int32_t sums[2] = {};
      for (std::size_t c = 0; c < kActivationBlock; ++c) {
        ASSERT_NEAR(block.codes[c], x[c] / block.scale, 0.51) << "2^" << exponent;
        ASSERT_LE(std::abs(block.codes[c]), 32767);
        sums[c / 16] += block.codes[c];
      }
      EXPECT_EQ(block.minus_sum[0], -sums[0]);
      EXPECT_EQ(block.minus_sum[1], -sums[1]);
      EXPECT_EQ(block.sum, block.scale * static_cast<float>(sums[0] + sums[1]));
    }
  }
}

TEST_F(Packed, StrangeActivationsStayStrange) {
  for (const KernelTable* table : packing_tables()) {
    for (const float value : {NAN, -NAN, INFINITY, -INFINITY}) {
      for (const std::size_t at : {0, 15, 16, 31}) {
        std::vector<float> x = random_floats(kActivationBlock, 2);
        x[at] = value;
        const ActivationBlock block = round_block(*table, x);
        EXPECT_TRUE(std::isnan(block.scale) && std::isnan(block.sum)) << value << " at " << at;
      }
    }
    for (const float tiny : {0.0f, -0.0f, 1e-45f, -1e-38f, 3e-34f}) {
      const ActivationBlock block = round_block(*table, std::vector<float>(kActivationBlock, tiny));
      EXPECT_LE(std::abs(block.scale * block.codes[3] - tiny), 4e-34f);
      EXPECT_FALSE(std::isnan(block.sum));
    }
    const float huge = std::numeric_limits<float>::max();
    const ActivationBlock block = round_block(*table, std::vector<float>(kActivationBlock, -huge));
    EXPECT_EQ(block.codes[31], -32767);
    EXPECT_NEAR(block.scale * 32767.0 / huge, 1, 1e-6);
  }
}

// ---- Products ----

std::vector<float> run(const KernelTable& table, const Rounded& x, const Weight& w, Range tokens, Range outputs) {
  std::vector<float> out(tokens.count() * w.rows, kUntouched);
  table.packed->matmul(View<float>(out.data(), {tokens.count(), w.rows}), x.blocks.slice(0, tokens.begin, tokens.end),
                       w, outputs, Write::kStore);
  return out;
}

class PackedOfType : public testing::TestWithParam<DType> {
 protected:
  void SetUp() override {
    if (packing_tables().empty()) GTEST_SKIP() << "no table of this CPU packs weights";
  }
};

INSTANTIATE_TEST_SUITE_P(Packed, PackedOfType,
                         testing::Values(DType::kQ4_K, DType::kQ5_K, DType::kQ6_K, DType::kQ8_0, DType::kQ4_0,
                                         DType::kIQ4_NL, DType::kIQ4_XS, DType::kMXFP4),
                         [](const auto& info) { return std::string(dtype_info(info.param).name); });

// Integers are exact: what differs from ref's product of the rounded activations is f32 scaling and adding.
TEST_P(PackedOfType, AgreesWithRef) {
  struct Case {
    std::size_t num_tokens, rows, cols;
  };
  const KernelTable& ref = available_tables()[0];
  for (const Case& c :
       {Case{1, 1, 256}, Case{1, 16, 2048}, Case{2, 33, 512}, Case{5, 31, 256}, Case{6, 32, 768}, Case{7, 17, 512},
        Case{96, 40, 512}, Case{97, 48, 256}, Case{300, 15, 256}, Case{1, 100, 4096}}) {
    for (const KernelTable* table : packing_tables()) {
      SCOPED_TRACE(testing::Message() << table->name << " T " << c.num_tokens << " N " << c.rows << " K " << c.cols);
      const PackedWeight w(*table, GetParam(), c.rows, c.cols, 3);
      const Rounded x(*table, random_floats(c.num_tokens * c.cols, 4), c.cols);
      std::vector<float> expected(c.num_tokens * c.rows);
      ref.matmul(View<float>(expected.data(), {c.num_tokens, c.rows}),
                 View<const float>(x.values.data(), {c.num_tokens, c.cols}), w.random.weight, {0, c.rows},
                 Write::kStore);
      const std::vector<float> actual = run(*table, x, w.weight, {0, c.num_tokens}, {0, c.rows});
      std::vector<float> row(c.cols);
      for (std::size_t o = 0; o < c.rows; ++o) {
        decode_row(row.data(), w.random.weight, o);
        for (std::size_t t = 0; t < c.num_tokens; ++t) {
          double norm = 0;
          for (std::size_t k = 0; k < c.cols; ++k)
            norm += std::abs(static_cast<double>(x.values[t * c.cols + k]) * row[k]);
          // Codes and minima cancel: terms of a block may be 16 times their sum.
          ASSERT_NEAR(actual[t * c.rows + o], expected[t * c.rows + o], 0x1p-20 * (norm + 1)) << t << ", " << o;
        }
      }
    }
  }
}

// Whatever the instruction set: packed weights, rounded activations and products.
TEST_P(PackedOfType, TablesAgreeToTheBit) {
  constexpr std::size_t kNumTokens = 50, kRows = 40, kCols = 512;
  const std::vector<float> values = random_floats(kNumTokens * kCols, 30);
  std::vector<float> expected;
  for (const KernelTable* table : packing_tables()) {
    SCOPED_TRACE(table->name);
    const PackedWeight w(*table, GetParam(), kRows, kCols, 31);
    const std::vector<float> out = run(*table, Rounded(*table, values, kCols), w.weight, {0, kNumTokens}, {0, kRows});
    if (expected.empty()) expected = out;
    expect_same_bits(out, expected);
  }
}

TEST_P(PackedOfType, ATokenAloneHasTheBitsThatItHasInABatch) {
  constexpr std::size_t kNumTokens = 200, kRows = 45, kCols = 1024;
  for (const KernelTable* table : packing_tables()) {
    const PackedWeight w(*table, GetParam(), kRows, kCols, 5);
    const Rounded x(*table, random_floats(kNumTokens * kCols, 6), kCols);
    const std::vector<float> all = run(*table, x, w.weight, {0, kNumTokens}, {0, kRows});
    for (const std::size_t batch : {1, 2, 3, 4, 5, 6, 7, 8, 32, 97}) {
      SCOPED_TRACE(testing::Message() << table->name << " batches of " << batch);
      std::vector<float> in_parts;
      for (std::size_t t = 0; t < kNumTokens; t += batch) {
        const std::vector<float> part = run(*table, x, w.weight, {t, std::min(t + batch, kNumTokens)}, {0, kRows});
        in_parts.insert(in_parts.end(), part.begin(), part.end());
      }
      expect_same_bits(in_parts, all);
    }
  }
}

TEST_P(PackedOfType, WritesItsRangeOnceAndNothingElse) {
  constexpr std::size_t kRows = 77, kCols = 512;
  for (const KernelTable* table : packing_tables()) {
    const PackedWeight w(*table, GetParam(), kRows, kCols, 7);
    for (const std::size_t num_tokens : {1, 2, 13}) {
      const Rounded x(*table, random_floats(num_tokens * kCols, 8), kCols);
      const std::vector<float> whole = run(*table, x, w.weight, {0, num_tokens}, {0, kRows});
      for (const Range range : {Range{0, 16}, Range{16, 64}, Range{32, kRows}, Range{64, kRows}, Range{16, 16}}) {
        const std::vector<float> part = run(*table, x, w.weight, {0, num_tokens}, range);
        std::vector<float> added(part.size(), 1.0f);
        table->packed->matmul(View<float>(added.data(), {num_tokens, kRows}), x.blocks, w.weight, range, Write::kAdd);
        for (std::size_t i = 0; i < part.size(); ++i) {
          const bool inside = i % kRows >= range.begin && i % kRows < range.end;
          ASSERT_EQ(part[i], inside ? whole[i] : kUntouched) << i;
          ASSERT_EQ(added[i], inside ? 1.0f + whole[i] : 1.0f) << i;
        }
      }
    }
  }
}

TEST_P(PackedOfType, NaNsReachTheirTokenOnly) {
  constexpr std::size_t kNumTokens = 9, kRows = 20, kCols = 256;
  for (const KernelTable* table : packing_tables()) {
    const PackedWeight w(*table, GetParam(), kRows, kCols, 9);
    std::vector<float> values = random_floats(kNumTokens * kCols, 10);
    values[4 * kCols + 200] = NAN;
    const Rounded x(*table, values, kCols);
    const std::vector<float> out = run(*table, x, w.weight, {0, kNumTokens}, {0, kRows});
    for (std::size_t i = 0; i < out.size(); ++i) EXPECT_EQ(std::isnan(out[i]), i / kRows == 4) << i;
  }
}

// Powers of two at the ends of E8M0's range, where f32 has subnormals, infinities and NaNs.
TEST_F(Packed, Mxfp4ScalesReachBothEnds) {
  constexpr std::size_t kCols = 256;
  for (const KernelTable* table : packing_tables()) {
    for (const std::uint8_t exponent : {0, 1, 2, 127, 250, 255}) {
      RandomWeight random(DType::kMXFP4, kPackGrain, kCols, 15);
      for (std::size_t at = 0; at < random.bytes.size(); at += sizeof(BlockMXFP4)) {
        random.bytes[at] = static_cast<std::byte>(exponent);
      }
      Guarded memory(table->packed->packed_bytes(random.weight));
      table->packed->pack(memory.data(), random.weight, {0, 1});
      Weight w = random.weight;
      w.packed = memory.data();
      std::vector<float> x(kCols);
      x[3] = 1;  // one column: the sum is its weight
      const std::vector<float> out = run(*table, Rounded(*table, x, kCols), w, {0, 1}, {0, kPackGrain});
      std::vector<float> row(kCols);
      for (std::size_t o = 0; o < kPackGrain; ++o) {
        decode_row(row.data(), random.weight, o);
        if (exponent == 255) {
          EXPECT_TRUE(std::isnan(out[o]));
        } else {
          EXPECT_NEAR(out[o], row[3], std::abs(row[3]) * 1e-4 + 1e-42) << int{exponent};
        }
      }
    }
  }
}

// ---- Experts: the same products, dealt out by a routing ----

TEST_P(PackedOfType, ExpertsAreTheirProducts) {
  constexpr std::size_t kNumTokens = 130, kRows = 48, kCols = 512, kNumExperts = 4;
  // Expert 0 gets every token, 1 none, 2 every third, 3 one.
  std::vector<std::uint32_t> begin = {0}, token;
  for (const std::size_t stride : {std::size_t{1}, kNumTokens + 1, std::size_t{3}, kNumTokens}) {
    for (std::size_t t = stride > kNumTokens ? kNumTokens : 0; t < kNumTokens; t += stride)
      token.push_back(static_cast<std::uint32_t>(t));
    begin.push_back(static_cast<std::uint32_t>(token.size()));
  }
  const std::vector<float> share = random_floats(token.size(), 11);
  const Routing routing{.expert_begin = begin, .pair_token = token, .pair_weight = share};
  for (const KernelTable* table : packing_tables()) {
    std::vector<std::unique_ptr<PackedWeight>> store;
    std::vector<Weight> experts;
    for (std::uint32_t e = 0; e < kNumExperts; ++e) {
      store.push_back(std::make_unique<PackedWeight>(*table, GetParam(), kRows, kCols, 20 + e));
      experts.push_back(store.back()->weight);
    }
    const Rounded x(*table, random_floats(kNumTokens * kCols, 12), kCols);
    const Rounded hidden(*table, random_floats(token.size() * kCols, 13), kCols);

    std::vector<float> rows(token.size() * kRows, kUntouched);
    const View<float> rows_view(rows.data(), {token.size(), kRows});
    table->packed->expert_rows(rows_view, x.blocks, routing, experts, {0, 32});
    table->packed->expert_rows(rows_view, x.blocks, routing, experts, {32, kRows});
    const std::vector<float> before = random_floats(kNumTokens * kRows, 14);
    std::vector<float> out = before, expected = before;
    const View<float> out_view(out.data(), {kNumTokens, kRows});
    table->packed->expert_output(out_view, hidden.blocks, routing, experts, {0, 16});
    table->packed->expert_output(out_view, hidden.blocks, routing, experts, {16, kRows});

    for (std::size_t e = 0; e < kNumExperts; ++e) {
      for (std::size_t i = begin[e]; i < begin[e + 1]; ++i) {
        const std::vector<float> row = run(*table, x, experts[e], {token[i], token[i] + 1}, {0, kRows});
        expect_same_bits(std::span(rows).subspan(i * kRows, kRows), row);
        const std::vector<float> down = run(*table, hidden, experts[e], {i, i + 1}, {0, kRows});
        for (std::size_t r = 0; r < kRows; ++r) expected[token[i] * kRows + r] += share[i] * down[r];
      }
    }
    expect_same_bits(out, expected);
  }
}

}  // namespace
}  // namespace qnext
