#pragma once
// The folder of a training run: checkpoint, log, and at the end the model; and what a person sees meanwhile.

#include <chrono>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "apps/command.h"
#include "base/result.h"
#include "tensor/dtype.h"
#include "train/network.h"
#include "train/recipe.h"

namespace qnext {

// log.jsonl, a line a step. A run that goes on first drops the steps that it will do again.
class StepLog {
 public:
  static Result<StepLog> open(const std::filesystem::path& path, std::int64_t steps_done);
  Status add(const nlohmann::ordered_json& report);

 private:
  std::filesystem::path path_;
  std::ofstream file_;
};

// A line a second at most on a terminal, redrawn; elsewhere a line every few seconds.
class StepProgress {
 public:
  StepProgress(std::int64_t first_step, std::int64_t last_step) : first_(first_step), last_(last_step) {}
  ~StepProgress();

  // "step 3 of 40, WHAT, 12 s left".
  void show(std::int64_t step, const std::string& what);

 private:
  using Clock = std::chrono::steady_clock;

  std::int64_t first_, last_;
  Clock::time_point started_ = Clock::now(), drawn_;
  bool line_open_ = false;
};

// Whether a run of this folder goes on: --resume was given and a checkpoint is there. Errors: one without the other.
Result<bool> goes_on(const std::filesystem::path& checkpoint, bool resume);

// What Ctrl-C has led to: how to go on.
ExitCode say_stopped(std::int64_t step);

// The finished model: weights in released names, the files that they are read with, and its path on stdout.
Status export_model(const train::NetworkWeights& weights, const train::Recipe& recipe, DType type,
                    const std::filesystem::path& out);

}  // namespace qnext
