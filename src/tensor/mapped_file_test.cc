#include "tensor/mapped_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <utility>

#include "tensor/file_test_util.h"

namespace qnext {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::string text_of(const MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

TEST(MappedFile, HoldsTheFilesBytes) {
  const test::TempFolder folder;
  const auto path = folder.write("a", "some bytes");
  const auto file = MappedFile::open(path);
  ASSERT_TRUE(file.ok()) << file.message();
  EXPECT_EQ(text_of(*file), "some bytes");
  EXPECT_EQ(file->path(), path);
}

TEST(MappedFile, MovesWithoutMovingTheBytes) {
  const test::TempFolder folder;
  auto a = MappedFile::open(folder.write("a", "first"));
  auto b = MappedFile::open(folder.write("b", "second"));
  ASSERT_TRUE(a.ok() && b.ok());
  const std::byte* address = a->bytes().data();
  *b = std::move(*a);
  EXPECT_EQ(b->bytes().data(), address);
  EXPECT_EQ(text_of(*b), "first");
  EXPECT_TRUE(a->bytes().empty());
  MappedFile c = std::move(*b);
  EXPECT_EQ(text_of(c), "first");
}

TEST(MappedFile, OutlivesItsName) {
  const test::TempFolder folder;
  const auto path = folder.write("a", "old");
  const auto file = MappedFile::open(path);
  std::filesystem::remove(path);
  folder.write("a", "new");
  EXPECT_EQ(text_of(*file), "old");
}

TEST(MappedFile, AdviceNeedsNoAlignment) {
  const test::TempFolder folder;
  const auto file = MappedFile::open(folder.write("a", std::string(100'000, 'x')));
  for (const auto pattern :
       {AccessPattern::kSequential, AccessPattern::kRandom, AccessPattern::kWillNeed, AccessPattern::kNormal}) {
    file->advise(pattern);
    file->advise(pattern, file->bytes().subspan(5000, 13));
    file->advise(pattern, {});
  }
  EXPECT_EQ(text_of(*file), std::string(100'000, 'x'));
}

TEST(MappedFileDeathTest, AdviceOutsideTheFileIsABug) {
  const test::TempFolder folder;
  const auto file = MappedFile::open(folder.write("a", "abc"));
  const std::byte elsewhere[4] = {};
  EXPECT_DEATH(file->advise(AccessPattern::kRandom, elsewhere), "outside");
}

TEST(MappedFile, SaysWhatIsWrongAndWhere) {
  const test::TempFolder folder;
  const auto missing = MappedFile::open(folder.path() / "missing");
  EXPECT_THAT(missing.message(), AllOf(HasSubstr((folder.path() / "missing").string()), HasSubstr("No such file")));
  EXPECT_THAT(MappedFile::open(folder.path()).message(), HasSubstr("directory"));
  EXPECT_THAT(MappedFile::open(folder.write("empty", "")).message(), HasSubstr("empty"));
  EXPECT_THAT(MappedFile::open("/dev/null").message(), HasSubstr("regular file"));
  EXPECT_THAT(MappedFile::open(folder.path() / std::string(300, 'x')).message(), HasSubstr("too long"));
}

TEST(MappedFile, DoesNotWaitForAPipe) {
  const test::TempFolder folder;
  const auto path = folder.path() / "pipe";
  ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
  EXPECT_THAT(MappedFile::open(path).message(), HasSubstr("regular file"));
}

TEST(MappedFile, UnreadableFile) {
  if (::geteuid() == 0) GTEST_SKIP() << "root may read everything";
  const test::TempFolder folder;
  const auto path = folder.write("secret", "x");
  std::filesystem::permissions(path, std::filesystem::perms::none);
  EXPECT_THAT(MappedFile::open(path).message(), HasSubstr("Permission denied"));
}

}  // namespace
}  // namespace qnext
