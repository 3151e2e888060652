#include "tensor/gguf_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cstdint>

#include "tensor/gguf.h"
#include "tensor/gguf_test_file.h"

namespace qnext {
namespace {

using test::as_bytes;
using test::gguf_array;
using test::gguf_scalar;
using test::gguf_string;
using test::GgufTestFile;
using test::u32;
using test::u64;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string text_of(const TensorEntry& entry) {
  return {reinterpret_cast<const char*>(entry.data), entry.bytes};
}

TEST(GgufWriter, WritesWhatIsRead) {
  GgufHeader header;
  header.add_string("general.architecture", "qwen3next");
  header.add_u32("u", 7);
  header.add_u64("u64", std::uint64_t{1} << 40);
  header.add_f32("f", 0.25F);
  header.add_bool("b", true);
  header.add_bools("bs", {true, false});
  header.add_u32s("us", std::array<std::uint32_t, 2>{1, 2});
  header.add_i32s("is", std::array{-1, 2});
  header.add_f32s("fs", std::array{0.5F});
  header.add_strings("ss", std::array<std::string_view, 2>{"x", ""});
  header.add_tensor({.name = "w", .type = DType::kQ8_0, .shape = {2, 64}});
  header.add_tensor({.name = "v", .type = DType::kF32, .shape = {3}});
  const std::string w(2 * 2 * 34, 'w');
  const std::string v(12, 'v');

  const test::TempFolder folder;
  auto writer = GgufWriter::create(folder.path() / "m.gguf", header);
  ASSERT_TRUE(writer.ok()) << writer.message();
  ASSERT_TRUE(writer->append(as_bytes(w).first(100)).ok());
  ASSERT_TRUE(writer->append(as_bytes(w).subspan(100)).ok());
  ASSERT_TRUE(writer->append(as_bytes(v)).ok());
  ASSERT_TRUE(writer->commit().ok());

  const auto gguf = Gguf::open(folder.path() / "m.gguf");
  ASSERT_TRUE(gguf.ok()) << gguf.message();
  EXPECT_EQ(*gguf->get_string("general.architecture"), "qwen3next");
  EXPECT_EQ(*gguf->get_u32("u"), 7U);
  EXPECT_EQ(*gguf->get_u64("u64"), std::uint64_t{1} << 40);
  EXPECT_EQ(*gguf->get_f32("f"), 0.25F);
  EXPECT_EQ(*gguf->get_bool("b"), true);
  EXPECT_THAT(*gguf->get_bools("bs"), ElementsAre(true, false));
  EXPECT_THAT(*gguf->get_u32s("us"), ElementsAre(1, 2));
  EXPECT_THAT(*gguf->get_i32s("is"), ElementsAre(-1, 2));
  EXPECT_THAT(*gguf->get_f32s("fs"), ElementsAre(0.5F));
  EXPECT_THAT(*gguf->get_strings("ss"), ElementsAre("x", ""));
  ASSERT_EQ(gguf->tensors().size(), 2U);
  EXPECT_THAT(gguf->tensors()[0].shape, ElementsAre(2, 64));
  EXPECT_EQ(gguf->tensors()[0].type, DType::kQ8_0);
  EXPECT_EQ(text_of(gguf->tensors()[0]), w);
  EXPECT_EQ(text_of(gguf->tensors()[1]), v);
  EXPECT_EQ(std::filesystem::file_size(folder.path() / "m.gguf") % 32, 0U);
}

// Reads `bytes` and writes all of it again.
std::string rewritten(const std::string& bytes) {
  const auto gguf = Gguf::parse(as_bytes(bytes), "x.gguf");
  QN_CHECK(gguf.ok(), "{}", gguf.message());
  GgufHeader header;
  for (const GgufKv& kv : gguf->metadata()) header.add_copy(kv);
  for (const TensorEntry& entry : gguf->tensors()) header.add_tensor({entry.name, entry.type, entry.shape});
  const test::TempFolder folder;
  auto writer = GgufWriter::create(folder.path() / "m.gguf", header);
  QN_CHECK(writer.ok(), "{}", writer.message());
  for (const TensorEntry& entry : gguf->tensors()) QN_CHECK(writer->append({entry.data, entry.bytes}).ok(), "append");
  QN_CHECK(writer->commit().ok(), "commit");
  return folder.read("m.gguf");
}

GgufTestFile every_kind() {
  GgufTestFile file;
  file.kv("z.text", gguf_scalar(GgufType::kString, gguf_string("a")));
  file.kv("a.i8", gguf_scalar(GgufType::kI8, "\xFF")).kv("f64", gguf_scalar(GgufType::kF64, test::le(0.1)));
  file.kv("texts", gguf_array(GgufType::kString, 2, gguf_string("b") + gguf_string("")));
  file.kv("i16s", gguf_array(GgufType::kI16, 2, "abcd"));
  file.kv("nested", gguf_array(GgufType::kArray, 1, u32(4) + u64(1) + u32(7)));
  file.tensor("z", {32, 3}, 8, 0).tensor("a", {2, 2}, 30, 128);
  return file;
}

TEST(GgufWriter, RoundTripIsByteIdentical) {
  GgufTestFile file = every_kind();
  file.data = std::string(102, 'z') + std::string(26, '\0') + std::string(8, 'a') + std::string(24, '\0');
  EXPECT_EQ(rewritten(file.bytes()), file.bytes());
}

TEST(GgufWriter, RoundTripKeepsTheAlignment) {
  GgufTestFile file = every_kind();
  file.alignment = 128;
  file.kv_u32("general.alignment", 128);
  file.data = std::string(102, 'z') + std::string(26, '\0') + std::string(8, 'a') + std::string(120, '\0');
  EXPECT_EQ(rewritten(file.bytes()), file.bytes());
}

TEST(GgufWriter, RoundTripWithoutTensors) {
  GgufTestFile file;
  file.kv_u32("k", 1);
  std::string padded = file.bytes();
  padded.resize(64);
  EXPECT_EQ(rewritten(file.bytes()), padded);
}

TEST(GgufWriter, RefusesWhatGgufCannotHold) {
  const auto complaint = [](const TensorSpec& spec) {
    GgufHeader header;
    header.add_tensor({.name = "taken", .type = DType::kF32, .shape = {1}});
    header.add_tensor(spec);
    const auto encoded = header.encode();
    return encoded.ok() ? std::string() : encoded.message();
  };
  EXPECT_EQ(complaint({.name = std::string(63, 'n'), .type = DType::kF32, .shape = {1}}), "");
  EXPECT_THAT(complaint({.name = std::string(64, 'n'), .type = DType::kF32, .shape = {1}}),
              HasSubstr("1 to 63 bytes, found 64"));
  EXPECT_THAT(complaint({.name = "", .type = DType::kF32, .shape = {1}}), HasSubstr("found 0"));
  EXPECT_THAT(complaint({.name = "taken", .type = DType::kF32, .shape = {1}}), HasSubstr("twice"));
  EXPECT_THAT(complaint({.name = "t", .type = DType::kF8E4M3, .shape = {1}}), HasSubstr("no such type"));
  EXPECT_THAT(complaint({.name = "t", .type = DType::kF32, .shape = {}}), HasSubstr("1 to 4 axes, found 0"));
  EXPECT_THAT(complaint({.name = "t", .type = DType::kF32, .shape = {1, 1, 1, 1, 1}}), HasSubstr("found 5"));
  EXPECT_THAT(complaint({.name = "t", .type = DType::kF32, .shape = {0}}), HasSubstr("no empty axis"));
  EXPECT_THAT(complaint({.name = "t", .type = DType::kQ4_K, .shape = {256, 8}}), HasSubstr("a multiple of 256"));
  EXPECT_THAT(complaint({.name = "t", .type = DType::kF32, .shape = {SIZE_MAX}}), HasSubstr("'t'"));
  EXPECT_THAT(complaint({.name = "t", .type = DType::kF32, .shape = {SIZE_MAX / 8}}), HasSubstr("counted"));
}

TEST(GgufWriter, LeavesNothingWithoutCommit) {
  const test::TempFolder folder;
  GgufHeader header;
  header.add_tensor({.name = "t", .type = DType::kF32, .shape = {1}});
  { EXPECT_TRUE(GgufWriter::create(folder.path() / "m.gguf", header).ok()); }
  EXPECT_EQ(folder.num_files(), 0U);
}

TEST(GgufWriterDeathTest, MisuseIsABug) {
  const test::TempFolder folder;
  GgufHeader header;
  header.add_u32("k", 1);
  EXPECT_DEATH(header.add_u64("k", 1), "'k' added twice");
  EXPECT_DEATH(header.add_u32("general.alignment", 24), "alignment 24");
  header.add_tensor({.name = "t", .type = DType::kU8, .shape = {1}});
  EXPECT_FALSE(header.encode().ok());

  GgufHeader two;
  two.add_tensor({.name = "a", .type = DType::kF32, .shape = {1}});
  two.add_tensor({.name = "b", .type = DType::kF32, .shape = {1}});
  auto writer = GgufWriter::create(folder.path() / "m.gguf", two);
  EXPECT_DEATH((void)writer->append(as_bytes("12345")), "5 bytes for tensor 0 of 2");
  ASSERT_TRUE(writer->append(as_bytes("1234")).ok());
  EXPECT_DEATH((void)writer->commit(), "bytes written of");
  ASSERT_TRUE(writer->append(as_bytes("5678")).ok());
  EXPECT_DEATH((void)writer->append(as_bytes("9")), "tensor 2 of 2");
}

}  // namespace
}  // namespace qnext
