#include "apps/thinking.h"

#include <gtest/gtest.h>

namespace qnext {
namespace {

std::string styled(std::string_view text, std::size_t piece_bytes, bool colour, bool starts_inside) {
  ThinkingStyle style(colour, starts_inside);
  std::string out;
  for (std::size_t i = 0; i < text.size(); i += piece_bytes) out += style.feed(text.substr(i, piece_bytes));
  return out + style.finish();
}

TEST(ThinkingStyle, DimsTheBlockHoweverItIsCut) {
  const std::string text = "<think>\nhm <b> </thin\n</think>\n\nHello <thin air";
  for (std::size_t piece_bytes = 1; piece_bytes <= text.size(); ++piece_bytes) {
    EXPECT_EQ(styled(text, piece_bytes, true, false),
              "\x1b[2m<think>\nhm <b> </thin\n</think>\x1b[22m\n\nHello <thin air");
  }
}

TEST(ThinkingStyle, WithoutColourIsTheTextItself) {
  const std::string text = "<think>a</think>b";
  EXPECT_EQ(styled(text, 3, false, true), text);
}

TEST(ThinkingStyle, StartsAndEndsInsideABlock) {
  EXPECT_EQ(styled("a</think>b", 2, true, true), "\x1b[2ma</think>\x1b[22mb");
  EXPECT_EQ(styled("<think>cut o", 5, true, false), "\x1b[2m<think>cut o\x1b[22m") << "the terminal is left plain";
  EXPECT_EQ(styled("", 1, true, true), "");
}

TEST(OpensThinking, OnlyAtTheVeryEnd) {
  EXPECT_TRUE(opens_thinking("<|im_start|>assistant\n<think>\n"));
  EXPECT_FALSE(opens_thinking("<|im_start|>assistant\n<think>\n\n</think>\n\n"));
  EXPECT_FALSE(opens_thinking("<think> is a word<|im_start|>assistant\n"));
  EXPECT_FALSE(opens_thinking(""));
}

}  // namespace
}  // namespace qnext
