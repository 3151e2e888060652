#include "tensor/safetensors_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <string>

#include "tensor/file_test_util.h"
#include "tensor/safetensors.h"

namespace qnext {
namespace {

using test::as_bytes;
using ::testing::AllOf;
using ::testing::HasSubstr;

// Tensors 0, 1, 2, .. bytes long, out of the order of their names; tensor i is filled with letter i.
SafetensorsSpec numbered_spec(std::size_t num_tensors) {
  SafetensorsSpec spec{.tensors = {}, .metadata = {{"format", "pt"}}, .max_shard_bytes = {}};
  for (std::size_t i = 0; i < num_tensors; ++i) {
    spec.tensors.push_back({.name = fmt::format("t{}", num_tensors - i), .type = DType::kU8, .shape = {i}});
  }
  return spec;
}

void write_numbered(const std::filesystem::path& path, const SafetensorsSpec& spec) {
  auto writer = SafetensorsWriter::create(path, spec);
  ASSERT_TRUE(writer.ok()) << writer.message();
  for (std::size_t i = 0; i < spec.tensors.size(); ++i) {
    const std::string data(i, static_cast<char>('a' + i));
    const std::size_t half = i / 2;
    ASSERT_TRUE(writer->append(as_bytes(data).first(half)).ok());
    ASSERT_TRUE(writer->append(as_bytes(data).subspan(half)).ok());
  }
  const Status status = writer->commit();
  ASSERT_TRUE(status.ok()) << status.message();
}

void expect_numbered(const std::filesystem::path& path, const SafetensorsSpec& spec) {
  const auto checkpoint = Safetensors::open(path);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.message();
  EXPECT_EQ(checkpoint->metadata(), spec.metadata);
  ASSERT_EQ(checkpoint->tensors().size(), spec.tensors.size());
  for (std::size_t i = 0; i < spec.tensors.size(); ++i) {
    const TensorEntry* entry = checkpoint->find(spec.tensors[i].name);
    ASSERT_NE(entry, nullptr);
    EXPECT_EQ(entry->shape, spec.tensors[i].shape);
    EXPECT_EQ(std::string(reinterpret_cast<const char*>(entry->data), entry->bytes),
              std::string(i, static_cast<char>('a' + i)));
  }
}

TEST(SafetensorsWriter, OneFileOfAnyName) {
  const test::TempFolder folder;
  const SafetensorsSpec spec = numbered_spec(6);
  write_numbered(folder.path() / "golden.safetensors", spec);
  expect_numbered(folder.path() / "golden.safetensors", spec);
  EXPECT_EQ(folder.num_files(), 1U);
  EXPECT_EQ((folder.read("golden.safetensors").size() - 15) % 8, 0U);  // 15 bytes of data
}

TEST(SafetensorsWriter, OneFileOfAFolder) {
  const test::TempFolder folder;
  SafetensorsSpec spec = numbered_spec(6);
  spec.max_shard_bytes = 15;
  write_numbered(folder.path(), spec);
  expect_numbered(folder.path(), spec);
  EXPECT_EQ(folder.num_files(), 1U);
  EXPECT_FALSE(folder.read("model.safetensors").empty());
}

TEST(SafetensorsWriter, Shards) {
  const test::TempFolder folder;
  SafetensorsSpec spec = numbered_spec(9);
  spec.max_shard_bytes = 7;  // 0+1+2+3, 4, 5, 6, 7, 8
  write_numbered(folder.path(), spec);
  expect_numbered(folder.path(), spec);
  EXPECT_EQ(folder.num_files(), 7U);
  EXPECT_THAT(folder.read("model.safetensors.index.json"),
              AllOf(HasSubstr("\"total_size\": 36"), HasSubstr("\"t9\": \"model-00001-of-00006.safetensors\""),
                    HasSubstr("\"t1\": \"model-00006-of-00006.safetensors\"")));
}

TEST(SafetensorsWriter, NamesAreEscaped) {
  const test::TempFolder folder;
  SafetensorsSpec spec = numbered_spec(1);
  spec.tensors[0].name = "a\"\\\nä";
  spec.metadata["k\""] = "\t";
  write_numbered(folder.path(), spec);
  expect_numbered(folder.path(), spec);
}

TEST(SafetensorsWriter, NoTensors) {
  const test::TempFolder folder;
  const SafetensorsSpec spec{.tensors = {}, .metadata = {}, .max_shard_bytes = {}};
  write_numbered(folder.path(), spec);
  expect_numbered(folder.path(), spec);
}

TEST(SafetensorsWriter, LeavesNothingWithoutCommit) {
  const test::TempFolder folder;
  SafetensorsSpec spec = numbered_spec(9);
  spec.max_shard_bytes = 7;
  {
    auto writer = SafetensorsWriter::create(folder.path(), spec);
    ASSERT_TRUE(writer.ok());
    EXPECT_TRUE(writer->append(as_bytes("b")).ok());
    EXPECT_EQ(folder.num_files(), 7U);
  }
  EXPECT_EQ(folder.num_files(), 0U);
}

TEST(SafetensorsWriter, RefusesWhatTheFormatCannotHold) {
  const test::TempFolder folder;
  const auto complaint = [&](const TensorSpec& tensor) {
    SafetensorsSpec spec = numbered_spec(2);
    spec.tensors.push_back(tensor);
    const auto writer = SafetensorsWriter::create(folder.path(), spec);
    return writer.ok() ? std::string() : writer.message();
  };
  EXPECT_EQ(complaint({.name = "x", .type = DType::kBF16, .shape = {3}}), "");
  EXPECT_THAT(complaint({.name = "x", .type = DType::kQ4_K, .shape = {256}}), HasSubstr("'x' q4_k [256]"));
  EXPECT_THAT(complaint({.name = "t1", .type = DType::kU8, .shape = {3}}), HasSubstr("taken"));
  EXPECT_THAT(complaint({.name = "__metadata__", .type = DType::kU8, .shape = {3}}), HasSubstr("taken"));
  EXPECT_THAT(complaint({.name = "\xff", .type = DType::kU8, .shape = {3}}), HasSubstr("UTF-8"));
  EXPECT_THAT(complaint({.name = "x", .type = DType::kU8, .shape = {SIZE_MAX, 2}}), HasSubstr("counted"));
  EXPECT_THAT(complaint({.name = "x", .type = DType::kU8, .shape = {SIZE_MAX / 2}}), HasSubstr("counted"));
  EXPECT_THAT(complaint({.name = "x", .type = DType::kU8, .shape = {SIZE_MAX / 4}}), HasSubstr("available"));
  EXPECT_THAT(complaint({.name = "x", .type = DType::kU8, .shape = {1, 1, 1, 1, 1, 1, 1, 1, 1}}), HasSubstr("8 axes"));
  EXPECT_EQ(folder.num_files(), 0U);
}

TEST(SafetensorsWriter, SaysWhatIsWrongWithThePlace) {
  const test::TempFolder folder;
  SafetensorsSpec spec = numbered_spec(3);
  EXPECT_THAT(SafetensorsWriter::create(folder.path() / "no", spec).message(), HasSubstr("No such file"));
  folder.write("model.safetensors.index.json", "{}");
  EXPECT_THAT(SafetensorsWriter::create(folder.path(), spec).message(), HasSubstr("would hide"));
  spec.max_shard_bytes = 2;
  EXPECT_THAT(SafetensorsWriter::create(folder.path() / "x.safetensors", spec).message(),
              HasSubstr("expected a folder"));
}

TEST(SafetensorsWriterDeathTest, PiecesStayInsideTheirTensor) {
  const test::TempFolder folder;
  auto writer = SafetensorsWriter::create(folder.path(), numbered_spec(3));
  EXPECT_DEATH((void)writer->append(as_bytes("bcc")), "3 bytes for tensor 1 of 3");
  ASSERT_TRUE(writer->append(as_bytes("b")).ok());
  ASSERT_TRUE(writer->append(as_bytes("c")).ok());
  EXPECT_DEATH((void)writer->commit(), "bytes written of");
  ASSERT_TRUE(writer->append(as_bytes("c")).ok());
  EXPECT_DEATH((void)writer->append(as_bytes("d")), "tensor 3 of 3");
}

}  // namespace
}  // namespace qnext
