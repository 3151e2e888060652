// The grammar files, as part of the program.
#include "base/check.h"
#include "base/embed.h"
#include "corpus/grammar.h"

namespace qnext::corpus {
namespace {

QNEXT_EMBED(grammar_words, QNEXT_GRAMMARS "/words.grammar")
QNEXT_EMBED(grammar_stories, QNEXT_GRAMMARS "/stories.grammar")
QNEXT_EMBED(grammar_stories_more, QNEXT_GRAMMARS "/stories_more.grammar")
QNEXT_EMBED(grammar_stories_third, QNEXT_GRAMMARS "/stories_third.grammar")
QNEXT_EMBED(grammar_descriptions, QNEXT_GRAMMARS "/descriptions.grammar")
QNEXT_EMBED(grammar_dialogues, QNEXT_GRAMMARS "/dialogues.grammar")
QNEXT_EMBED(grammar_facts, QNEXT_GRAMMARS "/facts.grammar")
QNEXT_EMBED(grammar_arithmetic, QNEXT_GRAMMARS "/arithmetic.grammar")
QNEXT_EMBED(grammar_problems, QNEXT_GRAMMARS "/problems.grammar")
QNEXT_EMBED(grammar_weeks, QNEXT_GRAMMARS "/weeks.grammar")
QNEXT_EMBED(grammar_instructions, QNEXT_GRAMMARS "/instructions.grammar")

// Variables that code sets before it expands a rule that refers to them.
const std::set<std::string, std::less<>>& given_variables() {
  // clang-format off
  static const std::set<std::string, std::less<>> names = {
      "n1", "n2", "n3", "expression", "amount",                             // of a sum or a small problem
      "h1", "h2", "h3", "c1", "c2", "c3",                                   // hours a unit, and units, of a production
      "which", "which_one", "which_many", "other", "other_many",            // types that a question is about
      "extra", "rate", "sum",                                               // a question's own numbers
      "open_days", "open_hours", "percent",                                 // of a working week
      "comma"};
  // clang-format on
  return names;
}

}  // namespace

const Grammar& corpus_grammar() {
  static const Grammar grammar = [] {
    Result<Grammar> parsed =
        Grammar::parse({grammar_words(), grammar_stories(), grammar_stories_more(), grammar_stories_third(),
                        grammar_descriptions(), grammar_dialogues(), grammar_facts(), grammar_arithmetic(),
                        grammar_problems(), grammar_weeks(), grammar_instructions()},
                       given_variables());
    QN_CHECK(parsed.ok(), "{}", parsed.message());
    return *std::move(parsed);
  }();
  return grammar;
}

}  // namespace qnext::corpus
