// Models in several parts.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>

#include "tensor/gguf.h"
#include "tensor/gguf_test_file.h"

namespace qnext {
namespace {

using test::gguf_scalar;
using test::GgufTestFile;
using test::le;
using ::testing::AllOf;
using ::testing::HasSubstr;

// As llama-gguf-split writes them: u16, u16, i32; the model's own keys in the first part only.
GgufTestFile part(std::uint16_t part_idx, std::uint16_t num_parts, std::int32_t num_tensors, std::string_view tensor) {
  GgufTestFile file;
  if (part_idx == 0) file.kv_u32("blocks", 4);
  file.kv("split.no", gguf_scalar(GgufType::kU16, le(part_idx)));
  file.kv("split.count", gguf_scalar(GgufType::kU16, le(num_parts)));
  file.kv("split.tensors.count", gguf_scalar(GgufType::kI32, le(num_tensors)));
  file.tensor(tensor, {1}, 0, 0);
  file.data = std::string(4, tensor.front());
  return file;
}

void write_three(const test::TempFolder& folder) {
  folder.write("m-00001-of-00003.gguf", part(0, 3, 3, "a").bytes());
  folder.write("m-00002-of-00003.gguf", part(1, 3, 3, "b").bytes());
  folder.write("m-00003-of-00003.gguf", part(2, 3, 3, "c").bytes());
}

TEST(GgufSplit, AnyPartOpensAll) {
  const test::TempFolder folder;
  write_three(folder);
  for (int part_number = 1; part_number <= 3; ++part_number) {
    const auto gguf = Gguf::open(folder.path() / fmt::format("m-{:05}-of-00003.gguf", part_number));
    ASSERT_TRUE(gguf.ok()) << gguf.message();
    EXPECT_EQ(*gguf->get_u32("blocks"), 4U);
    ASSERT_EQ(gguf->tensors().size(), 3U);
    for (const TensorEntry& entry : gguf->tensors()) EXPECT_EQ(static_cast<char>(*entry.data), entry.name.front());
    EXPECT_EQ(gguf->find_tensor("c")->file_idx, 2U);
    EXPECT_THAT(gguf->file_names()[2], HasSubstr("m-00003-of-00003.gguf"));
    EXPECT_EQ(gguf->files().size(), 3U);
  }
}

TEST(GgufSplit, OnePartOfOne) {
  const test::TempFolder folder;
  EXPECT_TRUE(Gguf::open(folder.write("m-00001-of-00001.gguf", part(0, 1, 1, "a").bytes())).ok());
  EXPECT_TRUE(Gguf::open(folder.write("m.gguf", part(0, 1, 1, "a").bytes())).ok());
}

TEST(GgufSplit, NamesThatOnlyLookSplit) {
  const test::TempFolder folder;
  GgufTestFile file;
  for (const char* name :
       {"m-00000-of-00002.gguf", "m-00003-of-00002.gguf", "m-0001-of-00002.gguf", "m_00001-of-00002.gguf",
        "m-00001-of-00002.ggml", "-00001-of-00002.gguf", "m-+0001-of-00002.gguf", "m-1-of-2.gguf"}) {
    EXPECT_TRUE(Gguf::open(folder.write(name, file.bytes())).ok()) << name;
  }
}

TEST(GgufSplit, SaysWhichPartIsMissing) {
  const test::TempFolder folder;
  write_three(folder);
  std::filesystem::remove(folder.path() / "m-00002-of-00003.gguf");
  EXPECT_THAT(Gguf::open(folder.path() / "m-00001-of-00003.gguf").message(),
              AllOf(HasSubstr("m-00002-of-00003.gguf"), HasSubstr("No such file")));
}

TEST(GgufSplit, KeysAndNamesMustAgree) {
  const test::TempFolder folder;
  EXPECT_THAT(Gguf::open(folder.write("m.gguf", part(0, 3, 3, "a").bytes())).message(),
              AllOf(HasSubstr("'split.count': expected 1, found 3"), HasSubstr("NAME-00001-of-00003.gguf")));
  GgufTestFile whole;
  EXPECT_THAT(Gguf::open(folder.write("w-00001-of-00002.gguf", whole.bytes())).message(),
              HasSubstr("'split.count': expected u32, found no such key"));
  write_three(folder);
  folder.write("m-00002-of-00003.gguf", part(2, 3, 3, "b").bytes());
  EXPECT_THAT(Gguf::open(folder.path() / "m-00001-of-00003.gguf").message(),
              HasSubstr("'split.no': expected 1, found 2"));
  folder.write("m-00002-of-00003.gguf", part(1, 2, 3, "b").bytes());
  EXPECT_THAT(Gguf::open(folder.path() / "m-00001-of-00003.gguf").message(),
              HasSubstr("'split.count': expected 3, found 2"));
}

TEST(GgufSplit, TensorsMustBeThereOnce) {
  const test::TempFolder folder;
  write_three(folder);
  folder.write("m-00002-of-00003.gguf", part(1, 3, 3, "a").bytes());
  EXPECT_THAT(Gguf::open(folder.path() / "m-00001-of-00003.gguf").message(),
              AllOf(HasSubstr("'a' is there twice"), HasSubstr("m-00001-of"), HasSubstr("m-00002-of")));
  write_three(folder);
  folder.write("m-00001-of-00003.gguf", part(0, 3, 4, "a").bytes());
  EXPECT_THAT(Gguf::open(folder.path() / "m-00001-of-00003.gguf").message(),
              HasSubstr("promises 4 tensors, the parts have 3"));
}

}  // namespace
}  // namespace qnext
