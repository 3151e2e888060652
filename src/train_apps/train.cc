// qnext train: a recipe to a checkpoint that the engine runs.
#include <nlohmann/json.hpp>

#include "apps/console.h"
#include "base/cpu.h"
#include "tensor/atomic_file.h"
#include "train/compute.h"
#include "train/tensor_memory.h"
#include "train/tokenizer_hash.h"
#include "train/trainer.h"
#include "train_apps/commands.h"
#include "train_apps/reinforce.h"
#include "train_apps/run_folder.h"

namespace qnext {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr std::size_t kMaxRecipeBytes = std::size_t{1} << 20;

struct TrainOptions {
  std::string recipe, out;
  bool resume = false;
  std::size_t num_threads = 0;
  std::string type = "bf16";
};

constexpr std::int64_t kExpertLoadSteps = 100;  // of each, one line says what every expert got

Json report_json(const train::StepReport& report, double roof) {
  Json parts;
  double named_s = 0;
  for (std::size_t i = 0; i < report.part_s.size(); ++i) {
    parts[train::kPartNames[i]] = report.part_s[i] / report.seconds;
    named_s += report.part_s[i];
  }
  parts["rest"] = 1 - named_s / report.seconds;
  Json out = {{"step", report.step},
              {"loss", report.loss},
              {"accuracy", report.accuracy},
              {"mtp_losses", report.mtp_losses},
              {"mtp_accuracies", report.mtp_accuracies},
              {"balance", report.balance},
              {"max_load", report.max_load},
              {"load_entropy", report.load_entropy},
              {"gradient_norm", report.gradient_norm},
              {"learning_rate", report.learning_rate},
              {"tokens", report.tokens},
              {"tokens_per_s", static_cast<double>(report.tokens) / report.seconds},
              {"mfu", report.ops / report.seconds / roof},
              {"time", parts}};
  if (report.step % kExpertLoadSteps == 1) out["expert_load"] = report.expert_load;
  return out;
}

std::string progress_text(const train::StepReport& report, double roof) {
  return fmt::format("loss {:.3f}, balance {:.2f}, gradient {:.2f}, {:.0f} tokens/s, MFU {:.0f}%", report.loss,
                     report.balance, report.gradient_norm, static_cast<double>(report.tokens) / report.seconds,
                     100 * report.ops / report.seconds / roof);
}

// To the last checkpoint, as often as the recipe allows. Error: that was too often.
Status roll_back(train::Trainer& trainer, const train::Recipe& recipe, const std::string& divergence,
                 const fs::path& checkpoint) {
  if (trainer.rollbacks() >= recipe.max_rollbacks) {
    return error(
        "{}: training has diverged; the last checkpoint is intact. Lower schedule.learning_rate or lengthen "
        "schedule.warmup_steps and go on with --resume, or let max_rollbacks return to it and skip what came after",
        divergence);
  }
  QN_RETURN_IF_ERROR(trainer.roll_back(checkpoint));
  write_stderr(fmt::format("qnext: {}: back to step {}, past what was read since\n", divergence, trainer.steps_done()));
  return success();
}

// All ranks train; the first one writes and reports.
Result<ExitCode> train_steps(train::Trainer& trainer, const train::Recipe& recipe, const fs::path& out,
                             const fs::path& checkpoint, const train::Ranks& ranks) {
  std::optional<StepLog> log;
  if (ranks.is_first()) {
    QN_TRY(log, StepLog::open(out / "log.jsonl", trainer.steps_done()));
  }
  if (trainer.steps_done() == 0)
    QN_RETURN_IF_ERROR(trainer.save(checkpoint));  // a full disk shows before an hour's work
  StepProgress progress(trainer.steps_done() + 1, recipe.schedule.steps);
  const double roof = train::measure_product_roof() * ranks.count();
  while (trainer.steps_done() < recipe.schedule.steps) {
    QN_TRY(const train::StepReport report, trainer.step());
    if (report.divergence) {
      QN_RETURN_IF_ERROR(roll_back(trainer, recipe, *report.divergence, checkpoint));
      if (log) {
        QN_TRY(log, StepLog::open(out / "log.jsonl", trainer.steps_done()));
      }
      continue;
    }
    if (log) {
      progress.show(report.step, progress_text(report, roof));
      QN_RETURN_IF_ERROR(log->add(report_json(report, roof)));
    }
    QN_TRY(const bool stop, ranks.any(interrupted()));
    const bool due = report.step % recipe.checkpoint_steps == 0 || report.step == recipe.schedule.steps;
    if (due || stop) QN_RETURN_IF_ERROR(trainer.save(checkpoint));
    if (stop) return say_stopped(report.step);
  }
  return ExitCode::kDone;
}

Result<ExitCode> run_training(const TrainOptions& options) {
  const std::optional<DType> type = dtype_from_name(options.type);
  QN_TRY(const std::string text, read_file(options.recipe, kMaxRecipeBytes));
  QN_TRY(const train::Recipe recipe, train::parse_recipe(text, options.recipe, fs::path(options.recipe).parent_path()));
  QN_TRY(const train::ShardTokenizer tokenizer, train::shard_tokenizer(recipe.tokenizer));
  if (tokenizer.vocab_size > recipe.model.V) {
    return error("{}: model: vocab_size: expected at least the tokenizer's {}, found {}", options.recipe,
                 tokenizer.vocab_size, recipe.model.V);
  }
  const fs::path out = options.out, checkpoint = out / "checkpoint.safetensors";
  std::error_code failure;
  fs::create_directories(out, failure);
  if (failure) return error("{}: cannot make the folder: {}", out.string(), failure.message());
  train::keep_tensor_memory();
  train::set_num_threads(options.num_threads == 0 ? usable_cores() : options.num_threads);
  if (train::set_product_type(recipe.precision) != recipe.precision) {
    write_stderr("qnext: products of bf16 are no faster on this CPU: training in float32\n");
  }
  QN_TRY(const train::Ranks ranks, train::Ranks::join());
  if (recipe.gspo) {
    if (ranks.count() > 1)
      return error("{}: gspo runs in one process, found WORLD_SIZE {}", options.recipe, ranks.count());
    return reinforce(recipe, {out, options.resume, options.num_threads, *type});
  }
  QN_TRY(const bool resumes, goes_on(checkpoint, options.resume));
  QN_TRY(train::Trainer trainer, resumes ? train::Trainer::resume(recipe, tokenizer, checkpoint, ranks)
                                         : train::Trainer::begin(recipe, tokenizer, ranks));
  if (ranks.is_first()) QN_RETURN_IF_ERROR(write_file(out / "recipe.json", recipe.text));
  QN_TRY(const ExitCode code, train_steps(trainer, recipe, out, checkpoint, ranks));
  if (code != ExitCode::kDone) return code;
  QN_TRY(const train::NetworkWeights weights, trainer.whole_weights());
  if (ranks.is_first()) QN_RETURN_IF_ERROR(export_model(weights, recipe, *type, out));
  return ExitCode::kDone;
}

}  // namespace

void add_training_command(CLI::App& root, Action& action) {
  auto options = std::make_shared<TrainOptions>();
  CLI::App& command = *root.add_subcommand("train", "Train a model as a recipe says.");
  command.add_option("RECIPE", options->recipe, "A JSON file: model, data, steps, rates (docs/training.md)")
      ->required();
  command.add_option("--out", options->out, "The run's folder: checkpoint, log, and at the end the model")->required();
  command.add_flag("--resume", options->resume, "Go on from the folder's checkpoint, bit for bit as if never stopped");
  command.add_option("--threads", options->num_threads, "Threads; 0: all that this process may use")
      ->check(CLI::Range(0, 1024));
  command.add_option("--type", options->type, "Type of the finished model's weights")
      ->check(CLI::IsMember({"bf16", "f32"}))
      ->capture_default_str();
  command.footer(
      "Ctrl-C saves a checkpoint and stops. log.jsonl has a line a step. Several processes train together where RANK,\n"
      "WORLD_SIZE, MASTER_ADDR and MASTER_PORT say so, as torchrun does.\n\n"
      "Examples:\n"
      "  qnext data pack corpus.safetensors texts/stories.jsonl --tokenizer own/tokenizer.json\n"
      "  qnext train recipe.json --out run1\n"
      "  qnext train recipe.json --out run1 --resume\n"
      "  qnext run run1 'Once upon a time' --raw");
  command.callback([options, &action] { action = [options] { return run_training(*options); }; });
}

}  // namespace qnext
