#include "corpus/english.h"

#include <gtest/gtest.h>

#include "corpus/sums.h"

namespace qnext::corpus {
namespace {

TEST(English, Articles) {
  for (const char* words : {"hat", "unit", "useful tool", "one hat", "euro", "10", "1,800", "100"}) {
    EXPECT_EQ(article_for(words), "a") << words;
  }
  for (const char* words : {"apple", "hour", "honest man", "uncle", "unimportant thing", "uninvited guest", "8", "80",
                            "11", "18", "8,000", "\"orange\""}) {
    EXPECT_EQ(article_for(words), "an") << words;
  }
}

TEST(English, Plurals) {
  EXPECT_EQ(plural_of("type A widget"), "type A widgets");
  EXPECT_EQ(plural_of("box"), "boxes");
  EXPECT_EQ(plural_of("cherry"), "cherries");
  EXPECT_EQ(plural_of("day"), "days");
  EXPECT_EQ(plural_of("watch"), "watches");
}

TEST(English, Numbers) {
  EXPECT_EQ(number_text(0), "0");
  EXPECT_EQ(number_text(999), "999");
  EXPECT_EQ(number_text(1850), "1,850");
  EXPECT_EQ(number_text(-1850), "-1,850");
  EXPECT_EQ(number_text(-850), "-850");
  EXPECT_EQ(number_text(1234567), "1,234,567");
}

TEST(English, Tidied) {
  EXPECT_EQ(tidied(" tom  ran . \"stop!\" he said. \"why?\" asked Ann. \"so!\" and it was."),
            "Tom ran. \"Stop!\" he said. \"Why?\" asked Ann. \"So!\" And it was.");
  EXPECT_EQ(tidied("the word \"up\" is short."), "The word \"up\" is short.");
  EXPECT_EQ(tidied("he said, \"come here.\" she came."), "He said, \"Come here.\" She came.");
  EXPECT_EQ(tidied("say what i want: i, Tom, was in it."), "Say what I want: I, Tom, was in it.");
  EXPECT_EQ(tidied("Tom: hello\n1. apple\n(a) how"), "Tom: Hello\n1. Apple\n(a) how");
}

TEST(Sums, WorkedSteps) {
  EXPECT_EQ(product_line(23, 47), "23 x 47 = 23 x 40 + 23 x 7 = 800 + 120 + 140 + 21 = 920 + 161 = 1,081");
  EXPECT_EQ(product_line(115, 24),
            "115 x 24 = 115 x 20 + 115 x 4 = 2,000 + 200 + 100 + 400 + 40 + 20 = 2,200 + 100 + 440 + 20 = 2,300 + 460 "
            "= 2,760");
  EXPECT_EQ(product_line(247, 8), "247 x 8 = 8 x 200 + 8 x 40 + 8 x 7 = 1,600 + 320 + 56 = 1,920 + 56 = 1,976");
  EXPECT_EQ(product_line(20, 40), "20 x 40 = 800");
  EXPECT_EQ(product_line(15, 30), "15 x 30 = 30 x 10 + 30 x 5 = 300 + 150 = 450");
  EXPECT_EQ(product_line(1, 47), "1 x 47 = 47");
  EXPECT_EQ(product_line(39, 10), "39 x 10 = 390");
  EXPECT_EQ(sum_line(std::vector<std::int64_t>{800, 450, 600}), "800 + 450 + 600 = 1,250 + 600 = 1,850");
  EXPECT_EQ(difference_line(1850, 620), "1,850 - 620 = 1,850 - 600 - 20 = 1,250 - 20 = 1,230");
  EXPECT_EQ(difference_line(1850, 40), "1,850 - 40 = 1,810");
  EXPECT_EQ(difference_line(17, 12), "17 - 12 = 5");
  EXPECT_EQ(difference_line(1850, 1850), "1,850 - 1,850 = 0");
  EXPECT_EQ(quotient_line(800, 20), "800 / 20: 20 x 40 = 800, 800 - 800 = 0, so 800 / 20 = 40");
  EXPECT_EQ(quotient_line(972, 4),
            "972 / 4: 4 x 200 = 800, 972 - 800 = 172, 4 x 40 = 160, 172 - 160 = 172 - 100 - 60 = 72 - 60 = 12, "
            "4 x 3 = 12, 12 - 12 = 0, so 972 / 4 = 200 + 40 + 3 = 243");
  EXPECT_EQ(quotient_line(23, 1), "23 / 1 = 23");
}

}  // namespace
}  // namespace qnext::corpus
