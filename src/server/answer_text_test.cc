#include "server/answer_text.h"

#include <gtest/gtest.h>

namespace qnext {
namespace {

struct AnswerCase {
  bool starts_inside;
  std::string text, reasoning, content;
};

const AnswerCase kAnswerCases[] = {
    {false, "Hello.", "", "Hello."},
    {false, "", "", ""},
    {false, "<think>\nWhy?\n</think>\n\nBecause.", "Why?", "Because."},
    {false, "\n <think>a</think>b", "a", "b"},
    {false, "<think>\n\n</think>\n\nb", "", "b"},
    {false, "  spaces stay", "", "  spaces stay"},
    {false, "<thin air", "", "<thin air"},
    {false, "<thi", "", "<thi"},
    {false, "see <think>no</think>", "", "see <think>no</think>"},
    {false, "<think>cut off\n", "cut off\n", ""},
    {true, "two\n\nlines\n</think>\n\nb\n", "two\n\nlines", "b\n"},
    {true, "\n\na </thin</think>b</think>", "a </thin", "b</think>"},
    {true, "a</think>", "a", ""},
};

TEST(ReasoningSplitter, PartsTextWhateverTheCuts) {
  for (const AnswerCase& c : kAnswerCases) {
    for (std::size_t step = 1; step <= c.text.size() + 1; ++step) {
      SCOPED_TRACE(testing::Message() << c.text << ", " << step << " at a time");
      ReasoningSplitter splitter(c.starts_inside);
      TextDelta all;
      const auto add = [&](const TextDelta& delta) {
        all.reasoning += delta.reasoning;
        all.content += delta.content;
      };
      for (std::size_t i = 0; i < c.text.size(); i += step) add(splitter.feed(c.text.substr(i, step)));
      add(splitter.finish());
      EXPECT_EQ(all.reasoning, c.reasoning);
      EXPECT_EQ(all.content, c.content);
    }
  }
}

TEST(ReasoningSplitter, TextComesAsSoonAsItIsCertain) {
  ReasoningSplitter splitter(true);
  EXPECT_EQ(splitter.feed("one").reasoning, "one");
  EXPECT_EQ(splitter.feed(" two\n").reasoning, " two");
  EXPECT_EQ(splitter.feed("</thi").reasoning, "");
  EXPECT_EQ(splitter.feed("nk>x").content, "x");
}

TEST(OpensReasoning, OnlyWhereTheBlockIsOpen) {
  EXPECT_TRUE(opens_reasoning("<|im_start|>assistant\n<think>\n"));
  EXPECT_FALSE(opens_reasoning("<|im_start|>assistant\n<think>\n\n</think>\n\n"));
  EXPECT_FALSE(opens_reasoning("<|im_start|>assistant\n"));
}

}  // namespace
}  // namespace qnext
