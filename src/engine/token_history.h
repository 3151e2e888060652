#pragma once
// TokenHistory: which tokens a sequence has, and how often its answer has each. What penalties need.

#include <cstddef>
#include <cstdint>
#include <span>
#include <unordered_map>

#include "base/units.h"

namespace qnext {

class TokenHistory {
 public:
  void add_prompt(std::span<const TokenId> ids) {
    for (TokenId token_id : ids) num_in_answer_.try_emplace(token_id, 0);
  }
  void add_answer(TokenId token_id) { ++num_in_answer_[token_id]; }

  // Each distinct token of prompt and answer once, with its number of occurrences in the answer; in no order.
  const std::unordered_map<TokenId, std::uint32_t>& tokens() const { return num_in_answer_; }

 private:
  std::unordered_map<TokenId, std::uint32_t> num_in_answer_;
};

}  // namespace qnext
