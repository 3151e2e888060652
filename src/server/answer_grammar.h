#pragma once
// Grammars of answers, and budgets of thinking: from what a request asks for to a constraint that the engine keeps to.

#include <cstddef>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/worker_thread.h"
#include "engine/token_constraint.h"
#include "text/grammar.h"

namespace qnext {

struct AnswerGrammar {
  GrammarKind kind = GrammarKind::kJsonObject;
  std::string text;
  std::string param;  // of the request, for errors
};

// How an answer thinks, before what its grammar is about.
struct ThinkingRule {
  bool is_inside = false;                                        // the prompt has opened the block
  std::optional<TokenId> begin = {}, end = {};                   // <think>, </think>
  std::size_t budget = std::numeric_limits<std::size_t>::max();  // tokens; then the block is closed
};

// Makes constraints. One thread at a time.
class AnswerGrammars {
 public:
  // Prepares in the background: half a second, 55 MB. `end_ids` end an answer; none: no grammars then.
  AnswerGrammars(const Tokenizer& tokenizer, std::vector<TokenId> end_ids, std::size_t vocabulary_tokens);

  // A constraint for one answer: thinking first, where the rule says so, then the grammar, if there is one. A
  // block that the answer itself opens at its beginning, where the grammar allows that, has the budget, too. Errors:
  // what is wrong with the grammar; no token closes a block that must be closed.
  Result<std::shared_ptr<TokenConstraint>> make(const std::optional<AnswerGrammar>& grammar,
                                                const ThinkingRule& thinking);

 private:
  std::optional<Result<GrammarFactory>> factory_;
  WorkerThread thread_;  // last: fills factory_
};

}  // namespace qnext
