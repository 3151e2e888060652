#include "train/recipe.h"

#include <fmt/ranges.h>

#include <nlohmann/json.hpp>
#include <set>

namespace qnext::train {
namespace {

using Json = nlohmann::ordered_json;

// Takes fields out of one JSON object; remembers the first thing that was wrong, and knows what nobody asked for.
class Fields {
 public:
  Fields(const Json& object, std::string where) : object_(object), where_(std::move(where)) {}

  void integer(const char* name, std::int64_t& out, std::int64_t low, std::int64_t high, bool required = false) {
    const Json* value = take(name, required);
    if (value == nullptr) return;
    if (!value->is_number_integer()) return fail(name, "an integer", *value);
    const auto number = value->get<std::int64_t>();
    if (number < low || number > high) return fail(name, fmt::format("{} to {}", low, high), *value);
    out = number;
  }
  void number(const char* name, double& out, double low, double high, bool required = false) {
    const Json* value = take(name, required);
    if (value == nullptr) return;
    if (!value->is_number()) return fail(name, "a number", *value);
    const auto found = value->get<double>();
    if (!(found >= low && found <= high)) return fail(name, fmt::format("{} to {}", low, high), *value);
    out = found;
  }
  void flag(const char* name, bool& out) {
    const Json* value = take(name, false);
    if (value == nullptr) return;
    if (!value->is_boolean()) return fail(name, "true or false", *value);
    out = value->get<bool>();
  }
  void text(const char* name, std::string& out, bool required = false) {
    const Json* value = take(name, required);
    if (value == nullptr) return;
    if (!value->is_string()) return fail(name, "a string", *value);
    out = value->get<std::string>();
  }
  void texts(const char* name, std::vector<std::string>& out) {
    const Json* value = take(name, true);
    if (value == nullptr) return;
    if (!value->is_array() || value->empty()) return fail(name, "a list of one string or more", *value);
    for (const Json& item : *value) {
      if (!item.is_string()) return fail(name, "strings", item);
      out.push_back(item.get<std::string>());
    }
  }
  // One of `names`; `out` becomes its position.
  void choice(const char* name, std::initializer_list<const char*> names, int& out) {
    std::string found;
    const bool given = object_.contains(name);
    text(name, found);
    if (!given || failed()) return;
    int position = 0;
    for (const char* candidate : names) {
      if (found == candidate) {
        out = position;
        return;
      }
      ++position;
    }
    fail(name, fmt::format("one of {}", fmt::join(names.begin(), names.end(), ", ")), found);
  }
  const Json* object(const char* name, bool required = false) {
    const Json* value = take(name, required);
    if (value == nullptr) return nullptr;
    if (value->is_object()) return value;
    fail(name, "an object", *value);
    return nullptr;
  }

  bool failed() const { return !problem_.empty(); }
  Status finish() {
    for (const auto& [name, value] : object_.items()) {
      if (!failed() && !taken_.contains(name)) {
        problem_ = fmt::format("{}: unknown field \"{}\"; known here: {}", where_, name, fmt::join(taken_, ", "));
      }
    }
    if (failed()) return Error{problem_};
    return success();
  }

 private:
  const Json* take(const char* name, bool required) {
    taken_.insert(name);
    if (object_.contains(name)) return &object_[name];
    if (required && !failed()) problem_ = fmt::format("{}: field \"{}\" is missing", where_, name);
    return nullptr;
  }
  void fail(const char* name, const std::string& expected, const Json& found) {
    if (failed()) return;
    const std::string shown = found.dump(-1, ' ', false, Json::error_handler_t::replace).substr(0, 60);
    problem_ = fmt::format("{}: {}: expected {}, found {}", where_, name, expected, shown);
  }

  const Json& object_;
  std::string where_;
  std::set<std::string> taken_;
  std::string problem_;
};

constexpr std::int64_t kMaxTokens = std::int64_t{1} << 30;
constexpr std::int64_t kDefaultPolicyTokens = 8192;

Status read_schedule(const Json& object, const std::string& where, Schedule& out) {
  Fields fields(object, where);
  int kind = 0;
  fields.choice("kind", {"wsd", "cosine"}, kind);
  out.kind = kind == 0 ? ScheduleKind::kWarmupStableDecay : ScheduleKind::kCosine;
  fields.integer("warmup_steps", out.warmup_steps, 0, kMaxTokens);
  fields.number("learning_rate", out.peak, 0, 10, true);
  fields.number("final_share", out.final_share, 0, 1);
  fields.number("decay_share", out.decay_share, 0, 1);
  return fields.finish();
}

Status read_adamw(const Json& object, const std::string& where, Recipe& out) {
  Fields fields(object, where);
  fields.number("beta1", out.adamw.beta1, 0, 0.999999);
  fields.number("beta2", out.adamw.beta2, 0, 0.999999);
  fields.number("eps", out.adamw.eps, 1e-30, 1);
  fields.number("weight_decay", out.adamw.weight_decay, 0, 10);
  fields.flag("decay_norms", out.adamw.decay_norms);
  fields.number("clip", out.clip, 1e-6, 1e6);
  return fields.finish();
}

Status read_balance(const Json& object, const std::string& where, Recipe& out) {
  Fields fields(object, where);
  int scope = 0;
  fields.number("weight", out.balance.weight, 0, 100);
  fields.choice("scope", {"global_batch", "micro_batch", "sequence"}, scope);  // in the order of BalanceScope
  out.balance.scope = static_cast<BalanceScope>(scope);
  fields.number("z_weight", out.balance.z_weight, 0, 100);
  fields.flag("balanced_router", out.balanced_router);
  return fields.finish();
}

Status read_mtp(const Json& object, const std::string& where, Recipe& out) {
  Fields fields(object, where);
  fields.integer("steps", out.mtp_steps, 0, 16);
  fields.number("weight", out.mtp_weight, 0, 100);
  fields.number("decay", out.mtp_decay, 0, 1);
  return fields.finish();
}

Status read_gspo(const Json& object, const std::string& where, GspoParams& out) {
  constexpr std::int64_t kMostAnswers = 1 << 16;
  Fields fields(object, where);
  fields.integer("prompts_per_step", out.prompts_per_step, 1, kMostAnswers);
  fields.integer("group", out.group, 2, kMostAnswers);
  fields.integer("updates", out.updates, 1, kMostAnswers);
  fields.number("clip_low", out.clip_low, 0, 1);
  fields.number("clip_high", out.clip_high, 0, 1);
  fields.number("temperature", out.temperature, 0.01, 100);
  fields.integer("max_new_tokens", out.max_new_tokens, 1, kMaxTokens);
  fields.number("format_reward", out.format_reward, 0, 0.99);
  return fields.finish();
}

}  // namespace

Result<Recipe> parse_recipe(const std::string& text, const std::string& file, const std::filesystem::path& folder) {
  const Json root = Json::parse(text, nullptr, /*allow_exceptions=*/false, /*ignore_comments=*/true);
  if (!root.is_object()) return error("{}: expected a recipe, one JSON object (docs/training.md)", file);
  Recipe out;
  out.text = text;
  Fields fields(root, file);
  std::string tokenizer, init_from;
  std::vector<std::string> data;
  std::int64_t seed = 0;
  const Json* model = fields.object("model", true);
  fields.text("tokenizer", tokenizer, true);
  fields.texts("data", data);
  fields.text("init_from", init_from);
  fields.integer("seed", seed, 0, std::numeric_limits<std::int64_t>::max());
  fields.integer("steps", out.schedule.steps, 1, kMaxTokens, true);
  const Json* gspo = fields.object("gspo");
  if (gspo == nullptr) fields.integer("batch_tokens", out.batch_tokens, 2, kMaxTokens, true);
  out.micro_batch_tokens = gspo == nullptr ? out.batch_tokens : kDefaultPolicyTokens;
  fields.integer("micro_batch_tokens", out.micro_batch_tokens, 2, kMaxTokens);
  fields.integer("context_tokens", out.context_tokens, 2, kMaxTokens, true);
  fields.integer("checkpoint_steps", out.checkpoint_steps, 1, kMaxTokens);
  fields.number("spike", out.spike, 0, 1000);
  fields.integer("max_rollbacks", out.max_rollbacks, 0, kMaxTokens);
  fields.flag("output_gate", out.output_gate);
  fields.flag("recompute", out.recompute);
  fields.flag("expert_parallel", out.expert_parallel);
  int precision = 0;
  fields.choice("precision", {"f32", "bf16"}, precision);
  out.precision = precision == 0 ? ProductType::kF32 : ProductType::kBf16;
  const Json* schedule = fields.object("schedule", true);
  const Json* adamw = fields.object("adamw");
  const Json* balance = fields.object("balance");
  const Json* mtp = fields.object("mtp");
  QN_RETURN_IF_ERROR(fields.finish());
  QN_RETURN_IF_ERROR(read_schedule(*schedule, file + ": schedule", out.schedule));
  if (adamw != nullptr) QN_RETURN_IF_ERROR(read_adamw(*adamw, file + ": adamw", out));
  if (balance != nullptr) QN_RETURN_IF_ERROR(read_balance(*balance, file + ": balance", out));
  if (mtp != nullptr) QN_RETURN_IF_ERROR(read_mtp(*mtp, file + ": mtp", out));
  if (gspo != nullptr) {
    QN_RETURN_IF_ERROR(read_gspo(*gspo, file + ": gspo", out.gspo.emplace()));
    if (init_from.empty()) return error("{}: init_from is missing: gspo improves a model that answers already", file);
  }
  if (out.batch_tokens % out.micro_batch_tokens != 0) {
    return error("{}: micro_batch_tokens: expected a divisor of batch_tokens {}, found {}", file, out.batch_tokens,
                 out.micro_batch_tokens);
  }
  out.model_json = model->dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
  QN_TRY(out.model, parse_config_json(out.model_json, file + ": model"));
  out.seed = static_cast<std::uint64_t>(seed);
  const auto resolved = [&](const std::string& path) { return path.empty() ? std::filesystem::path() : folder / path; };
  out.tokenizer = resolved(tokenizer);
  out.init_from = resolved(init_from);
  for (const std::string& path : data) out.data.push_back(resolved(path));
  return out;
}

}  // namespace qnext::train
