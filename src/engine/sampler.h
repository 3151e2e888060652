#pragma once
// Sampler: from a row of logits to a token.
//
//   logits -> bias -> repetition, presence, frequency penalties -> / temperature -> top_k -> top_p -> min_p -> softmax
//
// Of tokens that are not allowed nothing is left before the first of them. Each cut sees the softmax over what the one
// before it left: the order and meaning of transformers' logits processors (v5.23; tests/data/sampling). Presence and
// frequency are OpenAI's: over the answer's tokens.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "base/units.h"
#include "engine/request.h"
#include "engine/token_history.h"

namespace qnext {

struct Candidate {
  TokenId token_id = 0;
  float logit = 0;
  double probability = 0;
};

class Sampler {
 public:
  // Reserves for rows of vocabulary_tokens logits.
  explicit Sampler(std::size_t vocabulary_tokens);

  // What may come next: every token with a probability above 0, in an order that depends on the arguments alone; they
  // sum to 1. Greedy: one token. Valid until the next call.
  // `allowed`: a bit for each token, lowest first; none: all are.
  // Errors: a logit is NaN or infinite; nothing is allowed.      logits : [V]
  // Cost     one pass over V; without top_k also V exponentials, and with top_p a selection in O(V).
  Result<std::span<const Candidate>> distribution(std::span<const float> logits, const TokenHistory& history,
                                                  const SamplingParams& params,
                                                  std::span<const std::uint32_t> allowed = {});

  // Draws from distribution(). The draw depends on params.seed and `position` (of the new token) alone.
  Result<TokenId> sample(std::span<const float> logits, const TokenHistory& history, const SamplingParams& params,
                         std::size_t position, std::span<const std::uint32_t> allowed = {});

 private:
  std::span<const float> adjusted(std::span<const float> logits, const TokenHistory& history,
                                  const SamplingParams& params, std::span<const std::uint32_t> allowed);

  std::vector<float> adjusted_;  // a row after bias and penalties
  std::vector<Candidate> candidates_;
};

struct Logprobs {
  float chosen = 0;
  std::vector<TokenLogprob> top = {};  // likeliest first, ties to the lower id
};

// The log-softmax of unmodified logits [V] at token_id and at the num_top largest. Cost: V exponentials.
Logprobs logprobs_of(std::span<const float> logits, TokenId token_id, std::size_t num_top);

}  // namespace qnext
