// qnext compare: how far a model's logits lie from a golden file's, or from another model's.
#include <numeric>
#include <random>

#include "apps/command.h"
#include "apps/compare_report.h"
#include "apps/console.h"
#include "apps/generation.h"
#include "apps/json_text.h"
#include "apps/progress.h"
#include "eval/trace.h"

namespace qnext {
namespace {

constexpr std::size_t kMaxTextBytes = std::size_t{64} << 20;
constexpr std::size_t kDefaultTokens = 256;
constexpr std::uint32_t kDefaultTokensSeed = 1;

struct CompareOptions {
  std::string model;
  std::string reference;
  std::string golden;
  std::optional<std::string> text;
  std::vector<TokenId> ids;
  std::size_t num_greedy = 32;
  bool all_positions = false;
  bool json = false;
  MachineOptions machine;
  DType kv_type = DType::kF32;
};

// The greedy continuation of `prompt` through the engine; no token ends it.
Result<std::vector<TokenId>> greedy_tokens(Generator& generator, std::span<const TokenId> prompt,
                                           std::size_t num_tokens, DType kv_type) {
  if (num_tokens == 0) return std::vector<TokenId>();
  QN_RETURN_IF_ERROR(generator.open({.context_tokens = prompt.size() + num_tokens, .kv_type = kv_type}));
  AnswerRequest request{.prompt = {prompt.begin(), prompt.end()},
                        .max_new_tokens = num_tokens,
                        .sampling = {},
                        .stop_token_ids = {},
                        .stop_texts = {}};
  request.sampling.temperature = 0;
  QN_TRY(Answer answer, generator.answer(request, nullptr, [](std::string_view) { return success(); }));
  if (answer.finish_reason == "interrupted") return error("stopped after {} greedy tokens", answer.token_ids.size());
  return std::move(answer.token_ids);
}

// The tokens that two models are compared on.
Result<std::vector<TokenId>> compared_tokens(const CompareOptions& options, std::size_t V) {
  if (!options.ids.empty()) return options.ids;
  if (options.text) {
    QN_TRY(const TextFiles files, load_text_files(options.model));
    QN_TRY(const Tokenizer* tokenizer, require_tokenizer(files, options.model));
    QN_TRY(const std::string text, text_argument(*options.text, kMaxTextBytes));
    return tokenizer->encode(text);
  }
  std::minstd_rand random(kDefaultTokensSeed);
  std::vector<TokenId> ids(kDefaultTokens);
  std::generate(ids.begin(), ids.end(), [&] { return static_cast<TokenId>(random() % V); });
  return ids;
}

Result<std::unique_ptr<DirectRunner>> make_runner(const Generator& generator, std::size_t num_tokens, DType kv_type) {
  return DirectRunner::make(generator.model(), generator.ops(),
                            {.num_sequences = 1, .max_tokens = num_tokens, .kv_type = kv_type});
}

// Counts the tokens that agree, place by place.
GreedyAgreement agreement(const std::vector<TokenId>& expected, const std::vector<TokenId>& found) {
  GreedyAgreement out{.matched = 0, .total = expected.size()};
  for (std::size_t i = 0; i < std::min(expected.size(), found.size()); ++i) out.matched += expected[i] == found[i];
  return out;
}

Result<CompareReport> compare_golden(const CompareOptions& options, Generator& generator) {
  QN_TRY(const GoldenFile golden, load_golden_file(options.golden));
  QN_TRY(const auto runner, make_runner(generator, golden.input_ids.size(), options.kv_type));
  CompareReport report{.model = options.model, .reference = options.golden, .config = &generator.model().config()};
  QN_TRY(report.comparison, compare_with_golden(*runner, golden, [](std::size_t) { return !interrupted(); }));
  QN_TRY(const auto greedy, greedy_tokens(generator, golden.input_ids, golden.greedy.size(), options.kv_type));
  report.greedy = agreement(golden.greedy, greedy);
  return report;
}

Result<CompareReport> compare_two(const CompareOptions& options, Generator& generator, Generator& reference) {
  QN_TRY(const std::vector<TokenId> ids, compared_tokens(options, generator.model().config().V));
  if (ids.empty()) return error("--text: expected at least one token to compare on");
  QN_TRY(const auto runner, make_runner(generator, ids.size(), options.kv_type));
  QN_TRY(const auto reference_runner, make_runner(reference, ids.size(), options.kv_type));
  CompareReport report{.model = options.model, .reference = options.reference, .config = &generator.model().config()};
  QN_TRY(report.comparison,
         compare_models(*runner, *reference_runner, ids, [](std::size_t) { return !interrupted(); }));
  QN_TRY(const auto expected, greedy_tokens(reference, ids, options.num_greedy, options.kv_type));
  QN_TRY(const auto found, greedy_tokens(generator, ids, options.num_greedy, options.kv_type));
  report.greedy = agreement(expected, found);
  return report;
}

Result<ExitCode> compare(const CompareOptions& options) {
  if (options.golden.empty() == options.reference.empty()) {
    return usage_error("compare: expected a second model or --golden FILE");
  }
  if (!options.golden.empty() && (options.text || !options.ids.empty())) {
    return usage_error("compare: --golden brings its own tokens; --text and --ids are for two models");
  }
  QN_TRY(const auto generator, Generator::load(options.model, options.machine));
  std::unique_ptr<Generator> reference;
  if (options.golden.empty()) {
    QN_TRY(reference, Generator::load(options.reference, options.machine));
  }
  QN_TRY(const CompareReport report,
         reference ? compare_two(options, *generator, *reference) : compare_golden(options, *generator));
  QN_RETURN_IF_ERROR(
      write_stdout(options.json ? json_line(compare_json(report)) : compare_text(report, options.all_positions)));
  return ExitCode::kDone;
}

}  // namespace

void add_compare_command(CLI::App& root, Action& action) {
  auto options = std::make_shared<CompareOptions>();
  CLI::App& command =
      *root.add_subcommand("compare", "Compare a model's logits with a golden file's, or with another model's.");
  add_model_option(command, options->model, "A folder (config.json + safetensors) or a .gguf file");
  command.add_option("REFERENCE", options->reference, "The model that is right; of the same vocabulary")
      ->transform(pulled_model());
  command
      .add_option("--golden", options->golden, "Safetensors with input_ids and logits [T, V], in place of REFERENCE")
      ->type_name("FILE");
  CLI::Option* text =
      command.add_option("--text", options->text, "For two models: the text to compare on; - reads it from stdin");
  command.add_option("--ids", options->ids, "For two models: token ids to compare on (default: 256 random ones)")
      ->delimiter(',')
      ->excludes(text)
      ->type_name("ID,ID,...");
  command
      .add_option("--greedy", options->num_greedy, "For two models: greedy tokens to compare after that (default: 32)")
      ->check(CLI::Range(0, 1 << 20))
      ->type_name("N");
  command.add_flag("--positions", options->all_positions, "Print every position, not only the five worst");
  command.add_flag("--json", options->json, "Print one JSON object (docs/cli.md)");
  add_kv_type_option(command, options->kv_type);
  add_machine_options(command, options->machine);
  command.footer(
      "KL is KL(reference || MODEL) of the next-token distributions, in nats, from f64 log-softmax; the largest logit\n"
      "difference is given in standard deviations of all reference logits. A golden file may also have hidden.N,\n"
      "router.N.experts, router.N.weights (compared by layer) and greedy (compared token by token).\n\n"
      "Examples:\n"
      "  qnext compare model --golden golden.safetensors\n"
      "  qnext compare model-q4_k.gguf model-bf16.gguf --text - < book.txt\n"
      "  qnext compare model.gguf --golden golden.safetensors --json | jq .mean_kl");
  command.callback([options, &action] { action = [options] { return compare(*options); }; });
}

}  // namespace qnext
