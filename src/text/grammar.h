#pragma once
// Grammars that constrain what may be generated: a mask of allowed tokens for each step, through llguidance.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "base/result.h"
#include "base/units.h"
#include "text/tokenizer.h"

struct QnGrammarFactory;
struct QnMatcher;

namespace qnext {

enum class GrammarKind : std::uint32_t {
  kJsonSchema,  // text: a JSON schema; $ref only within it (#/...)
  kJsonObject,  // any JSON object; the text is not read
  kRegex,       // text: Rust's regex syntax without look-around; the whole answer must match
  kChoice,      // text: a JSON list of texts, one of which must be the whole answer
  kLark,        // text: llguidance's variant of Lark
};

// The state of one answer under a grammar. One thread at a time.
class GrammarMatcher {
 public:
  // Sets bit i (of word i / 32, lowest first) when token i may come next, clears the others. `mask` has mask_words()
  // words of the factory. Where the grammar is at its end, only end-of-text tokens may. Errors: the step needs more
  // work than the limits allow. Typically 0.05 ms, a few milliseconds at worst.
  Status compute_mask(std::span<std::uint32_t> mask);

  // Takes ids from the first on, until one is not allowed; returns how many were taken.
  Result<std::size_t> accept(std::span<const TokenId> ids);

  // Takes the last accepted tokens back. Errors: more than were accepted.
  Status rollback(std::size_t num_tokens);

  // Whether the answer may end here.
  Result<bool> is_accepting();

  // Whether nothing but an end-of-text token can follow, or one has.
  bool is_stopped() const;

 private:
  friend class GrammarFactory;
  explicit GrammarMatcher(QnMatcher* handle);

  struct Free {
    void operator()(QnMatcher* handle) const;
  };
  std::unique_ptr<QnMatcher, Free> handle_;
};

// What every grammar of one model shares: a tree of its tokens. Copies are cheap. Safe for many threads at once.
class GrammarFactory {
 public:
  // vocab_size is the model's, at least the tokenizer's; end_ids (at least one) end an answer.
  // Costs about 0.4 s and 55 MB for 151,936 tokens: make one a model.
  static Result<GrammarFactory> make(const Tokenizer& tokenizer, std::span<const TokenId> end_ids,
                                     std::size_t vocab_size);

  // Errors: a grammar that is malformed, that uses what is not supported, or that is larger than the limits (1 MB of
  // text, llguidance's ParserLimits); the text says which.
  Result<GrammarMatcher> make_matcher(GrammarKind kind, std::string_view text) const;

  // 32-bit words of a mask.
  std::size_t mask_words() const { return (vocab_size_ + 31) / 32; }

 private:
  GrammarFactory(QnGrammarFactory* handle, std::size_t vocab_size);

  std::shared_ptr<const QnGrammarFactory> handle_;
  std::size_t vocab_size_;
};

}  // namespace qnext
