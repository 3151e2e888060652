#include "train_apps/rollouts.h"

#include <algorithm>
#include <cctype>

#include "apps/console.h"
#include "apps/load_model.h"
#include "base/split_mix.h"
#include "engine/engine.h"
#include "tensor/atomic_file.h"
#include "train/chat_documents.h"
#include "train/network_files.h"
#include "train/token_shard.h"
#include "train_apps/text_source.h"

namespace qnext {
namespace {

using train::Rollout;

constexpr std::size_t kMaxSequences = 64;  // that run at once
constexpr std::string_view kThoughtsEnd = "</think>";

std::string_view last_line(std::string_view text) {
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back())) != 0) text.remove_suffix(1);
  const std::size_t line = text.rfind('\n');
  return line == std::string_view::npos ? text : text.substr(line + 1);
}

// Behind the thoughts, the lines that begin with `form`; the last line where it is empty.
std::string answer_lines(std::string_view text, std::string_view form) {
  if (form.empty()) return std::string(last_line(text));
  const std::size_t end = text.rfind(kThoughtsEnd);
  if (end != std::string_view::npos) text.remove_prefix(end);
  std::string lines;
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find('\n'));
    if (line.starts_with(form)) lines.append(line).append("\n");
    text.remove_prefix(std::min(text.size(), line.size() + 1));
  }
  return lines;
}

// "1,850 hours, 40" has 1850 and 40.
std::vector<std::string> numbers_in(std::string_view text) {
  std::vector<std::string> out;
  bool inside = false;
  for (char c : text) {
    const bool digit = std::isdigit(static_cast<unsigned char>(c)) != 0;
    if (digit && !inside) out.emplace_back();
    if (digit) out.back() += c;
    inside = digit || (inside && c == ',');
  }
  return out;
}

// Tokens and log-probabilities as the engine tells them.
void take(const Event& event, Rollout& rollout) {
  if (const auto* token = std::get_if<TokenEvent>(&event.what)) {
    rollout.tokens.push_back(token->token_id);
    rollout.logprobs.push_back(token->logprob.value_or(0));
    return;
  }
  const auto& finish = std::get<FinishEvent>(event.what);
  if (finish.stop_token_id) rollout.tokens.push_back(*finish.stop_token_id);
}

}  // namespace

double answer_reward(std::string_view answer, bool ended, std::string_view reference, double format_reward) {
  const std::string_view last = last_line(reference);
  const std::size_t colon = last.find(':');
  const std::string_view form = colon == std::string_view::npos ? "" : last.substr(0, colon + 1);
  const std::string said = answer_lines(answer, form), wanted = answer_lines(reference, form);
  if (!ended || said.empty()) return 0;
  return numbers_in(said) == numbers_in(wanted) ? 1 : format_reward;
}

Result<PolicySampler> PolicySampler::make(const train::Recipe& recipe, const std::filesystem::path& folder,
                                          std::size_t num_threads) {
  PolicySampler out;
  out.recipe_ = recipe;
  out.folder_ = folder;
  out.options_.num_threads = num_threads;
  out.options_.pack_cache = "none";
  QN_TRY(out.machine_, make_machine(out.options_));
  out.ops_ = std::make_unique<Ops>(*out.machine_.table, *out.machine_.pool);
  QN_TRY(out.files_, load_text_files(recipe.tokenizer.parent_path().string()));
  std::error_code failure;
  std::filesystem::create_directories(folder, failure);
  if (failure) return error("{}: cannot make the folder: {}", folder.string(), failure.message());
  QN_RETURN_IF_ERROR(write_file(folder / "config.json", recipe.model_json));
  QN_RETURN_IF_ERROR(out.load_prompts());
  return out;
}

Status PolicySampler::load_prompts() {
  const std::string where = recipe_.tokenizer.string();
  QN_TRY(const Tokenizer* tokenizer, require_tokenizer(files_, where));
  if (!files_.chat_template) return error("{}: gspo needs a chat_template.jinja beside it", where);
  if (files_.generation.stop_token_ids.empty()) {
    return error("{}: gspo needs a generation_config.json beside it, whose eos_token_id ends an answer", where);
  }
  const train::ChatFormat format{std::move(*files_.chat_template), files_.bos_token, files_.eos_token};
  std::vector<PolicyPrompt> found;
  const auto add = [&](const SourceDocument& source) -> Status {
    const auto documents = train::chat_documents(format, source.messages);
    if (!documents.ok()) return error("{}: {}", source.where, documents.message());
    std::string asked;
    const train::TextDocument& document = documents->back();
    std::size_t answer = document.size() - 1;
    while (!document[answer].learned) --answer;
    for (std::size_t i = 0; i < answer; ++i) asked += document[i].text;
    QN_TRY(std::vector<TokenId> tokens, tokenizer->encode(asked));
    if (std::ssize(tokens) >= recipe_.context_tokens) {
      return error("{}: its prompt has {} tokens; expected fewer than context_tokens {}", source.where, tokens.size(),
                   recipe_.context_tokens);
    }
    found.push_back({std::move(tokens), document[answer].text});
    return success();
  };
  for (const auto& path : recipe_.data) QN_RETURN_IF_ERROR(for_each_document(path.string(), add));
  if (found.empty()) return error("{}: there is no conversation in it", recipe_.data.front().string());
  for (std::int64_t i : train::uniform_order(std::ssize(found), recipe_.seed)) {
    prompts_.push_back(std::move(found[static_cast<std::size_t>(i)]));
  }
  return success();
}

const PolicyPrompt& PolicySampler::prompt_of(std::int64_t step, std::int64_t idx) const {
  const auto number = static_cast<std::size_t>(step * recipe_.gspo->prompts_per_step + idx);
  return prompts_[number % prompts_.size()];
}

Result<std::vector<Rollout>> PolicySampler::sample(const train::Network& network, std::int64_t step) const {
  const train::GspoParams& gspo = *recipe_.gspo;
  QN_RETURN_IF_ERROR(train::export_weights(network.weights(), DType::kF32, folder_));
  QN_TRY(const auto model, load_model(folder_.string(), *ops_, options_));
  const auto count = static_cast<std::size_t>(gspo.prompts_per_step * gspo.group);
  QN_TRY(const auto engine, Engine::make(*model, *ops_,
                                         {.context_tokens = static_cast<std::size_t>(recipe_.context_tokens),
                                          .num_sequences = std::min(count, kMaxSequences),
                                          .max_waiting = count}));
  std::vector<Rollout> rollouts(count);
  std::vector<RequestId> ids;
  SplitMix seeds(mixed(recipe_.seed) + static_cast<std::uint64_t>(step));
  for (std::size_t i = 0; i < count; ++i) {
    const PolicyPrompt& prompt = prompt_of(step, static_cast<std::int64_t>(i) / gspo.group);
    rollouts[i].tokens = prompt.tokens;
    rollouts[i].num_prompt_tokens = std::ssize(prompt.tokens);
    Request request{.prompt = prompt.tokens,
                    .max_new_tokens = static_cast<std::size_t>(gspo.max_new_tokens),
                    .sampling = {.temperature = static_cast<float>(gspo.temperature), .seed = seeds.next()},
                    .stop_token_ids = files_.generation.stop_token_ids,
                    .num_logprobs = 0};
    QN_TRY(const RequestId id, engine->submit(std::move(request)));
    ids.push_back(id);
  }
  while (!engine->idle()) {
    for (const Event& event : engine->step()) {
      const auto idx = static_cast<std::size_t>(std::ranges::find(ids, event.request_id) - ids.begin());
      take(event, rollouts[idx]);
    }
    if (interrupted()) return std::vector<Rollout>();
  }
  QN_RETURN_IF_ERROR(judge(rollouts, step));
  return rollouts;
}

// Rewards, and advantages within each group.
Status PolicySampler::judge(std::vector<Rollout>& rollouts, std::int64_t step) const {
  const auto group = static_cast<std::size_t>(recipe_.gspo->group);
  std::vector<double> rewards;
  for (std::size_t i = 0; i < rollouts.size(); ++i) {
    Rollout& rollout = rollouts[i];
    auto answer = std::span(rollout.tokens).subspan(static_cast<std::size_t>(rollout.num_prompt_tokens));
    if (rollout.ended()) answer = answer.first(answer.size() - 1);
    QN_TRY(const std::string text, files_.tokenizer->decode(answer));
    rollout.reward =
        answer_reward(text, rollout.ended(), prompt_of(step, static_cast<std::int64_t>(i / group)).reference,
                      recipe_.gspo->format_reward);
    rewards.push_back(rollout.reward);
    if (rewards.size() < group) continue;
    const std::vector<double> advantages = train::group_advantages(rewards);
    for (std::size_t k = 0; k < group; ++k) rollouts[i + 1 - group + k].advantage = advantages[k];
    rewards.clear();
  }
  return success();
}

}  // namespace qnext
