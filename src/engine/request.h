#pragma once
// What goes into the engine and what comes out: requests and events, in token ids only. Text is the apps' business
// (text/tokenizer.h, engine/stop_text.h).

#include <chrono>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/units.h"
#include "engine/sampling_params.h"
#include "engine/token_constraint.h"

namespace qnext {

struct Request {
  std::vector<TokenId> prompt;
  std::size_t max_new_tokens = 0;  // the context's end may come first; 0: the prompt is run, and nothing said
  SamplingParams sampling;
  std::vector<TokenId> stop_token_ids = {};  // any of them ends the answer; leave empty to ignore the model's own
  std::optional<std::size_t> num_logprobs =
      {};  // report each token's log-probability, and the best num_logprobs beside it
  // The prompt's tokens are reported, too: it then runs whole, whatever of it is kept. Needs num_logprobs.
  bool reports_prompt = false;
  // So many of the prompt's first tokens are likely to begin a later prompt, too (a chat's messages, without what
  // invites the answer): the engine keeps the state there. None: all.
  std::optional<std::size_t> num_lasting_tokens = {};
  std::optional<std::chrono::steady_clock::time_point> deadline = {};  // the answer ends with the step that passes it
  std::shared_ptr<TokenConstraint> constraint = {};  // what may be said; of this request alone. None: anything
};

struct TokenLogprob {
  TokenId token_id = 0;
  float logprob = 0;  // natural log, of the model's own distribution: before penalties, temperature and cuts
};

// kStop: a stop token, or the constraint's end.
enum class FinishReason { kStop, kLength, kCancelled, kDeadline, kError };
std::string_view finish_reason_name(FinishReason reason);  // "stop", "length", "cancelled", "deadline", "error"

// A token of the answer. The stop token that ends it is none.
struct TokenEvent {
  TokenId token_id = 0;
  std::optional<float> logprob = {};            // when the request asks for them; none for a prompt's first token
  std::vector<TokenLogprob> top_logprobs = {};  // likeliest first
  bool is_prompt = false;                       // a token of the prompt (Request::reports_prompt)
};

// The last event of a request: exactly one for each that was accepted.
struct FinishEvent {
  FinishReason reason = FinishReason::kStop;
  std::optional<TokenId> stop_token_id = {};  // kStop: which one, if it was one
  std::string error = {};                     // kError: what is wrong, and what to do
  bool by_constraint = false;                 // kError: the request's constraint could not be kept to
  std::size_t num_prompt_tokens = 0;
  std::size_t num_cached_tokens = 0;    // of the prompt: an earlier request had run them
  std::size_t num_new_tokens = 0;       // token events before this one, but for the prompt's
  std::size_t num_drafted_tokens = 0;   // guessed on the way
  std::size_t num_accepted_tokens = 0;  // of those, that were right
};

struct Event {
  RequestId request_id;
  std::variant<TokenEvent, FinishEvent> what;
};

// Request::num_lasting_tokens of a prompt whose messages end in one of these tokens: up to the last of them, or all.
std::size_t count_lasting_tokens(std::span<const TokenId> prompt, std::span<const TokenId> end_ids);

// Rules that need no engine: a prompt, ids below vocabulary_tokens, sampling parameters in range. Errors name the
// field, what was found and what is allowed.
Status check_request(const Request& request, std::size_t vocabulary_tokens);

}  // namespace qnext
