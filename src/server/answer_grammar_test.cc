#include "server/answer_grammar.h"

#include <gtest/gtest.h>

#include "text/test_data.h"

namespace qnext {
namespace {

constexpr TokenId kEnd = 2041;  // <|im_end|>
constexpr std::size_t kVocabSize = 2048;

class AnswerGrammarTest : public testing::Test {
 protected:
  std::vector<TokenId> encoded(std::string_view text) { return *tokenizer_.encode(text); }
  static bool allows(TokenConstraint& constraint, TokenId id) {
    std::vector<std::uint32_t> mask(kVocabSize / 32, 0xFFFFFFFF);
    const Result<bool> constrains = constraint.mask(mask);
    EXPECT_TRUE(constrains.ok());
    return !*constrains || (mask[static_cast<std::size_t>(id) / 32] >> (id % 32) & 1) != 0;
  }

  Tokenizer tokenizer_ = small_tokenizer();
  AnswerGrammars grammars_{tokenizer_, {kEnd}, kVocabSize};
};

TEST_F(AnswerGrammarTest, BeginsAtOnce) {
  const auto made = grammars_.make(AnswerGrammar{GrammarKind::kChoice, R"(["yes", "no"])", ""}, {});
  ASSERT_TRUE(made.ok());
  TokenConstraint& constraint = **made;
  EXPECT_FALSE(allows(constraint, encoded("maybe").front()));
  for (TokenId id : encoded("no")) {
    EXPECT_FALSE(constraint.is_complete());
    EXPECT_TRUE(allows(constraint, id));
    EXPECT_TRUE(constraint.accept(id).ok());
  }
  EXPECT_TRUE(constraint.is_complete());
}

TEST_F(AnswerGrammarTest, BeginsAfterTheTokenThatItAwaits) {
  const TokenId awaited = encoded("x").front();
  const auto made =
      grammars_.make(AnswerGrammar{GrammarKind::kRegex, "[0-9]", ""}, {.is_inside = true, .end = awaited});
  ASSERT_TRUE(made.ok());
  TokenConstraint& constraint = **made;
  for (TokenId id : encoded("anything at all")) {
    EXPECT_TRUE(allows(constraint, id));
    EXPECT_TRUE(constraint.accept(id).ok());
  }
  EXPECT_TRUE(constraint.accept(awaited).ok());
  EXPECT_FALSE(allows(constraint, encoded("a").front()));
  const TokenId digit = encoded("7").front();
  EXPECT_TRUE(allows(constraint, digit));
  EXPECT_FALSE(constraint.is_complete());
  EXPECT_TRUE(constraint.accept(digit).ok());
  EXPECT_TRUE(constraint.is_complete());
}

TEST_F(AnswerGrammarTest, ThinkingEndsWithItsBudget) {
  const TokenId begin = encoded("<").front(), end = encoded(">").front(), other = encoded("a").front();
  const auto think = [&](TokenConstraint& constraint, std::size_t num_tokens) {
    for (std::size_t i = 0; i < num_tokens; ++i) {
      EXPECT_TRUE(allows(constraint, other));
      EXPECT_TRUE(constraint.accept(other).ok());
    }
  };
  for (std::size_t budget : {0UL, 1UL, 5UL}) {
    const ThinkingRule inside{.is_inside = true, .begin = begin, .end = end, .budget = budget};
    const auto limited = grammars_.make(std::nullopt, inside);
    think(**limited, budget);
    EXPECT_FALSE(allows(**limited, other));
    EXPECT_TRUE(allows(**limited, end));
    EXPECT_TRUE((*limited)->accept(end).ok());
    EXPECT_FALSE(allows(**limited, end));  // once is enough
    think(**limited, 20);                  // free otherwise
    EXPECT_FALSE((*limited)->is_complete());

    const ThinkingRule maybe{.begin = begin, .end = end, .budget = budget};
    const auto opened = grammars_.make(std::nullopt, maybe);
    EXPECT_TRUE((*opened)->accept(begin).ok());
    think(**opened, budget);
    EXPECT_FALSE(allows(**opened, other));
    const auto not_opened = grammars_.make(std::nullopt, maybe);
    think(**not_opened, 1);
    EXPECT_TRUE((*not_opened)->accept(begin).ok());  // too late to be a block
    think(**not_opened, 20);
  }
  EXPECT_FALSE(grammars_.make(std::nullopt, {.is_inside = true}).ok());
}

TEST_F(AnswerGrammarTest, SaysWhatIsWrong) {
  const auto made = grammars_.make(AnswerGrammar{GrammarKind::kJsonSchema, R"({"type": "nope"})", ""}, {});
  ASSERT_FALSE(made.ok());
  EXPECT_NE(made.message().find("nope"), std::string::npos);
  AnswerGrammars endless(tokenizer_, {}, kVocabSize);
  EXPECT_FALSE(endless.make(AnswerGrammar{GrammarKind::kJsonObject, "", ""}, {}).ok());
}

}  // namespace
}  // namespace qnext
