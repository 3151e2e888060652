#include "tensor/atomic_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "tensor/file_test_util.h"

namespace qnext {
namespace {

using test::as_bytes;
using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(AtomicFile, AppearsOnlyOnCommit) {
  const test::TempFolder folder;
  const auto path = folder.write("f", "old");
  auto file = AtomicFile::create(path, 6);
  ASSERT_TRUE(file.ok()) << file.message();
  EXPECT_TRUE(file->append(as_bytes("abc")).ok());
  EXPECT_TRUE(file->append(as_bytes("")).ok());
  EXPECT_TRUE(file->append(as_bytes("def")).ok());
  EXPECT_EQ(folder.read("f"), "old");
  EXPECT_EQ(folder.num_files(), 2U);
  EXPECT_TRUE(file->commit().ok());
  EXPECT_EQ(folder.read("f"), "abcdef");
  EXPECT_EQ(folder.num_files(), 1U);
}

TEST(AtomicFile, KeepsTheOrderOfSmallAndLargePieces) {
  const test::TempFolder folder;
  std::vector<std::string> pieces;
  std::string expected;
  for (const std::size_t bytes : {5, 3'000'000, 1, 700'000, 700'000, 0, 1 << 20, 1, (1 << 20) - 1, 1, 2'000'000, 7}) {
    pieces.emplace_back(bytes, static_cast<char>('a' + pieces.size()));
    expected += pieces.back();
  }
  auto file = AtomicFile::create(folder.path() / "f", expected.size());
  for (const std::string& piece : pieces) ASSERT_TRUE(file->append(as_bytes(piece)).ok());
  EXPECT_EQ(file->written_bytes(), expected.size());
  ASSERT_TRUE(file->commit().ok());
  EXPECT_EQ(folder.read("f"), expected);
}

// In a container a process that goes on has its forerunner's number.
TEST(AtomicFile, WhatAKilledWriterLeftGoesWhateverItsNumber) {
  const test::TempFolder folder;
  auto live = AtomicFile::create(folder.path() / "f", 3);
  ASSERT_TRUE(live.ok()) << live.message();
  remove_abandoned_temporaries(folder.path() / "f");
  EXPECT_EQ(folder.num_files(), 1U);
  EXPECT_TRUE(live->append(as_bytes("abc")).ok());
  EXPECT_TRUE(live->commit().ok());
  folder.write("f.tmp-" + std::to_string(::getpid()), "half");
  folder.write("f.tmp-1", "half");
  folder.write("f.tmp-notes", "a user's");
  remove_abandoned_temporaries(folder.path() / "f");
  EXPECT_EQ(folder.num_files(), 2U);
  EXPECT_EQ(folder.read("f"), "abc");
}

TEST(AtomicFile, LeavesNothingWithoutCommit) {
  const test::TempFolder folder;
  const auto path = folder.write("f", "old");
  {
    auto file = AtomicFile::create(path, 3);
    EXPECT_TRUE(file->append(as_bytes("abc")).ok());
    const AtomicFile moved = std::move(*file);
    EXPECT_EQ(folder.num_files(), 2U);
  }
  EXPECT_EQ(folder.read("f"), "old");
  EXPECT_EQ(folder.num_files(), 1U);
}

TEST(AtomicFile, RefusesASecondWriterOfTheSameFile) {
  const test::TempFolder folder;
  const auto first = AtomicFile::create(folder.path() / "f", 3);
  const auto second = AtomicFile::create(folder.path() / "f", 3);
  EXPECT_THAT(second.message(), AllOf(HasSubstr(".tmp-"), HasSubstr("remove it")));
}

TEST(AtomicFile, SaysWhatIsWrong) {
  const test::TempFolder folder;
  EXPECT_THAT(AtomicFile::create(folder.path() / "no" / "f", 1).message(), HasSubstr("No such file"));
  const auto huge = AtomicFile::create(folder.path() / "f", std::numeric_limits<std::int64_t>::max());
  EXPECT_THAT(huge.message(), AllOf(HasSubstr("needs 9223372036854775807 bytes"), HasSubstr("available")));
  EXPECT_EQ(folder.num_files(), 0U);
}

TEST(AtomicFile, CannotReplaceAFolder) {
  const test::TempFolder folder;
  std::filesystem::create_directory(folder.path() / "f");
  auto file = AtomicFile::create(folder.path() / "f", 0);
  ASSERT_TRUE(file.ok());
  EXPECT_THAT(file->commit().message(), HasSubstr("rename"));
  EXPECT_EQ(folder.num_files(), 1U);
}

// A full disk, as far as a test can make one: the process may write no file beyond 3 MB.
class SmallFilesOnly {
 public:
  SmallFilesOnly() {
    ::getrlimit(RLIMIT_FSIZE, &old_limit_);
    old_handler_ = std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{.rlim_cur = 3'000'000, .rlim_max = old_limit_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~SmallFilesOnly() {
    ::setrlimit(RLIMIT_FSIZE, &old_limit_);
    std::signal(SIGXFSZ, old_handler_);
  }

 private:
  rlimit old_limit_{};
  void (*old_handler_)(int) = nullptr;
};

TEST(AtomicFile, CleansUpWhenTheDiskIsFull) {
  const test::TempFolder folder;
  const auto path = folder.write("f", "old");
  const std::string megabyte(1'000'000, 'x');
  auto file = AtomicFile::create(path, 10 * megabyte.size());
  Status status = success();
  {
    const SmallFilesOnly full_disk;
    for (int i = 0; i < 10 && status.ok(); ++i) status = file->append(as_bytes(megabyte));
  }
  ASSERT_FALSE(status.ok());
  EXPECT_THAT(status.message(),
              AllOf(HasSubstr(path.string()), HasSubstr("needs 10000000 bytes"), HasSubstr("available")));
  EXPECT_EQ(folder.read("f"), "old");
  EXPECT_EQ(folder.num_files(), 1U);
}

TEST(AtomicFile, CleansUpWhenTheLastFlushFails) {
  const test::TempFolder folder;
  const std::string large(2'900'000, 'x');
  const std::string gathered(200'000, 'y');
  auto file = AtomicFile::create(folder.path() / "f", large.size() + gathered.size());
  const SmallFilesOnly full_disk;
  ASSERT_TRUE(file->append(as_bytes(large)).ok());
  ASSERT_TRUE(file->append(as_bytes(gathered)).ok());
  EXPECT_FALSE(file->commit().ok());
  EXPECT_EQ(folder.num_files(), 0U);
}

TEST(AtomicFileDeathTest, CommitsWhatWasAnnounced) {
  const test::TempFolder folder;
  auto file = AtomicFile::create(folder.path() / "f", 4);
  ASSERT_TRUE(file->append(as_bytes("abc")).ok());
  EXPECT_DEATH((void)file->commit(), "3 bytes written of 4");
}

}  // namespace
}  // namespace qnext
