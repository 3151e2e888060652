#pragma once
// TokenConstraint: what may be said, token by token. The engine asks before each draw and tells what was drawn; what
// the rule is, a grammar or another, is the caller's business.

#include <cstdint>
#include <span>

#include "base/result.h"
#include "base/units.h"

namespace qnext {

class TokenConstraint {
 public:
  virtual ~TokenConstraint() = default;

  // Sets bit i (of word i / 32, lowest first) for each token that may come next, and clears the others. False: any may,
  // `allowed` is left alone. An error ends the answer; it says why.
  virtual Result<bool> mask(std::span<std::uint32_t> allowed) = 0;

  // The token was drawn: an allowed one, and none that ends the answer.
  virtual Status accept(TokenId token_id) = 0;

  // The answer is whole: nothing may follow.
  virtual bool is_complete() const = 0;
};

}  // namespace qnext
