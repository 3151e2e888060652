#include "train_apps/reinforce.h"

#include <chrono>

#include "apps/console.h"
#include "tensor/atomic_file.h"
#include "train/policy_trainer.h"
#include "train_apps/rollouts.h"
#include "train_apps/run_folder.h"

namespace qnext {
namespace {

using Clock = std::chrono::steady_clock;

nlohmann::ordered_json report_json(const train::PolicyReport& report, double sampling_s) {
  return {{"step", report.step},
          {"reward", report.reward},
          {"right", report.right},
          {"answer_tokens", report.tokens},
          {"clipped", report.clipped},
          {"mismatch", report.mismatch},
          {"balance", report.balance},
          {"max_load", report.max_load},
          {"gradient_norm", report.gradient_norm},
          {"learning_rate", report.learning_rate},
          {"sampling_s", sampling_s},
          {"training_s", report.seconds}};
}

std::string progress_text(const train::PolicyReport& report, double sampling_s) {
  return fmt::format("reward {:.3f}, right {:.0f}%, {:.0f} tokens an answer, gradient {:.3f}, {:.1f} + {:.1f} s",
                     report.reward, 100 * report.right, report.tokens, report.gradient_norm, sampling_s,
                     report.seconds);
}

}  // namespace

Result<ExitCode> reinforce(const train::Recipe& recipe, const ReinforceOptions& options) {
  const std::filesystem::path checkpoint = options.out / "checkpoint.safetensors";
  QN_TRY(const bool resumes, goes_on(checkpoint, options.resume));
  QN_TRY(const PolicySampler sampler, PolicySampler::make(recipe, options.out / "policy", options.num_threads));
  QN_TRY(train::PolicyTrainer trainer,
         resumes ? train::PolicyTrainer::resume(recipe, checkpoint) : train::PolicyTrainer::begin(recipe));
  QN_RETURN_IF_ERROR(write_file(options.out / "recipe.json", recipe.text));
  if (trainer.steps_done() == 0) QN_RETURN_IF_ERROR(trainer.save(checkpoint));  // a full disk shows at once
  QN_TRY(StepLog log, StepLog::open(options.out / "log.jsonl", trainer.steps_done()));
  StepProgress progress(trainer.steps_done() + 1, recipe.schedule.steps);
  while (trainer.steps_done() < recipe.schedule.steps) {
    const auto begin = Clock::now();
    QN_TRY(const std::vector<train::Rollout> rollouts, sampler.sample(trainer.network(), trainer.steps_done()));
    if (!rollouts.empty()) {
      const double sampling_s = std::chrono::duration<double>(Clock::now() - begin).count();
      QN_TRY(const train::PolicyReport report, trainer.step(rollouts));
      progress.show(report.step, progress_text(report, sampling_s));
      QN_RETURN_IF_ERROR(log.add(report_json(report, sampling_s)));
    }
    const std::int64_t done = trainer.steps_done();
    const bool stop = interrupted() && done < recipe.schedule.steps;
    if (stop || done % recipe.checkpoint_steps == 0 || done == recipe.schedule.steps) {
      QN_RETURN_IF_ERROR(trainer.save(checkpoint));
    }
    if (stop) return say_stopped(done);
  }
  std::error_code ignored;
  std::filesystem::remove_all(options.out / "policy", ignored);
  QN_RETURN_IF_ERROR(export_model(trainer.network().weights(), recipe, options.type, options.out));
  return ExitCode::kDone;
}

}  // namespace qnext
