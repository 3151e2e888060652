#include "server/openai.h"

namespace qnext {
namespace {

std::size_t num_characters(const std::string& text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

}  // namespace

Json usage_json(const Usage& usage) {
  return {
      {"prompt_tokens", usage.prompt_tokens},
      {"completion_tokens", usage.completion_tokens},
      {"total_tokens", usage.prompt_tokens + usage.completion_tokens},
      {"prompt_tokens_details", {{"cached_tokens", usage.cached_tokens}}},
      {"completion_tokens_details",
       {{"accepted_prediction_tokens", usage.accepted_tokens}, {"rejected_prediction_tokens", usage.rejected_tokens}}}};
}

AnswerWriter::AnswerWriter(const ServedModel& model, const PreparedRequest& request, std::string id,
                           std::int64_t created_s)
    : model_(model),
      request_(request),
      id_(std::move(id)),
      created_s_(created_s),
      offsets_(request.answers.size()),
      num_calls_(request.answers.size()) {
  for (std::size_t i = 0; i < offsets_.size(); ++i) {
    const PreparedAnswer& answer = request.answers[i];
    offsets_[i] = answer.request.reports_prompt ? 0 : num_characters(answer.echo);  // which then has tokens of its own
  }
}

Json AnswerWriter::envelope(const char* object) const {
  return {{"id", id_}, {"object", object}, {"created", created_s_}, {"model", model_.name}};
}

Json AnswerWriter::chat_logprob(TokenId id, float logprob) const {
  const std::string bytes(model_.tokenizer.token_bytes(id));
  Json numbers = Json::array();
  for (const char c : bytes) numbers.push_back(static_cast<unsigned char>(c));
  return {{"token", bytes}, {"logprob", logprob}, {"bytes", std::move(numbers)}};
}

Json AnswerWriter::logprobs_json(std::size_t index, const std::vector<AnswerToken>& tokens) {
  if (!request_.answers[index].request.num_logprobs) return nullptr;
  if (request_.is_chat) {
    Json content = Json::array();
    for (const AnswerToken& token : tokens) {
      Json entry = chat_logprob(token.token_id, token.logprob.value_or(0));
      entry["top_logprobs"] = Json::array();
      for (const TokenLogprob& top : token.top_logprobs) {
        entry["top_logprobs"].push_back(chat_logprob(top.token_id, top.logprob));
      }
      content.push_back(std::move(entry));
    }
    return {{"content", std::move(content)}};
  }
  Json texts = Json::array(), logprobs = Json::array(), tops = Json::array(), offsets = Json::array();
  for (const AnswerToken& token : tokens) {
    const std::string bytes(model_.tokenizer.token_bytes(token.token_id));
    texts.push_back(bytes);
    logprobs.push_back(token.logprob ? Json(*token.logprob) : Json());
    offsets.push_back(offsets_[index]);
    offsets_[index] += num_characters(bytes);
    Json top = Json::object();
    for (const TokenLogprob& one : token.top_logprobs) {
      top[std::string(model_.tokenizer.token_bytes(one.token_id))] = one.logprob;
    }
    tops.push_back(token.logprob ? std::move(top) : Json());
  }
  return {{"tokens", texts}, {"token_logprobs", logprobs}, {"top_logprobs", tops}, {"text_offset", offsets}};
}

// Calls have ids that are unique to the request. A delta says which call it belongs to; what goes on with one has no
// more than that and more arguments.
Json AnswerWriter::calls_json(std::size_t index, const std::vector<ToolCall>& calls, bool is_delta) {
  Json out = Json::array();
  for (const ToolCall& call : calls) {
    if (call.name.empty()) {
      out.push_back({{"index", num_calls_[index] - 1}, {"function", {{"arguments", call.arguments}}}});
      continue;
    }
    const std::size_t number = num_calls_[index]++;
    Json entry = {{"id", fmt::format("call_{}_{}_{}", id_, index, number)},
                  {"type", "function"},
                  {"function", {{"name", call.name}, {"arguments", call.arguments}}}};
    if (is_delta) entry["index"] = number;
    out.push_back(std::move(entry));
  }
  return out;
}

Json AnswerWriter::whole(const std::vector<FinishedAnswer>& answers, const Usage& usage) {
  Json out = envelope(request_.is_chat ? "chat.completion" : "text_completion");
  Json choices = Json::array();
  for (std::size_t i = 0; i < answers.size(); ++i) {
    Json choice = {{"index", i}};
    if (request_.is_chat) {
      Json message = {{"role", "assistant"}, {"content", answers[i].text.content}, {"refusal", nullptr}};
      if (!answers[i].text.reasoning.empty()) message["reasoning_content"] = answers[i].text.reasoning;
      if (!answers[i].text.calls.empty()) {
        message["tool_calls"] = calls_json(i, answers[i].text.calls, /*is_delta=*/false);
        if (answers[i].text.content.empty()) message["content"] = nullptr;
      }
      choice["message"] = std::move(message);
    } else {
      choice["text"] = request_.answers[i].echo + answers[i].text.content;
    }
    choice["logprobs"] = logprobs_json(i, answers[i].tokens);
    choice["finish_reason"] = answers[i].finish_reason;
    choices.push_back(std::move(choice));
  }
  out["choices"] = std::move(choices);
  out["usage"] = usage_json(usage);
  return out;
}

Json AnswerWriter::chunk(Json choice) const {
  Json out = envelope(request_.is_chat ? "chat.completion.chunk" : "text_completion");
  out["choices"] = Json::array({std::move(choice)});
  if (request_.include_usage) out["usage"] = nullptr;
  return out;
}

Json AnswerWriter::first_chunk(std::size_t index) const {
  if (!request_.is_chat) {
    return chunk(
        {{"index", index}, {"text", request_.answers[index].echo}, {"logprobs", nullptr}, {"finish_reason", nullptr}});
  }
  return chunk({{"index", index},
                {"delta", {{"role", "assistant"}, {"content", ""}}},
                {"logprobs", nullptr},
                {"finish_reason", nullptr}});
}

Json AnswerWriter::delta_chunk(std::size_t index, const TextDelta& delta, const std::vector<AnswerToken>& tokens) {
  Json choice = {{"index", index}};
  if (request_.is_chat) {
    Json text = Json::object();
    if (!delta.reasoning.empty()) text["reasoning_content"] = delta.reasoning;
    if (!delta.content.empty()) text["content"] = delta.content;
    if (!delta.calls.empty()) text["tool_calls"] = calls_json(index, delta.calls, /*is_delta=*/true);
    choice["delta"] = std::move(text);
  } else {
    choice["text"] = delta.content;
  }
  choice["logprobs"] = logprobs_json(index, tokens);
  choice["finish_reason"] = nullptr;
  return chunk(std::move(choice));
}

Json AnswerWriter::last_chunk(std::size_t index, const std::string& finish_reason) const {
  Json choice = {{"index", index}};
  if (request_.is_chat) {
    choice["delta"] = Json::object();
  } else {
    choice["text"] = "";
  }
  choice["logprobs"] = nullptr;
  choice["finish_reason"] = finish_reason;
  return chunk(std::move(choice));
}

Json AnswerWriter::usage_chunk(const Usage& usage) const {
  Json out = envelope(request_.is_chat ? "chat.completion.chunk" : "text_completion");
  out["choices"] = Json::array();
  out["usage"] = usage_json(usage);
  return out;
}

Json model_json(const ServedModel& model) {
  return {{"id", model.name},
          {"object", "model"},
          {"created", model.created_s},
          {"owned_by", "qnext"},
          {"context_length", model.context_tokens}};
}

Json tokenizer_json(const ServedModel& model) {
  const auto text_or_null = [](const std::string& text) { return text.empty() ? Json() : Json(text); };
  return {{"bos_token", text_or_null(model.bos_token)},
          {"eos_token", text_or_null(model.eos_token)},
          {"chat_template", text_or_null(model.chat_template_source)},
          {"model_max_length", model.context_tokens}};
}

Json models_json(const ServedModel& model) {
  return {{"object", "list"}, {"data", Json::array({model_json(model)})}};
}

}  // namespace qnext
