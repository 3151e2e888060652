#include "apps/progress.h"

#include <gtest/gtest.h>

namespace qnext {
namespace {

TEST(BytesText, HasThreeDigitsAndTheLargestUnit) {
  EXPECT_EQ(bytes_text(0), "0 B");
  EXPECT_EQ(bytes_text(1023), "1023 B");
  EXPECT_EQ(bytes_text(1024), "1.00 KiB");
  EXPECT_EQ(bytes_text(1536 * 1024), "1.50 MiB");
  EXPECT_EQ(bytes_text(std::uint64_t{100} << 30), "100 GiB");
  EXPECT_EQ(bytes_text(~std::uint64_t{0}), "16777216 TiB");
}

TEST(CountText, CountsInThousands) {
  EXPECT_EQ(count_text(999), "999");
  EXPECT_EQ(count_text(79.67e9), "79.7 G");
  EXPECT_EQ(count_text(120e6), "120 M");
}

TEST(ProgressText, TellsShareSpeedAndTimeLeft) {
  const std::uint64_t mib = 1 << 20;
  EXPECT_EQ(progress_text(0, 100 * mib, 0), "0%, 0 B of 100 MiB");
  EXPECT_EQ(progress_text(25 * mib, 100 * mib, 5), "25%, 25.0 MiB of 100 MiB, 5.00 MiB/s, 15 s left");
  EXPECT_EQ(progress_text(100 * mib, 100 * mib, 20), "100%, 100 MiB of 100 MiB, 5.00 MiB/s");
  EXPECT_EQ(progress_text(0, 0, 1), "100%, 0 B of 0 B");
}

TEST(Progress, WritesALineATenthWithoutATerminal) {
  testing::internal::CaptureStderr();
  {
    Progress progress("converting");
    for (std::uint64_t i = 0; i <= 1000; ++i) progress.update(i, 1000);
  }
  const std::string lines = testing::internal::GetCapturedStderr();
  EXPECT_EQ(std::count(lines.begin(), lines.end(), '\n'), 10);
  EXPECT_NE(lines.find("converting: 100%"), std::string::npos);
}

TEST(Progress, QuietSaysNothing) {
  testing::internal::CaptureStderr();
  Progress("converting", /*quiet=*/true).update(1, 1);
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

}  // namespace
}  // namespace qnext
