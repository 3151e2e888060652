#include "server/answer_grammar.h"

namespace qnext {
namespace {

class GrammarConstraint : public TokenConstraint {
 public:
  GrammarConstraint(GrammarMatcher matcher, std::optional<TokenId> after)
      : matcher_(std::move(matcher)), awaited_(after) {}

  Result<bool> mask(std::span<std::uint32_t> allowed) override {
    if (awaited_) return false;
    QN_RETURN_IF_ERROR(matcher_.compute_mask(allowed));
    return true;
  }

  Status accept(TokenId token_id) override {
    if (awaited_) {
      if (token_id == *awaited_) awaited_.reset();
      return success();
    }
    QN_TRY(const std::size_t num_taken, matcher_.accept({&token_id, 1}));
    if (num_taken == 0) return error("the grammar refuses token {}, which it allowed", token_id);
    return success();
  }

  bool is_complete() const override { return !awaited_ && matcher_.is_stopped(); }

 private:
  GrammarMatcher matcher_;
  std::optional<TokenId> awaited_;  // the grammar begins after it
};

}  // namespace

AnswerGrammars::AnswerGrammars(const Tokenizer& tokenizer, std::vector<TokenId> end_ids, std::size_t vocabulary_tokens)
    : thread_([this, tokenizer, end_ids = std::move(end_ids), vocabulary_tokens] {
        if (end_ids.empty()) {
          factory_.emplace(error("this model knows no token that ends an answer; without one there are no grammars"));
        } else {
          factory_.emplace(GrammarFactory::make(tokenizer, end_ids, vocabulary_tokens));
        }
      }) {}

Result<std::shared_ptr<TokenConstraint>> AnswerGrammars::make(const AnswerGrammar& grammar,
                                                              std::optional<TokenId> after) {
  thread_.join();
  if (!factory_->ok()) return Error{factory_->message()};
  QN_TRY(GrammarMatcher matcher, (**factory_).make_matcher(grammar.kind, grammar.text));
  return std::shared_ptr<TokenConstraint>(std::make_shared<GrammarConstraint>(std::move(matcher), after));
}

}  // namespace qnext
