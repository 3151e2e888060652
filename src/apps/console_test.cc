#include "apps/console.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>

#include "tensor/file_test_util.h"

namespace qnext {
namespace {

using ::testing::HasSubstr;

TEST(ExpectUtf8, TakesEveryValidLength) {
  for (const char* text : {"", "ascii", "\xC2\x80", "\xDF\xBF", "\xE0\xA0\x80", "\xED\x9F\xBF", "\xEF\xBF\xBF",
                           "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF", "a\xC3\xA9z"}) {
    EXPECT_TRUE(expect_utf8(text, "text").ok()) << text;
  }
  EXPECT_TRUE(expect_utf8(std::string_view("a\0b", 3), "text").ok());
}

TEST(ExpectUtf8, NamesTheFirstWrongByte) {
  // Continuation without a head, overlong forms, a surrogate, beyond U+10FFFF, a character cut off.
  for (const char* bytes :
       {"\x80", "\xC0\xAF", "\xC1\xBF", "\xE0\x9F\xBF", "\xED\xA0\x80", "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80",
        "\xF5\x80\x80\x80", "\xFF", "\xC3", "\xE2\x82", "\xF0\x9F\xA6", "\xE2\x28\xA1"}) {
    const Status status = expect_utf8(std::string("ab\n") + bytes, "stdin");
    ASSERT_FALSE(status.ok());
    EXPECT_THAT(status.message(), HasSubstr("stdin: expected UTF-8, found byte 0x"));
    EXPECT_THAT(status.message(), HasSubstr("at offset 3"));
  }
}

TEST(Escaped, LeavesOneLineOfUtf8) {
  EXPECT_EQ(escaped("a\n\t\"\\\x01\x7F\xC3\xA9\xC3"), "a\\n\\t\\\"\\\\\\x01\\x7f\xC3\xA9\\xc3");
  EXPECT_EQ(escaped(std::string_view("\0", 1)), "\\x00");
}

TEST(ReadFile, SaysWhatIsWrong) {
  const test::TempFolder folder;
  const std::string path = folder.write("five", "12345");
  EXPECT_EQ(*read_file(path, 5), "12345");
  EXPECT_THAT(read_file(path, 4).message(), HasSubstr("expected at most 4 bytes"));
  EXPECT_THAT(read_file(path + ".missing", 4).message(), HasSubstr("No such file"));
  EXPECT_THAT(read_file(folder.path(), 4).message(), HasSubstr("not a regular file"));
  EXPECT_THAT(read_file("/dev/zero", 4).message(), HasSubstr("not a regular file"));
}

// stdin from these bytes, while it lives.
class FakeStdin {
 public:
  // The file has no name that another test, in another process at the same time, could write to.
  explicit FakeStdin(const std::string& bytes) : saved_(::dup(STDIN_FILENO)) {
    std::FILE* file = std::tmpfile();
    EXPECT_EQ(std::fwrite(bytes.data(), 1, bytes.size(), file), bytes.size());
    std::rewind(file);
    ::dup2(::fileno(file), STDIN_FILENO);
    std::fclose(file);
  }
  ~FakeStdin() {
    ::dup2(saved_, STDIN_FILENO);
    ::close(saved_);
  }

 private:
  int saved_;
};

TEST(LineReader, CutsAtNewlinesAndKeepsTheLastLine) {
  const FakeStdin fake("one\n\ntwo\nthree");
  LineReader reader;
  std::string line;
  std::vector<std::string> lines;
  while (reader.read(line) == LineReader::Outcome::kLine) lines.push_back(line);
  EXPECT_THAT(lines, ::testing::ElementsAre("one", "", "two", "three"));
  EXPECT_EQ(reader.read(line), LineReader::Outcome::kEnd);
}

TEST(LineReader, DropsALineThatIsTooLong) {
  for (const std::size_t num_bytes_over : {1, 10000}) {  // the newline comes in the same read; some reads later
    SCOPED_TRACE(num_bytes_over);
    const FakeStdin fake(std::string(LineReader::kMaxLineBytes + num_bytes_over, 'x') + "\nnext\n");
    LineReader reader;
    std::string line;
    EXPECT_EQ(reader.read(line), LineReader::Outcome::kTooLong);
    EXPECT_EQ(reader.read(line), LineReader::Outcome::kLine);
    EXPECT_EQ(line, "next");
  }
}

TEST(TextArgument, ReadsStdinForADash) {
  const FakeStdin fake("text\nof stdin\n");
  EXPECT_EQ(*text_argument("as it is", 100), "as it is");
  EXPECT_EQ(*text_argument("-", 100), "text\nof stdin\n");
  EXPECT_FALSE(text_argument("\xFF", 100).ok());
}

TEST(TextArgument, RefusesStdinThatIsTooLongOrBinary) {
  const FakeStdin fake("abcdef\xFE");
  EXPECT_THAT(text_argument("-", 3).message(), HasSubstr("stdin: expected at most 3 bytes"));
}

TEST(Interrupts, RaiseAFlagThatCanBeCleared) {
  catch_interrupts();
  EXPECT_FALSE(interrupted());
  ::raise(SIGINT);
  EXPECT_TRUE(interrupted());
  EXPECT_FALSE(terminated());
  const FakeStdin fake("line\n");
  std::string line;
  EXPECT_EQ(LineReader().read(line), LineReader::Outcome::kInterrupted);
  clear_interrupt();
  EXPECT_FALSE(interrupted());
  ::signal(SIGINT, SIG_DFL);
  ::signal(SIGTERM, SIG_DFL);
}

}  // namespace
}  // namespace qnext
