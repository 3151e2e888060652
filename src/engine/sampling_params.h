#pragma once
// SamplingParams: how the next token is chosen from the logits. The defaults change nothing: plain sampling from the
// model's distribution.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/result.h"
#include "base/units.h"

namespace qnext {

struct LogitBias {
  TokenId token_id = 0;
  float bias = 0;
};

struct SamplingParams {
  float temperature = 1;         // 0: greedy, ties to the lower id
  std::size_t top_k = 0;         // keep the k likeliest, ties to the lower id; 0: all
  float top_p = 1;               // keep the likeliest until their sum reaches p; always at least one
  float min_p = 0;               // keep those at least min_p times as likely as the likeliest
  float repetition_penalty = 1;  // of every token in prompt and answer: divides positive logits, multiplies negative
  float presence_penalty = 0;    // subtracted once from the logit of a token that the answer has
  float frequency_penalty = 0;   // subtracted as often as the answer has the token
  std::vector<LogitBias> logit_bias = {};
  std::uint64_t seed = 0;  // the same request and seed give the same tokens, whatever else runs
};

// Every value finite and in its range, ids below vocabulary_tokens. Errors: field, found, expected.
Status check_sampling_params(const SamplingParams& params, std::size_t vocabulary_tokens);

}  // namespace qnext
