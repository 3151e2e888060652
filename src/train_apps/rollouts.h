#pragma once
// What a policy says to prompts, drawn by the engine from the weights as they are, and how right it is.

#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "apps/command.h"
#include "apps/model_files.h"
#include "base/result.h"
#include "kernels/ops.h"
#include "train/gspo.h"
#include "train/network.h"
#include "train/recipe.h"

namespace qnext {

struct PolicyPrompt {
  std::vector<TokenId> tokens;  // as the chat template asks for an answer
  std::string reference;        // the answer that is known to be right
};

// What counts are the lines, behind the thoughts, that begin as the reference's last line does, up to its colon;
// without a colon, the last line. 1 where they have every number of the reference's such lines and no other, in their
// order; `format_reward` where there are any; else 0, as where the answer did not end by itself.
double answer_reward(std::string_view answer, bool ended, std::string_view reference, double format_reward);

class PolicySampler {
 public:
  // `folder` gets the weights that the engine loads, step after step. Errors: files; no prompt; a prompt that leaves
  // no room for an answer.
  static Result<PolicySampler> make(const train::Recipe& recipe, const std::filesystem::path& folder,
                                    std::size_t num_threads);

  // The answers of a step, group after group, with rewards and advantages: the same for the same weights and step.
  // Empty after Ctrl-C.
  Result<std::vector<train::Rollout>> sample(const train::Network& network, std::int64_t step) const;

 private:
  PolicySampler() = default;
  Status load_prompts();
  const PolicyPrompt& prompt_of(std::int64_t step, std::int64_t idx) const;
  Status judge(std::vector<train::Rollout>& rollouts, std::int64_t step) const;

  train::Recipe recipe_;
  std::filesystem::path folder_;
  MachineOptions options_;
  Machine machine_;
  std::unique_ptr<Ops> ops_;
  TextFiles files_;                    // the template is used up by the prompts
  std::vector<PolicyPrompt> prompts_;  // in the order of the recipe's seed
};

}  // namespace qnext
