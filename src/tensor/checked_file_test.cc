#include "tensor/checked_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "tensor/file_test_util.h"

namespace qnext {
namespace {

using ::testing::HasSubstr;

constexpr std::size_t kNumBytes = (std::size_t{33} << 20) + 5;  // three pieces
constexpr std::uint64_t kTag = 77;

class CheckedFileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::mt19937_64 random(1);
    data_.resize(kNumBytes);
    for (std::size_t i = 0; i + 8 <= kNumBytes; i += 8) {
      const std::uint64_t bits = random();
      std::memcpy(data_.data() + i, &bits, 8);
    }
  }
  void write() {
    auto writer = CheckedFileWriter::create(path_, kTag, kNumBytes);
    ASSERT_TRUE(writer.ok()) << writer.message();
    const std::span<const std::byte> all(data_);
    ASSERT_TRUE(writer->append(all.first(100)).ok());
    ASSERT_TRUE(writer->append(all.subspan(100, std::size_t{20} << 20)).ok());
    ASSERT_TRUE(writer->append(all.subspan(100 + (std::size_t{20} << 20))).ok());
    const Status committed = writer->commit();
    ASSERT_TRUE(committed.ok()) << committed.message();
  }
  Result<CheckedFile> open(CheckedFile::Check check = CheckedFile::Check::kWhole, std::uint64_t tag = kTag,
                           std::uint64_t num_bytes = kNumBytes) {
    return CheckedFile::open(path_, tag, num_bytes, check, pool_);
  }
  void flip(std::size_t at) {
    std::string bytes = folder_.read("f");
    bytes[at] = static_cast<char>(bytes[at] ^ 0x10);
    folder_.write("f", bytes);
  }

  test::TempFolder folder_;
  std::filesystem::path path_ = folder_.path() / "f";
  std::vector<std::byte> data_;
  ThreadPool pool_{2};
};

TEST_F(CheckedFileTest, GivesBackWhatWasWritten) {
  write();
  for (const auto check : {CheckedFile::Check::kWhole, CheckedFile::Check::kFrame}) {
    const auto file = open(check);
    ASSERT_TRUE(file.ok()) << file.message();
    EXPECT_TRUE(std::equal(data_.begin(), data_.end(), file->data().begin(), file->data().end()));
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(file->data().data()) % 4096, 0u);
  }
}

TEST_F(CheckedFileTest, IsNoOtherData) {
  write();
  EXPECT_THAT(open(CheckedFile::Check::kFrame, kTag + 1).message(), HasSubstr("made from something else"));
  EXPECT_EQ(CheckedFile::tag_of(path_), kTag);
  EXPECT_EQ(CheckedFile::tag_of(path_ / "nowhere"), std::nullopt);
  EXPECT_THAT(open(CheckedFile::Check::kFrame, kTag, kNumBytes - 1).message(), HasSubstr("made from something else"));
  folder_.write("f", "GGUF");
  EXPECT_THAT(open().message(), HasSubstr("not a file of ours"));
  folder_.write("f", std::string(9000, 'x'));
  EXPECT_THAT(open().message(), HasSubstr("not a file of ours"));
}

TEST_F(CheckedFileTest, FindsDamageAnywhere) {
  write();
  const std::size_t size = folder_.read("f").size();
  for (const std::size_t at : {4096ul, 4096ul + 7, 4096ul + (20ul << 20), 4096 + kNumBytes - 1}) {
    flip(at);
    EXPECT_THAT(open().message(), HasSubstr("damaged after byte")) << at;
    EXPECT_TRUE(open(CheckedFile::Check::kFrame).ok()) << "data is not read";
    flip(at);
  }
  for (const std::size_t at : {4096 + kNumBytes, size - 9, size - 1}) {
    flip(at);
    EXPECT_THAT(open(CheckedFile::Check::kFrame).message(), HasSubstr("checksums are damaged")) << at;
    flip(at);
  }
  flip(100);  // in the header's zeros
  EXPECT_THAT(open().message(), HasSubstr("made from something else"));
  flip(100);
  EXPECT_TRUE(open().ok());
  folder_.write("f", folder_.read("f").substr(0, size - 8));
  EXPECT_THAT(open(CheckedFile::Check::kFrame).message(), HasSubstr("torn"));
}

TEST_F(CheckedFileTest, AppearsOnlyOnCommit) {
  {
    auto writer = CheckedFileWriter::create(path_, kTag, kNumBytes);
    ASSERT_TRUE(writer.ok());
    ASSERT_TRUE(writer->append(std::span<const std::byte>(data_).first(5000)).ok());
    EXPECT_FALSE(std::filesystem::exists(path_));
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder_.path()));
}

}  // namespace
}  // namespace qnext
