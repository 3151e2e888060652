#include "server/answer_grammar.h"

#include <algorithm>
#include <utility>

namespace qnext {
namespace {

class AnswerConstraint : public TokenConstraint {
 public:
  AnswerConstraint(std::optional<GrammarMatcher> matcher, const ThinkingRule& thinking)
      : matcher_(std::move(matcher)), thinking_(thinking) {}

  Result<bool> mask(std::span<std::uint32_t> allowed) override {
    const bool must_end = thinking_.is_inside && thinking_.budget == 0;
    if (thinking_.is_inside && !must_end && !grammar_sees_thought_) return false;
    if (must_end || (!matcher_ && was_cut_off_)) {  // who was cut off tries to end the block himself yet
      std::ranges::fill(allowed, must_end ? 0U : ~0U);
      const auto end = static_cast<std::size_t>(*thinking_.end);
      allowed[end / 32] ^= 1U << (end % 32);
      return true;
    }
    if (!matcher_) return false;
    QN_RETURN_IF_ERROR(matcher_->compute_mask(allowed));
    return true;
  }

  Status accept(TokenId token_id) override {
    const bool is_first = std::exchange(is_first_, false);
    if (thinking_.is_inside) {
      was_cut_off_ = thinking_.budget == 0;
      if (!was_cut_off_) --thinking_.budget;
      if (token_id == thinking_.end) thinking_.is_inside = false;
      if (!grammar_sees_thought_) return success();
    } else if (is_first && token_id == thinking_.begin) {
      thinking_.is_inside = true;
      grammar_sees_thought_ = matcher_.has_value();  // which has allowed it
    }
    if (!matcher_) return success();
    QN_TRY(const std::size_t num_taken, matcher_->accept({&token_id, 1}));
    if (num_taken == 0) return error("the grammar refuses token {}, which it allowed", token_id);
    return success();
  }

  bool is_complete() const override { return !thinking_.is_inside && matcher_ && matcher_->is_stopped(); }

 private:
  std::optional<GrammarMatcher> matcher_;
  ThinkingRule thinking_;  // is_inside and budget as of now
  bool is_first_ = true;
  bool grammar_sees_thought_ = false;  // it began within the answer
  bool was_cut_off_ = false;           // by its budget
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

Result<std::shared_ptr<TokenConstraint>> AnswerGrammars::make(const std::optional<AnswerGrammar>& grammar,
                                                              const ThinkingRule& thinking) {
  if (thinking.is_inside && !thinking.end) {
    return error("this model thinks first, and its </think> is no token that could end that");
  }
  std::optional<GrammarMatcher> matcher;
  if (grammar) {
    thread_.join();
    if (!factory_->ok()) return Error{factory_->message()};
    QN_TRY(matcher, (**factory_).make_matcher(grammar->kind, grammar->text));
  }
  return std::shared_ptr<TokenConstraint>(std::make_shared<AnswerConstraint>(std::move(matcher), thinking));
}

}  // namespace qnext
