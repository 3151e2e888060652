#pragma once
// Reinforcement learning of a network by GSPO, on answers that whoever runs its weights has drawn and judged.

#include <memory>
#include <vector>

#include "train/checkpoint.h"
#include "train/gspo.h"
#include "train/network.h"
#include "train/part_times.h"
#include "train/recipe.h"

namespace qnext::train {

// What one step was like: means over its answers, and of what is an update's over its updates.
struct PolicyReport {
  std::int64_t step = 0;
  double reward = 0;
  double right = 0;     // share with the full reward
  double tokens = 0;    // of an answer
  double clipped = 0;   // share of answers that an update left out
  double mismatch = 0;  // mean |difference| of a token's log-probability here and in the engine that drew it
  double balance = 0, max_load = 0;
  double gradient_norm = 0;
  double learning_rate = 0;
  double seconds = 0;
};

class PolicyTrainer {
 public:
  // With the weights of the recipe's init_from, and no MTP block but theirs, which stays as it is. Requires
  // recipe.gspo. Errors: files.
  static Result<PolicyTrainer> begin(const Recipe& recipe);
  static Result<PolicyTrainer> resume(const Recipe& recipe, const std::filesystem::path& checkpoint);

  // Updates the weights on answers of the current ones, with their advantages: gspo.updates times, each on its share of
  // them, in order. Errors: a gradient that is not finite (the weights are then those before that update).
  Result<PolicyReport> step(std::span<const Rollout> rollouts);

  std::int64_t steps_done() const { return steps_done_; }
  const Network& network() const { return *network_; }
  Status save(const std::filesystem::path& checkpoint) const;

 private:
  struct Scores {
    std::vector<double> logprobs;  // by answer, summed over its tokens
    double mismatch = 0;           // summed over tokens
    std::int64_t num_compared = 0;
  };

  PolicyTrainer(const Recipe& recipe, Network network);

  // The answers' log-probabilities by the current weights.
  Scores score(std::span<const Rollout> rollouts) const;
  Status update(std::span<const Rollout> rollouts, std::span<const double> old_logprobs, std::int64_t update_number,
                PolicyReport& report);
  Status add_gradients(std::span<const Rollout> rollouts, std::span<const double> old_logprobs, double answers,
                       double tokens, RouterTotals& routers, PolicyReport& report);

  Recipe recipe_;
  std::unique_ptr<Network> network_;  // the optimiser's tensors are its own
  AdamW optimizer_;
  std::int64_t steps_done_ = 0;
};

}  // namespace qnext::train
