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
  const auto made = grammars_.make({GrammarKind::kChoice, R"(["yes", "no"])", ""}, std::nullopt);
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
  const auto made = grammars_.make({GrammarKind::kRegex, "[0-9]", ""}, awaited);
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

TEST_F(AnswerGrammarTest, SaysWhatIsWrong) {
  const auto made = grammars_.make({GrammarKind::kJsonSchema, R"({"type": "nope"})", ""}, std::nullopt);
  ASSERT_FALSE(made.ok());
  EXPECT_NE(made.message().find("nope"), std::string::npos);
  AnswerGrammars endless(tokenizer_, {}, kVocabSize);
  EXPECT_FALSE(endless.make({GrammarKind::kJsonObject, "", ""}, std::nullopt).ok());
}

}  // namespace
}  // namespace qnext
