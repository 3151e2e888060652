#pragma once
// Training: steps of a recipe on a network, and the checkpoint from which a run goes on bit for bit.

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "train/adamw.h"
#include "train/network.h"
#include "train/part_times.h"
#include "train/ranks.h"
#include "train/recipe.h"
#include "train/token_shard.h"

namespace qnext::train {

// What one step was like. Losses are means over the predicted tokens, in nats.
struct StepReport {
  std::int64_t step = 0;
  double loss = 0;
  std::vector<double> mtp_losses;      // by depth
  std::vector<double> mtp_accuracies;  // by depth: share of tokens that the block's first choice got right
  double accuracy = 0;                 // of the trunk's
  double balance = 0;                  // E sum f_i p_i, mean over layers: 1 is even
  double max_load = 0;                 // the busiest expert's tokens over the mean, largest of all layers
  double load_entropy = 0;             // of the experts' tokens, over an even load's, mean over layers: 1 is even
  std::vector<std::vector<double>> expert_load;  // by layer (an MTP block's last) and expert: tokens over the mean
  double gradient_norm = 0;                      // before clipping
  double learning_rate = 0;
  std::int64_t tokens = 0;
  double ops = 0;  // ops_per_token() of all tokens
  double seconds = 0;
  PartTimes part_s = {};
  std::optional<std::string> divergence;  // why the step did not happen: the weights are those before it
};

class Trainer {
 public:
  // From the recipe's beginning. Errors: files of the recipe; micro-batches that the ranks cannot share evenly.
  static Result<Trainer> begin(const Recipe& recipe, const ShardTokenizer& tokenizer, const Ranks& ranks = {});

  // From a checkpoint that save() wrote, with as many ranks or others. The recipe may be another one than the
  // checkpoint keeps, on purpose (more steps, another rate or shard): it decides all that follows. Errors: a model
  // whose tensors are not the checkpoint's; a place in the data that the recipe's shards do not have; damaged;
  // begin()'s.
  static Result<Trainer> resume(const Recipe& recipe, const ShardTokenizer& tokenizer,
                                const std::filesystem::path& checkpoint, const Ranks& ranks = {});

  // The next step, by all ranks together; the report is the same on each. A loss or gradient that is not finite, or a
  // loss above recipe.spike, changes nothing but the place in the data. Errors: a rank that ended.
  Result<StepReport> step();

  // Weights and moments of a checkpoint of this run; reading goes on where it is, past what made the loss leap.
  Status roll_back(const std::filesystem::path& checkpoint);
  std::int64_t rollbacks() const { return rollbacks_; }

  std::int64_t steps_done() const { return steps_done_; }
  const Network& network() const { return *network_; }  // where ranks share the experts: with this rank's alone

  // The weights with all experts; by all ranks together. Errors: a rank that ended.
  Result<NetworkWeights> whole_weights() const;

  // Weights, moments and the place in the data, as one file that appears whole or not at all: by all ranks together,
  // written by the first.
  Status save(const std::filesystem::path& checkpoint) const;

 private:
  Trainer(const Recipe& recipe, Network network, BatchStream data, const Ranks& ranks);
  static Result<BatchStream> open_data(const Recipe& recipe, const ShardTokenizer& tokenizer);

  ForwardOptions forward_options(bool recompute) const;

  // Adds a micro-batch's gradients; losses are over `predicted` tokens of the whole step.
  Status add_micro_batch(const Batch& batch, double predicted, RouterTotals& routers, StepReport& report);
  Status sum_over_ranks(StepReport& report);  // and the gradient's norm
  std::optional<std::string> divergence_of(const StepReport& report) const;
  Tensor mtp_loss(const Batch& batch, const Tensor& hidden, double predicted, RouterLoad& router,
                  StepReport& report) const;

  Recipe recipe_;
  Ranks ranks_;
  std::unique_ptr<Network> network_;  // the optimiser's tensors are its own
  BatchStream data_;
  AdamW optimizer_;
  std::int64_t steps_done_ = 0;
  double mean_loss_ = 0;
  std::int64_t rollbacks_ = 0;
};

}  // namespace qnext::train
