#pragma once
// GSPO (Zheng et al. 2025, arXiv 2507.18071): a policy improves on answers of its own, each judged as a whole.

#include <cstdint>
#include <span>
#include <vector>

#include "base/units.h"

namespace qnext::train {

struct GspoParams {
  std::int64_t prompts_per_step = 16;
  std::int64_t group = 8;    // answers to a prompt, judged against each other
  std::int64_t updates = 2;  // of the weights, each on its share of a step's answers
  double clip_low = 3e-4, clip_high = 4e-4;
  double temperature = 1;             // of sampling
  std::int64_t max_new_tokens = 512;  // of an answer
  double format_reward = 0.1;         // of an answer that has the wanted form only; a right one gets 1
};

// An answer of the policy to a prompt.
struct Rollout {
  std::vector<TokenId> tokens;  // the prompt's, then the answer's with the one that ended it
  std::int64_t num_prompt_tokens = 0;
  std::vector<float> logprobs;  // by the engine that drew them, of the answer's tokens but the one that ended it
  double reward = 0;
  double advantage = 0;

  std::int64_t num_answer_tokens() const { return std::ssize(tokens) - num_prompt_tokens; }
  bool ended() const { return num_answer_tokens() > std::ssize(logprobs); }  // by itself: the last token did it
};

// A group's rewards minus their mean, over their standard deviation; all 0 where they are alike.
std::vector<double> group_advantages(std::span<const double> rewards);

struct SequenceWeight {
  double ratio = 1;         // s = (p_new / p_old)^(1 / tokens), of the whole answer
  double token_weight = 0;  // of each token's log-probability in the gradient: s advantage / tokens
  bool clipped = false;     // s has left [1 - clip_low, 1 + clip_high] to the advantage's side: weight 0
};

// Of an answer of `tokens` > 0 tokens with these log-probabilities, summed over them.
SequenceWeight sequence_weight(double logprob, double old_logprob, std::int64_t tokens, double advantage,
                               const GspoParams& params);

}  // namespace qnext::train
