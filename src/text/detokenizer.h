#pragma once
// Token ids to text while they are being generated.

#include <span>
#include <string>

#include "base/units.h"
#include "text/tokenizer.h"
#include "text/utf8.h"

namespace qnext {

// Each call gives the text that became certain: never half of a character. All pieces, with finish(), are together
// Tokenizer::decode() of all ids, whatever the cuts.
class Detokenizer {
 public:
  explicit Detokenizer(Tokenizer tokenizer, bool skip_special = false);

  // Ids without a token are nothing.
  std::string feed(std::span<const TokenId> ids);
  std::string feed(TokenId id) { return feed({&id, 1}); }

  // The end: bytes that still wait for the rest of their character become U+FFFD. Ready for another text afterwards.
  std::string finish();

 private:
  Tokenizer tokenizer_;
  bool skip_special_;
  Utf8Repair repair_;
};

}  // namespace qnext
