#include "engine/sampler.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/argmax.h"
#include "engine/philox.h"

namespace qnext {
namespace {

// In place of the logit of a token that is not allowed.
constexpr float kForbidden = std::numeric_limits<float>::lowest();

bool likelier(const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.token_id < b.token_id);
}

// The index of the largest logit, the first of equals. Error: not all are finite.
Result<std::size_t> find_best(std::span<const float> logits) {
  // Times 0, an infinity or a NaN is a NaN, and stays one in a sum.
  constexpr std::size_t kLanes = 16;
  std::array<float, kLanes> zeros{};
  std::size_t i = 0;
  for (; i + kLanes <= logits.size(); i += kLanes) {
    for (std::size_t lane = 0; lane < kLanes; ++lane) zeros[lane] += logits[i + lane] * 0.0f;
  }
  for (; i < logits.size(); ++i) zeros[0] += logits[i] * 0.0f;
  if (std::accumulate(zeros.begin(), zeros.end(), 0.0f) == 0.0f) return argmax(logits);
  return error(
      "the model computed logits that are not finite, so no token can be chosen; the checkpoint's weights may "
      "be damaged: verify the file, or load another quantisation");
}

void gather_all(std::vector<Candidate>& out, std::span<const float> logits) {
  for (std::size_t i = 0; i < logits.size(); ++i) out.push_back({static_cast<TokenId>(i), logits[i], 0.0});
}

// The k likeliest, in order. One pass: what cannot be among them is dropped each time that 2k have gathered.
void gather_top_k(std::vector<Candidate>& out, std::span<const float> logits, std::size_t k) {
  float least = -std::numeric_limits<float>::infinity();  // of the k likeliest so far: an equal one comes too late
  const auto drop_rest = [&] {
    std::nth_element(out.begin(), out.begin() + static_cast<std::ptrdiff_t>(k - 1), out.end(), likelier);
    out.resize(k);
    least = out[k - 1].logit;
  };
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (!(logits[i] > least)) continue;
    out.push_back({static_cast<TokenId>(i), logits[i], 0.0});
    if (out.size() == 2 * k) drop_rest();
  }
  if (out.size() > k) drop_rest();
  std::sort(out.begin(), out.end(), likelier);
}

// Probabilities up to a common factor; the likeliest has 1.
void weigh(std::vector<Candidate>& candidates, float best_logit, float temperature) {
  for (Candidate& candidate : candidates) {
    candidate.probability = std::exp((static_cast<double>(candidate.logit) - best_logit) / temperature);
  }
}

double total_probability(std::span<const Candidate> candidates) {
  double total = 0;
  for (const Candidate& candidate : candidates) total += candidate.probability;
  return total;
}

// The likeliest whose sum first reaches p of the whole, at least one. Halves the range in which the cut lies, so that
// nothing is sorted: O(V).
void keep_top_p(std::vector<Candidate>& candidates, double p) {
  const auto at = [&](std::size_t idx) { return candidates.begin() + static_cast<std::ptrdiff_t>(idx); };
  const double total = total_probability(candidates);
  // The least likely that together cannot fill 1 - p go first: in most rows, nearly all.
  const double least = (1 - p) * total / static_cast<double>(candidates.size());
  std::erase_if(candidates, [=](const Candidate& candidate) { return candidate.probability < least; });

  double missing = p * total;
  Range cut{0, candidates.size()};  // those before it are kept, those behind it are not
  while (cut.count() > 1) {
    const std::size_t middle = cut.begin + cut.count() / 2;
    std::nth_element(at(cut.begin), at(middle), at(cut.end), likelier);
    const double likelier_half = total_probability({at(cut.begin), at(middle)});
    if (likelier_half >= missing) {
      cut.end = middle;
    } else {
      missing -= likelier_half;
      cut.begin = middle;
    }
  }
  candidates.resize(cut.end);
}

bool has_adjustments(const SamplingParams& params) {
  return !params.logit_bias.empty() || params.repetition_penalty != 1 || params.presence_penalty != 0 ||
         params.frequency_penalty != 0;
}

}  // namespace

Sampler::Sampler(std::size_t vocabulary_tokens) {
  adjusted_.reserve(vocabulary_tokens);
  candidates_.reserve(vocabulary_tokens);
}

std::span<const float> Sampler::adjusted(std::span<const float> logits, const TokenHistory& history,
                                         const SamplingParams& params, std::span<const std::uint32_t> allowed) {
  if (!has_adjustments(params) && allowed.empty()) return logits;
  adjusted_.assign(logits.begin(), logits.end());
  for (const LogitBias& entry : params.logit_bias) adjusted_[static_cast<std::size_t>(entry.token_id)] += entry.bias;
  for (const auto& [token_id, num_in_answer] : history.tokens()) {
    float& logit = adjusted_[static_cast<std::size_t>(token_id)];
    logit = logit > 0 ? logit / params.repetition_penalty : logit * params.repetition_penalty;
    logit -= params.frequency_penalty * static_cast<float>(num_in_answer);
    if (num_in_answer > 0) logit -= params.presence_penalty;
  }
  if (!allowed.empty()) {
    for (std::size_t i = 0; i < adjusted_.size(); ++i) {
      if ((allowed[i / 32] >> (i % 32) & 1) == 0) adjusted_[i] = kForbidden;
    }
  }
  return adjusted_;
}

Result<std::span<const Candidate>> Sampler::distribution(std::span<const float> logits, const TokenHistory& history,
                                                         const SamplingParams& params,
                                                         std::span<const std::uint32_t> allowed) {
  const std::span<const float> row = adjusted(logits, history, params, allowed);
  QN_TRY(const std::size_t best_idx, find_best(row));
  if (row[best_idx] == kForbidden) return error("no token is allowed to follow: the grammar cannot be met");
  candidates_.clear();
  if (params.temperature == 0) {
    candidates_.push_back({static_cast<TokenId>(best_idx), row[best_idx], 1.0});
    return std::span<const Candidate>(candidates_);
  }
  if (params.top_k == 0 || params.top_k >= row.size()) {
    gather_all(candidates_, row);
  } else {
    gather_top_k(candidates_, row, params.top_k);
  }
  if (!allowed.empty()) std::erase_if(candidates_, [](const Candidate& c) { return c.logit == kForbidden; });
  weigh(candidates_, row[best_idx], params.temperature);
  if (params.top_p < 1) keep_top_p(candidates_, params.top_p);
  std::erase_if(candidates_, [&](const Candidate& c) { return c.probability == 0 || c.probability < params.min_p; });
  const double total = total_probability(candidates_);
  for (Candidate& candidate : candidates_) candidate.probability /= total;
  return std::span<const Candidate>(candidates_);
}

Result<TokenId> Sampler::sample(std::span<const float> logits, const TokenHistory& history,
                                const SamplingParams& params, std::size_t position,
                                std::span<const std::uint32_t> allowed) {
  QN_TRY(const std::span<const Candidate> candidates, distribution(logits, history, params, allowed));
  double left = uniform_at(params.seed, position);
  for (const Candidate& candidate : candidates) {
    left -= candidate.probability;
    if (left < 0) return candidate.token_id;
  }
  return candidates.back().token_id;  // rounding left a little
}

Logprobs logprobs_of(std::span<const float> logits, TokenId token_id, std::size_t num_top) {
  const double best = *std::max_element(logits.begin(), logits.end());
  double total = 0;
  for (float logit : logits) total += std::exp(logit - best);
  const double log_total = best + std::log(total);
  const auto logprob = [&](float logit) { return static_cast<float>(logit - log_total); };

  Logprobs out{.chosen = logprob(logits[static_cast<std::size_t>(token_id)]), .top = {}};
  std::vector<Candidate> top;
  if (num_top > 0) gather_top_k(top, logits, std::min(num_top, logits.size()));
  for (const Candidate& candidate : top) out.top.push_back({candidate.token_id, logprob(candidate.logit)});
  return out;
}

}  // namespace qnext
