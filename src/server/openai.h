#pragma once
// OpenAI's requests as what the engine takes, and the engine's answers as OpenAI's JSON.
// Source: the API reference of OpenAI (chat completions, completions, models), as the official clients read it.

#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "engine/request.h"
#include "server/answer_grammar.h"
#include "server/answer_text.h"
#include "server/api_error.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace qnext {

// What is served, as the server needs it.
struct ServedModel {
  std::string name;
  std::vector<std::string> aliases;
  Tokenizer tokenizer;
  std::optional<ChatTemplate> chat_template;
  std::string chat_template_source;
  std::string bos_token, eos_token;
  SamplingParams default_sampling;
  std::vector<TokenId> stop_token_ids;
  std::size_t vocabulary_tokens = 0;
  std::size_t context_tokens = 0;
  std::size_t max_answers = 260;  // of one request: as many as the server holds
  std::int64_t created_s = 0;     // Unix time
  std::shared_ptr<AnswerGrammars> grammars = {};
};

// One of a request's answers-to-be.
struct PreparedAnswer {
  Request request;
  std::vector<std::string> stops;
  AnswerParts parts = AnswerParts::kContentOnly;
  ToolUse tool_use = {};
  std::string echo;             // text before the answer
  bool repeats_prompt = false;  // of the answer before it
};

struct PreparedRequest {
  bool is_chat = true;
  std::vector<PreparedAnswer> answers = {};  // in order of their index
  std::size_t num_prompt_tokens = 0;         // of all prompts, each counted once
  bool stream = false;
  bool include_usage = false;
};

using Prepared = std::variant<PreparedRequest, ApiError>;

// Errors: 400 with the parameter's name; 404 model_not_found.
Prepared prepare_chat(const Json& body, const ServedModel& model);
Prepared prepare_completion(const Json& body, const ServedModel& model);

// The text that a chat's messages become. Errors as prepare_chat's.
std::variant<std::string, ApiError> render_chat(const Json& body, const ServedModel& model);

// `name` is the served name or an alias, with or without a router's ":provider".
bool serves(const ServedModel& model, const std::string& name);
ApiError model_not_found(const std::string& name);

// ---- Answers ----

struct AnswerToken {
  TokenId token_id = 0;
  std::optional<float> logprob;
  std::vector<TokenLogprob> top_logprobs;
};

struct FinishedAnswer {
  TextDelta text;
  std::vector<AnswerToken> tokens;
  std::string finish_reason;  // "stop", "length" or "tool_calls"
};

struct Usage {
  std::size_t prompt_tokens = 0;
  std::size_t completion_tokens = 0;
  std::size_t cached_tokens = 0;
  std::size_t accepted_tokens = 0, rejected_tokens = 0;  // guessed ahead
};
Json usage_json(const Usage& usage);

// Writes the answers of one request.
class AnswerWriter {
 public:
  AnswerWriter(const ServedModel& model, const PreparedRequest& request, std::string id, std::int64_t created_s);

  Json whole(const std::vector<FinishedAnswer>& answers, const Usage& usage);

  // Of a stream: the first chunk of an answer (chat only), then what came, its end, and the usage at last.
  Json first_chunk(std::size_t index) const;
  Json delta_chunk(std::size_t index, const TextDelta& delta, const std::vector<AnswerToken>& tokens);
  Json last_chunk(std::size_t index, const std::string& finish_reason) const;
  Json usage_chunk(const Usage& usage) const;

 private:
  Json envelope(const char* object) const;
  Json chunk(Json choice) const;
  Json logprobs_json(std::size_t index, const std::vector<AnswerToken>& tokens);
  Json chat_logprob(TokenId id, float logprob) const;
  Json calls_json(std::size_t index, const std::vector<ToolCall>& calls, bool is_delta);

  const ServedModel& model_;
  const PreparedRequest& request_;
  std::string id_;
  std::int64_t created_s_;
  std::vector<std::size_t> offsets_;    // of each answer's next token in its text, in characters
  std::vector<std::size_t> num_calls_;  // of each answer, so far
};

Json models_json(const ServedModel& model);
Json model_json(const ServedModel& model);
Json tokenizer_json(const ServedModel& model);  // special tokens and template, under the names that transformers has

}  // namespace qnext
