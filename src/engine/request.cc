#include "engine/request.h"

#include <algorithm>

#include <span>

namespace qnext {
namespace {

Status check_ids(std::string_view field, std::span<const TokenId> ids, std::size_t vocabulary_tokens) {
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || static_cast<std::size_t>(ids[i]) >= vocabulary_tokens) {
      return error(
          "{}[{}]: token id {} is outside the model's vocabulary, 0 to {}; was the text encoded with another "
          "model's tokenizer?",
          field, i, ids[i], vocabulary_tokens - 1);
    }
  }
  return success();
}

}  // namespace

std::string_view finish_reason_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
    case FinishReason::kDeadline:
      return "deadline";
    case FinishReason::kError:
      return "error";
  }
  QN_CHECK(false, "finish reason {}", static_cast<int>(reason));
}

std::size_t count_lasting_tokens(std::span<const TokenId> prompt, std::span<const TokenId> end_ids) {
  const auto last = std::find_first_of(prompt.rbegin(), prompt.rend(), end_ids.begin(), end_ids.end());
  return last == prompt.rend() ? prompt.size() : static_cast<std::size_t>(prompt.rend() - last);
}

Status check_request(const Request& request, std::size_t vocabulary_tokens) {
  if (request.prompt.empty()) return error("prompt: it is empty; give at least one token");
  if (request.reports_prompt && !request.num_logprobs) return error("reports_prompt: needs num_logprobs, found none");
  if (request.num_logprobs && *request.num_logprobs > vocabulary_tokens) {
    return error("num_logprobs: found {}, expected at most the vocabulary's {}", *request.num_logprobs,
                 vocabulary_tokens);
  }
  QN_RETURN_IF_ERROR(check_ids("prompt", request.prompt, vocabulary_tokens));
  QN_RETURN_IF_ERROR(check_ids("stop_token_ids", request.stop_token_ids, vocabulary_tokens));
  return check_sampling_params(request.sampling, vocabulary_tokens);
}

}  // namespace qnext
