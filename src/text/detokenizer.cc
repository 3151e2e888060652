#include "text/detokenizer.h"

#include <utility>

namespace qnext {

Detokenizer::Detokenizer(Tokenizer tokenizer, bool skip_special)
    : tokenizer_(std::move(tokenizer)), skip_special_(skip_special) {}

std::string Detokenizer::feed(std::span<const TokenId> ids) {
  std::string text;
  for (const TokenId id : ids) {
    if (skip_special_ && tokenizer_.is_special(id)) continue;
    repair_.append(text, tokenizer_.token_bytes(id));
  }
  return text;
}

std::string Detokenizer::finish() {
  std::string text;
  repair_.finish(text);
  return text;
}

}  // namespace qnext
