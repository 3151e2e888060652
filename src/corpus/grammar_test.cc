#include "corpus/grammar.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace qnext::corpus {
namespace {

using testing::HasSubstr;

constexpr std::string_view kSmall = R"(
# a comment
boy~ ;; he=he:
  Tom
  Ben ;; he=him who is Ben
leaf~:
  leaf ;; pl=leaves
someone:
  {boy}
told:
  {x=someone}{x.he} \
    goes on
)";

Grammar grammar_of(std::string_view text) {
  Result<Grammar> parsed = Grammar::parse({text}, {"n"});
  EXPECT_TRUE(parsed.ok()) << parsed.message();
  return *std::move(parsed);
}

TEST(Grammar, ExpandsTags) {
  const Grammar grammar = grammar_of(kSmall);
  Random random(1, "test", 0);
  Expander expander(grammar, random, Patterns::kKnown);
  expander.set("n", "2");
  EXPECT_EQ(expander.expand("{x=leaf}{x.pl} {a:x} {x.it} {#n x} {#n box}"), "leaves a leaf it 2 leaves 2 boxes");
  EXPECT_EQ(expander.expand("{y=|only|}{y} {^:y} {pl:y} {a:{y} hour}"), "only Only onlies an only hour");
  expander.set("n", "1");
  EXPECT_EQ(expander.expand("{#n hour}"), "1 hour");
  EXPECT_THAT(expander.expand("{told}"), HasSubstr(" goes on"));
}

TEST(Grammar, VariablesDiffer) {
  const Grammar grammar = grammar_of(kSmall);
  for (std::uint64_t i = 0; i < 50; ++i) {
    Random random(1, "test", i);
    Expander expander(grammar, random, Patterns::kKnown);
    expander.expand("{p=someone}{q=someone}");
    EXPECT_NE(expander.text_of("p"), expander.text_of("q"));
  }
}

TEST(Grammar, RefusesWhatIsWrong) {
  const auto message = [](std::string_view text) {
    const Result<Grammar> parsed = Grammar::parse({text}, {});
    return parsed.ok() ? std::string() : parsed.message();
  };
  EXPECT_THAT(message("  text"), HasSubstr("before any rule"));
  EXPECT_THAT(message("rule"), HasSubstr("colon"));
  EXPECT_THAT(message("a:\n  x\na:\n  y"), HasSubstr("twice"));
  EXPECT_THAT(message("a:\nb:\n  x"), HasSubstr("empty"));
  EXPECT_THAT(message("a:\n  {nothing}"), HasSubstr("no rule"));
  EXPECT_THAT(message("a:\n  {?very }{a:{x|nobody.he}} {nobody.he}"), HasSubstr("nobody"));
  EXPECT_THAT(message("a ;; b:\n  x"), HasSubstr("without ="));
}

TEST(Grammar, TheCorpusOwnIsWhole) {
  EXPECT_GT(corpus_grammar().rules().size(), 100u);
}

}  // namespace
}  // namespace qnext::corpus
