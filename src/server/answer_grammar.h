#pragma once
// Grammars of answers: from what a request asks for to a constraint that the engine keeps to.

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

// Makes constraints. One thread at a time.
class AnswerGrammars {
 public:
  // Prepares in the background: half a second, 55 MB. `end_ids` end an answer; none: no grammars then.
  AnswerGrammars(const Tokenizer& tokenizer, std::vector<TokenId> end_ids, std::size_t vocabulary_tokens);

  // A constraint for one answer. With `after`, it begins once that token was drawn: the end of what the model thinks.
  // Errors: what is wrong with the grammar.
  Result<std::shared_ptr<TokenConstraint>> make(const AnswerGrammar& grammar, std::optional<TokenId> after);

 private:
  std::optional<Result<GrammarFactory>> factory_;
  WorkerThread thread_;  // last: fills factory_
};

}  // namespace qnext
