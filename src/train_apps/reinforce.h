#pragma once
// A run of reinforcement learning: answers drawn, judged and learned from, step after step.

#include <filesystem>

#include "apps/command.h"
#include "base/result.h"
#include "train/recipe.h"

namespace qnext {

struct ReinforceOptions {
  std::filesystem::path out;
  bool resume = false;
  std::size_t num_threads = 0;
  DType type = DType::kBF16;  // of the finished model's weights
};

// Requires recipe.gspo. Errors: files, what diverges, the engine's.
Result<ExitCode> reinforce(const train::Recipe& recipe, const ReinforceOptions& options);

}  // namespace qnext
