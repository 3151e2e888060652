#include "tensor/gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>

#include "tensor/gguf_test_file.h"

namespace qnext {
namespace {

using test::gguf_array;
using test::gguf_scalar;
using test::gguf_string;
using test::GgufTestFile;
using test::u32;
using test::u64;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr std::uint32_t kF32 = 0;
constexpr std::uint32_t kQ4K = 12;

Result<Gguf> parse(const std::string& bytes) {
  return Gguf::parse(test::as_bytes(bytes), "x.gguf");
}

GgufTestFile good_file() {
  GgufTestFile file;
  file.kv("general.architecture", gguf_scalar(GgufType::kString, gguf_string("qwen3next"))).kv_u32("blocks", 4);
  file.tensor("a", {256, 3, 2}, kQ4K, 0).tensor("b", {5}, kF32, 896);
  file.data = std::string(896 + 20, '\1');
  return file;
}

TEST(Gguf, TensorsHaveTheirShapeSlowestFirst) {
  const std::string bytes = good_file().bytes();
  const auto gguf = parse(bytes);
  ASSERT_TRUE(gguf.ok()) << gguf.message();
  ASSERT_EQ(gguf->tensors().size(), 2U);
  const TensorEntry* a = gguf->find_tensor("a");
  ASSERT_NE(a, nullptr);
  EXPECT_EQ(a->type, DType::kQ4_K);
  EXPECT_THAT(a->shape, ElementsAre(2, 3, 256));
  EXPECT_EQ(a->bytes, 6U * 144);
  const std::byte* data = test::as_bytes(bytes).data() + bytes.size() - 916;
  EXPECT_EQ(a->data, data);
  EXPECT_EQ(gguf->find_tensor("b")->data, data + 896);
  EXPECT_EQ(gguf->find_tensor("c"), nullptr);
}

TEST(Gguf, Version2IsTheSame) {
  GgufTestFile file = good_file();
  file.version = 2;
  EXPECT_TRUE(parse(file.bytes()).ok());
}

TEST(Gguf, OffsetsCountFromTheAlignedData) {
  GgufTestFile file;
  file.alignment = 4096;
  file.kv_u32("general.alignment", 4096).tensor("b", {1}, kF32, 4096).tensor("a", {1}, kF32, 0);
  file.data = std::string(4096, 'a') + "bbbb";
  const std::string bytes = file.bytes();
  const auto gguf = parse(bytes);
  ASSERT_TRUE(gguf.ok()) << gguf.message();
  EXPECT_EQ(gguf->tensors().front().name, "b");  // header order, not data order
  EXPECT_EQ(*gguf->find_tensor("b")->data, std::byte{'b'});
  EXPECT_EQ(*gguf->find_tensor("a")->data, std::byte{'a'});
}

TEST(Gguf, WithoutTensorsThePaddingMayBeMissing) {
  GgufTestFile file;
  EXPECT_TRUE(parse(file.bytes()).ok());
  EXPECT_TRUE(parse(file.kv_u32("k", 1).bytes()).ok());
}

TEST(Gguf, EveryPrefixIsRefused) {
  GgufTestFile file = good_file();
  file.kv("s", gguf_array(GgufType::kString, 2, gguf_string("x") + gguf_string("")));
  file.kv("n", gguf_array(GgufType::kArray, 1, u32(4) + u64(1) + u32(7)));
  const std::string bytes = file.bytes();
  ASSERT_TRUE(parse(bytes).ok()) << parse(bytes).message();
  for (std::size_t num_bytes = 0; num_bytes < bytes.size(); ++num_bytes) {
    const std::string prefix = bytes.substr(0, num_bytes);
    EXPECT_FALSE(parse(prefix).ok()) << num_bytes;
  }
}

struct BadFile {
  std::string rule;
  std::string complaint;
  GgufTestFile file;
};

class BadGguf : public ::testing::TestWithParam<BadFile> {};

TEST_P(BadGguf, IsRefused) {
  const auto gguf = parse(GetParam().file.bytes());
  ASSERT_FALSE(gguf.ok());
  EXPECT_THAT(gguf.message(), AllOf(HasSubstr("x.gguf"), HasSubstr(GetParam().complaint)));
}

std::vector<BadFile> bad_headers() {
  std::vector<BadFile> out;
  const auto add = [&](std::string rule, std::string complaint, auto change) {
    out.push_back({std::move(rule), std::move(complaint), good_file()});
    change(out.back().file);
  };
  add("Magic", "begins with the letters GGUF", [](GgufTestFile& f) { f.magic = "GGML"; });
  add("Version1", "expected 2 or 3, found 1", [](GgufTestFile& f) { f.version = 1; });
  add("Version4", "expected 2 or 3, found 4", [](GgufTestFile& f) { f.version = 4; });
  add("BigEndian", "big-endian", [](GgufTestFile& f) { f.version = 3U << 24; });
  add("TensorCount", "do not fit in a file", [](GgufTestFile& f) { f.extra_tensors = std::uint64_t{1} << 60; });
  add("KeyCount", "do not fit in a file", [](GgufTestFile& f) { f.extra_kvs = std::uint64_t{1} << 60; });
  add("KeyTwice", "key 'blocks' is there twice", [](GgufTestFile& f) { f.kv_u32("blocks", 5); });
  add("EmptyKey", "key 2: expected a name", [](GgufTestFile& f) { f.kv_u32("", 5); });
  add("KeyLength", "the name of key 2",
      [](GgufTestFile& f) { f.kvs.push_back(u64(UINT64_MAX) + "x" + u32(4) + u32(1)); });
  add("ValueType", "key 'k': expected a value type below 13, found 13",
      [](GgufTestFile& f) { f.kv("k", u32(13) + u32(0)); });
  add("ElementType", "key 'k': expected a value type below 13, found 99",
      [](GgufTestFile& f) { f.kv("k", u32(9) + u32(99) + u64(0)); });
  add("StringLength", "key 'k' at byte", [](GgufTestFile& f) { f.kv("k", u32(8) + u64(UINT64_MAX - 3)); });
  add("Bool", "expected a bool to be 0 or 1", [](GgufTestFile& f) { f.kv("k", gguf_scalar(GgufType::kBool, "\2")); });
  add("Bools", "expected a bool to be 0 or 1",
      [](GgufTestFile& f) { f.kv("k", gguf_array(GgufType::kBool, 3, std::string("\0\1\3", 3))); });
  for (const GgufType type : {GgufType::kU8, GgufType::kF32, GgufType::kU64, GgufType::kString, GgufType::kArray}) {
    add(fmt::format("ArrayCount_{}", gguf_type_name(type)), "the file ends inside it",
        [type](GgufTestFile& f) { f.kv("k", gguf_array(type, UINT64_MAX / 2, "")); });
  }
  add("Nesting", "nested more than 4 deep", [](GgufTestFile& f) {
    std::string deep = u32(4) + u64(0);
    for (int i = 0; i < 4; ++i) deep = u32(9) + u64(1) + deep;
    f.kv("k", u32(9) + deep);
  });
  add("NestingWithoutEnd", "nested more than 4 deep", [](GgufTestFile& f) {
    std::string deep = u32(9);
    for (int i = 0; i < 100'000; ++i) deep += u32(9) + u64(1);
    f.kv("k", deep);
  });
  add("AlignmentType", "'general.alignment': expected u32, found u64",
      [](GgufTestFile& f) { f.kv("general.alignment", gguf_scalar(GgufType::kU64, u64(32))); });
  add("Alignment0", "expected a power of two up to 2097152, found 0",
      [](GgufTestFile& f) { f.kv_u32("general.alignment", 0); });
  add("Alignment2G", "found 2147483648", [](GgufTestFile& f) { f.kv_u32("general.alignment", 1U << 31); });
  add("Alignment48", "found 48", [](GgufTestFile& f) { f.kv_u32("general.alignment", 48); });
  return out;
}

std::vector<BadFile> bad_tensors() {
  std::vector<BadFile> out;
  const auto add = [&](std::string rule, std::string complaint, std::string_view name, std::vector<std::uint64_t> axes,
                       std::uint32_t type, std::uint64_t offset) {
    out.push_back({std::move(rule), std::move(complaint), good_file()});
    out.back().file.tensor(name, axes, type, offset);
    out.back().file.data.resize(2048);
  };
  add("Type", "tensor 't': tensor type number 9 is not supported", "t", {256}, 9, 1024);
  add("HugeType", "tensor type number 4294967295 is not supported", "t", {256}, UINT32_MAX, 1024);
  add("NoAxes", "expected 1 to 4 axes, found 0", "t", {}, kF32, 1024);
  add("FiveAxes", "expected 1 to 4 axes, found 5", "t", {1, 1, 1, 1, 1}, kF32, 1024);
  add("ZeroAxis", "axis 1: expected at least 1 element", "t", {4, 0}, kF32, 1024);
  add("PartOfABlock", "'t': q4_k rows need a multiple of 256 elements, found shape [256, 2]", "t", {2, 256}, kQ4K,
      1024);
  add("Overflow", "more bytes than can be counted", "t", {std::uint64_t{1} << 62, 4}, kF32, 1024);
  add("OverflowTo0", "more bytes than can be counted", "t", {std::uint64_t{1} << 32, std::uint64_t{1} << 32}, kF32,
      1024);
  add("Unaligned", "expected a multiple of 32, found 1028", "t", {4}, kF32, 1028);
  add("OutOfRange", "'t': 2052 bytes at offset 1024 pass the end", "t", {513}, kF32, 1024);
  add("OffsetOutOfRange", "pass the end", "t", {1}, kF32, std::uint64_t{1} << 63);
  add("SumWraps", "pass the end", "t", {std::uint64_t{1} << 40}, kF32, UINT64_MAX - 31);
  add("Overlap", "tensors 'a' (864 bytes at offset 0) and 't' (at offset 32) overlap", "t", {1}, kF32, 32);
  add("SameOffset", "overlap", "t", {1}, kF32, 896);
  add("NameTwice", "tensor 'a' is there twice", "a", {1}, kF32, 1024);
  add("EmptyName", "tensor 2: expected a name of 1 to 63 bytes, found 0", "", {1}, kF32, 1024);
  add("LongName", "tensor 2: expected a name of 1 to 63 bytes, found 64", std::string(64, 'n'), {1}, kF32, 1024);
  return out;
}

std::string rule_of(const ::testing::TestParamInfo<BadFile>& info) {
  return info.param.rule;
}
INSTANTIATE_TEST_SUITE_P(Header, BadGguf, ::testing::ValuesIn(bad_headers()), rule_of);
INSTANTIATE_TEST_SUITE_P(Tensor, BadGguf, ::testing::ValuesIn(bad_tensors()), rule_of);

}  // namespace
}  // namespace qnext
