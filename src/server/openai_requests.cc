#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <random>

#include "server/body_reader.h"
#include "server/openai.h"
#include "server/openai_tools.h"

namespace qnext {
namespace {

constexpr std::int64_t kMaxAnswers = 128, kMaxStops = 4, kMaxTopLogprobs = 20;

ApiError bad_value(const std::string& param, const std::string& message) {
  return {.message = message, .param = param};
}

// What chat and plain completions share.
struct Common {
  std::int64_t num_answers = 1;
  std::optional<std::size_t> max_new_tokens;
  SamplingParams sampling;
  std::vector<std::string> stops;
  bool ignores_stop_tokens = false;
  bool stream = false;
  bool include_usage = false;
  std::optional<AnswerGrammar> grammar;
  std::optional<std::int64_t> thinking_budget;  // tokens; chat only
};

std::vector<LogitBias> read_logit_bias(BodyReader& body, const ServedModel& model) {
  std::vector<LogitBias> out;
  const Json* bias = body.any("logit_bias");
  if (bias == nullptr) return out;
  if (!bias->is_object()) {
    body.fail("logit_bias", "'logit_bias' must be an object of token ids and numbers.");
    return out;
  }
  for (const auto& [key, value] : bias->items()) {
    const bool digits = !key.empty() && key.size() < 10 && key.find_first_not_of("0123456789") == std::string::npos;
    const std::size_t id = digits ? std::stoul(key) : model.vocabulary_tokens;
    if (id >= model.vocabulary_tokens || !value.is_number() || std::abs(value.get<double>()) > 100) {
      body.fail("logit_bias", fmt::format("'logit_bias' must map token ids below {} to numbers from -100 to 100.",
                                          model.vocabulary_tokens));
      return out;
    }
    out.push_back({static_cast<TokenId>(id), value.get<float>()});
  }
  return out;
}

std::vector<std::string> read_stops(BodyReader& body) {
  std::vector<std::string> out;
  const Json* stop = body.any("stop");
  if (stop == nullptr) return out;
  const Json list = stop->is_string() ? Json::array({*stop}) : *stop;
  const bool right = list.is_array() && list.size() <= std::size_t{kMaxStops} &&
                     std::all_of(list.begin(), list.end(), [](const Json& text) {
                       return text.is_string() && !text.get_ref<const std::string&>().empty();
                     });
  if (!right) {
    body.fail("stop",
              fmt::format("'stop' must be a string or a list of at most {} strings, none of them empty.", kMaxStops));
    return out;
  }
  for (const Json& text : list) out.push_back(text.get<std::string>());
  return out;
}

SamplingParams read_sampling(BodyReader& body, const ServedModel& model) {
  SamplingParams out = model.default_sampling;
  const auto set = [&](float& field, const char* key, double lowest, double highest) {
    if (const auto value = body.number(key, lowest, highest)) field = static_cast<float>(*value);
  };
  set(out.temperature, "temperature", 0, 2);
  set(out.top_p, "top_p", 0, 1);
  set(out.min_p, "min_p", 0, 1);
  set(out.presence_penalty, "presence_penalty", -2, 2);
  set(out.frequency_penalty, "frequency_penalty", -2, 2);
  set(out.repetition_penalty, "repetition_penalty", 0.01, 100);
  if (const auto top_k = body.integer("top_k", -1, INT32_MAX)) {
    out.top_k = *top_k < 0 ? 0 : static_cast<std::size_t>(*top_k);  // -1: all, as other servers have it
  }
  out.logit_bias = read_logit_bias(body, model);
  const auto seed = body.integer("seed", INT64_MIN, INT64_MAX);
  out.seed = seed ? static_cast<std::uint64_t>(*seed) : std::random_device{}();
  return out;
}

// OpenAI's response_format.
std::optional<AnswerGrammar> read_response_format(BodyReader& body) {
  const Json* format = body.any("response_format");
  if (format == nullptr) return std::nullopt;
  const Json type = format->is_object() ? format->value("type", Json()) : Json();
  if (type == "text") return std::nullopt;
  if (type == "json_object") return AnswerGrammar{GrammarKind::kJsonObject, "", "response_format"};
  if (type != "json_schema") {
    body.fail("response_format", "'response_format.type' must be 'text', 'json_object' or 'json_schema'.");
    return std::nullopt;
  }
  const Json inner = format->value("json_schema", Json());
  const Json schema = inner.is_object() ? inner.value("schema", Json()) : Json();
  const Json strict = inner.is_object() ? inner.value("strict", Json()) : Json();
  if (!strict.is_null() && !strict.is_boolean()) {  // either way the answer keeps to the schema
    body.fail("response_format.json_schema.strict", "'response_format.json_schema.strict' must be true or false.");
    return std::nullopt;
  }
  if (!schema.is_object() && !schema.is_boolean()) {
    body.fail("response_format.json_schema",
              "'response_format.json_schema' must be an object with a 'schema', itself an object.");
    return std::nullopt;
  }
  return AnswerGrammar{GrammarKind::kJsonSchema, schema.dump(), "response_format.json_schema.schema"};
}

// What the answer must look like: response_format, or vLLM's structured_outputs with one of json, regex, choice,
// grammar.
std::optional<AnswerGrammar> read_grammar(BodyReader& body) {
  std::optional<AnswerGrammar> out = read_response_format(body);
  const Json* wanted = body.any("structured_outputs");
  if (wanted == nullptr) return out;
  const auto fail = [&](const std::string& message) {
    body.fail("structured_outputs", message);
    return std::nullopt;
  };
  if (out) return fail("'structured_outputs' and 'response_format' exclude each other.");
  if (!wanted->is_object() || wanted->size() != 1) {
    return fail("'structured_outputs' must be an object with one of 'json', 'regex', 'choice' and 'grammar'.");
  }
  const std::string key = wanted->begin().key();
  const Json& value = wanted->begin().value();
  const std::string param = "structured_outputs." + key;
  if (key == "json" && (value.is_object() || value.is_boolean() || value.is_string())) {
    return AnswerGrammar{GrammarKind::kJsonSchema, value.is_string() ? value.get<std::string>() : value.dump(), param};
  }
  if (key == "choice" && value.is_array()) return AnswerGrammar{GrammarKind::kChoice, value.dump(), param};
  if (key == "regex" && value.is_string()) return AnswerGrammar{GrammarKind::kRegex, value.get<std::string>(), param};
  if (key == "grammar" && value.is_string()) return AnswerGrammar{GrammarKind::kLark, value.get<std::string>(), param};
  return fail(
      fmt::format("'{}' is none of 'json' (a schema), 'regex' (a text), 'choice' (a list of texts) and 'grammar' (a "
                  "text in Lark's notation), or of another type.",
                  param));
}

Common read_common(BodyReader& body, const ServedModel& model) {
  Common out;
  const auto name = body.text("model");
  if (!name && !body.failed()) body.fail("model", "You must provide a model.");
  out.num_answers = body.integer("n", 1, kMaxAnswers).value_or(1);
  out.sampling = read_sampling(body, model);
  out.stops = read_stops(body);
  out.ignores_stop_tokens = body.flag("ignore_eos").value_or(false);
  out.stream = body.flag("stream").value_or(false);
  if (const Json* options = body.any("stream_options")) {
    BodyReader inner(*options);
    if (!options->is_object()) {
      body.fail("stream_options", "'stream_options' must be an object.");
    } else {
      out.include_usage = inner.flag("include_usage").value_or(false);
      inner.ignore({"include_obfuscation"});
      if (const auto& problem = inner.finish()) body.fail("stream_options." + problem->param, problem->message);
    }
    if (!out.stream) body.fail("stream_options", "'stream_options' is only allowed when 'stream' is true.");
  }
  body.ignore({"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"});
  out.grammar = read_grammar(body);
  return out;
}

// The request's model is ours? Asked before anything else is said about the body.
std::optional<ApiError> check_model(const Json& body, const ServedModel& model) {
  const auto name = body.find("model");
  if (name == body.end() || !name->is_string() || serves(model, name->get<std::string>())) return std::nullopt;
  return model_not_found(name->get<std::string>());
}

// The token that this text is, if it is one.
std::optional<TokenId> token_of(const Tokenizer& tokenizer, std::string_view text) {
  const auto ids = tokenizer.encode(text);
  return ids.ok() && ids->size() == 1 ? std::optional(ids->front()) : std::nullopt;
}

// Null when anything may be said.
Result<std::shared_ptr<TokenConstraint>> make_constraint(const Common& common, AnswerParts parts,
                                                         const ServedModel& model) {
  if (!common.grammar && !common.thinking_budget) return std::shared_ptr<TokenConstraint>();
  ThinkingRule thinking{.is_inside = parts == AnswerParts::kStartsInReasoning};
  if (parts != AnswerParts::kContentOnly) {
    thinking.begin = token_of(model.tokenizer, "<think>");
    thinking.end = token_of(model.tokenizer, "</think>");
  }
  if (common.thinking_budget) thinking.budget = static_cast<std::size_t>(*common.thinking_budget);
  return model.grammars->make(common.grammar, thinking);
}

std::optional<ApiError> check_num_answers(std::size_t count, const ServedModel& model) {
  if (count <= model.max_answers) return std::nullopt;
  return bad_value(
      "n", fmt::format("This asks for {} answers at once; the server holds at most {}.", count, model.max_answers));
}

// Answers to one prompt, `num_answers` of them, with seeds one after the other.
std::optional<ApiError> add_answers(PreparedRequest& out, std::vector<TokenId> prompt, const Common& common,
                                    const PreparedAnswer& like, const ServedModel& model, const std::string& param) {
  if (prompt.empty()) return bad_value(param, "The prompt is empty.");
  if (prompt.size() >= model.context_tokens) {
    ApiError error = bad_value(param, fmt::format("The prompt has {} tokens; the context holds {}, answer included.",
                                                  prompt.size(), model.context_tokens));
    error.code = "context_length_exceeded";
    return error;
  }
  out.num_prompt_tokens += prompt.size();
  const std::size_t room = model.context_tokens - prompt.size();
  for (std::int64_t i = 0; i < common.num_answers; ++i) {
    PreparedAnswer answer = like;
    answer.request.prompt = prompt;
    answer.request.num_lasting_tokens = count_lasting_tokens(prompt, model.stop_token_ids);
    answer.repeats_prompt = i > 0;
    answer.request.max_new_tokens = std::min(room, common.max_new_tokens.value_or(room));
    answer.request.sampling = common.sampling;
    answer.request.sampling.seed += static_cast<std::uint64_t>(i);
    if (!common.ignores_stop_tokens) answer.request.stop_token_ids = model.stop_token_ids;
    answer.stops = common.stops;
    auto constraint = make_constraint(common, like.parts, model);
    if (!constraint.ok()) {
      return bad_value(common.grammar ? common.grammar->param : "thinking_budget", constraint.message());
    }
    answer.request.constraint = std::move(constraint).value();
    if (const Status status = check_request(answer.request, model.vocabulary_tokens); !status.ok()) {
      return bad_value("", status.message());
    }
    out.answers.push_back(std::move(answer));
  }
  return std::nullopt;
}

// ---- Chat ----

// Text, or a list of text parts, as one text.
std::variant<std::string, ApiError> content_text(const Json& content, const std::string& where) {
  if (content.is_null()) return "";
  if (content.is_string()) return content.get<std::string>();
  if (!content.is_array()) return bad_value(where, fmt::format("'{}' must be a string or a list of parts.", where));
  std::string out;
  for (std::size_t i = 0; i < content.size(); ++i) {
    const Json& part = content[i];
    if (!part.is_object() || part.value("type", Json()) != "text" || !part.value("text", Json()).is_string()) {
      return bad_value(fmt::format("{}[{}]", where, i), "Only parts of type 'text' are supported.");
    }
    out += part["text"].get<std::string>();
  }
  return out;
}

// An assistant's calls as templates take them: arguments as an object where they are one.
std::variant<Json, ApiError> template_tool_calls(const Json& calls, const std::string& where) {
  if (!calls.is_array()) return bad_value(where, fmt::format("'{}' must be a list.", where));
  Json out = Json::array();
  for (const Json& call : calls) {
    const Json function = call.is_object() ? call.value("function", Json()) : Json();
    const Json name = function.is_object() ? function.value("name", Json()) : Json();
    const Json arguments = function.is_object() ? function.value("arguments", Json("{}")) : Json();
    if (!name.is_string() || !arguments.is_string()) {
      return bad_value(where,
                       fmt::format("'{}' must be calls with 'function.name' and 'function.arguments', texts.", where));
    }
    const ParsedBody parsed = parse_body(arguments.get<std::string>());
    const bool is_object = !parsed.error && parsed.json.is_object();
    out.push_back(
        {{"type", "function"}, {"function", {{"name", name}, {"arguments", is_object ? parsed.json : arguments}}}});
  }
  return out;
}

// The messages as chat templates take them: roles that they know, content as one text.
std::variant<Json, ApiError> template_messages(const Json* messages) {
  if (messages == nullptr) return bad_value("messages", "You must provide 'messages'.");
  if (!messages->is_array() || messages->empty()) {
    return bad_value("messages", "'messages' must be a list with at least one message.");
  }
  Json out = Json::array();
  for (std::size_t i = 0; i < messages->size(); ++i) {
    const Json& message = (*messages)[i];
    const std::string where = fmt::format("messages[{}]", i);
    if (!message.is_object()) return bad_value(where, fmt::format("'{}' must be an object.", where));
    std::string role = message.value("role", Json()).is_string() ? message["role"].get<std::string>() : "";
    if (role == "developer") role = "system";
    if (role != "system" && role != "user" && role != "assistant" && role != "tool") {
      return bad_value(where + ".role",
                       fmt::format("'{}.role' must be system, developer, user, assistant or tool.", where));
    }
    auto content = content_text(message.value("content", Json()), where + ".content");
    if (const auto* error = std::get_if<ApiError>(&content)) return *error;
    Json entry = {{"role", role}, {"content", std::get<std::string>(content)}};
    if (const Json reasoning = message.value("reasoning_content", Json()); reasoning.is_string()) {
      entry["reasoning_content"] = reasoning;
    }
    if (const Json calls = message.value("tool_calls", Json()); role == "assistant" && !calls.is_null()) {
      auto template_calls = template_tool_calls(calls, where + ".tool_calls");
      if (const auto* error = std::get_if<ApiError>(&template_calls)) return *error;
      entry["tool_calls"] = std::get<Json>(std::move(template_calls));
    }
    out.push_back(std::move(entry));
  }
  return out;
}

// Reads 'messages' and what goes into the template beside them.
std::variant<std::string, ApiError> render(BodyReader& body, const ServedModel& model, const std::string& tools) {
  const auto messages = template_messages(body.any("messages"));
  Json variables = Json::object();
  if (const Json* kwargs = body.any("chat_template_kwargs")) {
    if (!kwargs->is_object()) return bad_value("chat_template_kwargs", "'chat_template_kwargs' must be an object.");
    variables = *kwargs;
  }
  if (const auto effort = body.text("reasoning_effort")) {
    if (*effort != "none" && *effort != "minimal" && *effort != "low" && *effort != "medium" && *effort != "high") {
      return bad_value("reasoning_effort", "'reasoning_effort' must be none, minimal, low, medium or high.");
    }
    if (!variables.contains("enable_thinking")) variables["enable_thinking"] = *effort != "none";
  }
  if (const auto* error = std::get_if<ApiError>(&messages)) return *error;
  if (!model.chat_template) return bad_value("messages", "This model has no chat template; use /v1/completions.");
  const std::string messages_text = json_text(std::get<Json>(messages)), variables_text = json_text(variables);
  auto text = model.chat_template->render({.messages = messages_text,
                                           .tools = tools,
                                           .variables = variables_text,
                                           .bos_token = model.bos_token,
                                           .eos_token = model.eos_token});
  if (!text.ok()) return bad_value("messages", text.message());
  return std::move(text).value();
}

void read_chat_limits(BodyReader& body, Common& common, PreparedAnswer& like) {
  const auto longest = static_cast<std::int64_t>(INT32_MAX);
  const auto old_name = body.integer("max_tokens", 1, longest);
  const auto new_name = body.integer("max_completion_tokens", 1, longest);
  if (const auto limit = new_name ? new_name : old_name) common.max_new_tokens = static_cast<std::size_t>(*limit);
  const bool wants = body.flag("logprobs").value_or(false);
  const auto top = body.integer("top_logprobs", 0, kMaxTopLogprobs);
  if (top && *top > 0 && !wants) body.fail("top_logprobs", "'top_logprobs' needs 'logprobs' to be true.");
  if (wants) like.request.num_logprobs = static_cast<std::size_t>(top.value_or(0));
}

// ---- Completions ----

// A text, a list of texts, a list of ids or a list of such lists.
std::variant<std::vector<std::vector<TokenId>>, ApiError> read_prompts(const Json* prompt, const ServedModel& model,
                                                                       std::vector<std::string>& texts) {
  const ApiError wrong = bad_value(
      "prompt",
      fmt::format(
          "'prompt' must be a string, a list of strings, a list of token ids below {}, or a list of such lists.",
          model.vocabulary_tokens));
  if (prompt == nullptr || prompt->empty()) return wrong;
  const bool is_one = !prompt->is_array() || (*prompt)[0].is_number();
  const Json list = is_one ? Json::array({*prompt}) : *prompt;
  std::vector<std::vector<TokenId>> out;
  for (const Json& entry : list) {
    if (entry.is_string()) {
      auto ids = model.tokenizer.encode(entry.get<std::string>(), {.add_special = true});
      if (!ids.ok()) return bad_value("prompt", ids.message());
      out.push_back(std::move(ids).value());
      texts.push_back(entry.get<std::string>());
      continue;
    }
    if (!entry.is_array()) return wrong;
    std::vector<TokenId> ids;
    for (const Json& id : entry) {
      if (!id.is_number_unsigned() || id.get<std::uint64_t>() >= model.vocabulary_tokens) return wrong;
      ids.push_back(id.get<TokenId>());
    }
    const auto text = model.tokenizer.decode(ids);
    texts.push_back(text.ok() ? *text : "");
    out.push_back(std::move(ids));
  }
  if (out.size() > std::size_t{kMaxAnswers})
    return bad_value("prompt", fmt::format("At most {} prompts.", kMaxAnswers));
  return out;
}

}  // namespace

bool serves(const ServedModel& model, const std::string& name) {
  const auto is = [&](const std::string& wanted) {
    return wanted == model.name || std::find(model.aliases.begin(), model.aliases.end(), wanted) != model.aliases.end();
  };
  return is(name) || is(name.substr(0, name.rfind(':')));  // "owner/name:provider", as a router is asked
}

ApiError model_not_found(const std::string& name) {
  return {.status = 404,
          .message = fmt::format("The model '{}' does not exist. GET /v1/models lists what is served.", name),
          .param = "model",
          .code = "model_not_found"};
}

Prepared prepare_chat(const Json& json, const ServedModel& model) {
  if (const auto error = check_model(json, model)) return *error;
  BodyReader body(json);
  Common common = read_common(body, model);
  common.thinking_budget = body.integer("thinking_budget", 0, INT32_MAX);
  PreparedAnswer like;
  read_chat_limits(body, common, like);
  ToolRequest tools = read_tool_request(body);
  const auto text = render(body, model, tools.template_tools);
  if (const auto* prompt = std::get_if<std::string>(&text)) {
    like.parts = opens_reasoning(*prompt) ? AnswerParts::kStartsInReasoning : AnswerParts::kReasoningFirst;
  }
  const bool may_think = like.parts == AnswerParts::kReasoningFirst && token_of(model.tokenizer, "<think>") &&
                         token_of(model.tokenizer, "</think>");
  common.grammar = join_grammars(body, std::move(common.grammar), tools, may_think);
  like.tool_use = std::move(tools.use);
  if (const auto& error = body.finish()) return *error;
  if (const auto* error = std::get_if<ApiError>(&text)) return *error;
  const std::string& prompt = std::get<std::string>(text);
  auto ids = model.tokenizer.encode(prompt);
  if (!ids.ok()) return bad_value("messages", ids.message());
  if (const auto error = check_num_answers(static_cast<std::size_t>(common.num_answers), model)) return *error;
  PreparedRequest out{.is_chat = true, .stream = common.stream, .include_usage = common.include_usage};
  if (const auto error = add_answers(out, std::move(ids).value(), common, like, model, "messages")) return *error;
  return out;
}

Prepared prepare_completion(const Json& json, const ServedModel& model) {
  if (const auto error = check_model(json, model)) return *error;
  BodyReader body(json);
  Common common = read_common(body, model);
  common.max_new_tokens = static_cast<std::size_t>(body.integer("max_tokens", 0, INT32_MAX).value_or(16));
  PreparedAnswer like;
  if (const auto count = body.integer("logprobs", 0, kMaxTopLogprobs)) {
    like.request.num_logprobs = static_cast<std::size_t>(*count);
  }
  const bool echo = body.flag("echo").value_or(false);
  like.request.reports_prompt = echo && like.request.num_logprobs;
  if (common.max_new_tokens == 0U && !echo) body.fail("max_tokens", "'max_tokens' may be 0 only where 'echo' is true.");
  if (const auto best_of = body.integer("best_of", 1, kMaxAnswers); best_of && *best_of != common.num_answers) {
    body.fail("best_of", "'best_of' is not supported, unless it is 'n'.");
  }
  body.refuse("suffix", "is not supported: the model does not fill in the middle.");
  std::vector<std::string> texts;
  const auto prompts = read_prompts(body.any("prompt"), model, texts);
  if (const auto& error = body.finish()) return *error;
  if (const auto* error = std::get_if<ApiError>(&prompts)) return *error;
  PreparedRequest out{.is_chat = false, .stream = common.stream, .include_usage = common.include_usage};
  const auto& ids = std::get<0>(prompts);
  if (const auto error = check_num_answers(ids.size() * static_cast<std::size_t>(common.num_answers), model)) {
    return *error;
  }
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (echo) like.echo = texts[i];
    if (const auto error = add_answers(out, ids[i], common, like, model, "prompt")) return *error;
  }
  return out;
}

std::variant<std::string, ApiError> render_chat(const Json& json, const ServedModel& model) {
  BodyReader body(json);
  body.ignore({"model"});
  auto text = render(body, model, read_tool_request(body).template_tools);
  if (const auto& error = body.finish()) return *error;
  return text;
}

}  // namespace qnext
