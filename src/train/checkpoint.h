#pragma once
// Checkpoints: weights, moments and how far a run is, as one safetensors file, from which it goes on bit for bit.

#include <filesystem>

#include "base/result.h"
#include "tensor/safetensors.h"
#include "train/adamw.h"
#include "train/ranks.h"
#include "train/token_shard.h"

namespace qnext::train {

struct RunState {
  std::int64_t steps_done = 0;
  DataPosition data;     // of runs that read token shards
  double mean_loss = 0;  // of the steps before, the last ones more than earlier ones
  std::int64_t rollbacks = 0;
};

// Whole or not at all; by all ranks together, written by the first, which also removes what killed runs left half
// written. `recipe` is kept for people; nothing compares it. Errors: SafetensorsWriter's, a rank that ended.
Status save_checkpoint(const std::filesystem::path& path, const RunState& state, const AdamW& optimizer,
                       const Ranks& ranks, const std::string& recipe);

class Checkpoint {
 public:
  // Errors: not a checkpoint, damaged.
  static Result<Checkpoint> open(const std::filesystem::path& path);

  const RunState& state() const { return state_; }
  bool has_mtp() const { return file_.find("mtp.fc.weight") != nullptr; }

  // Fills the optimiser's weights, and of the moments those that `ranks` gives this process. Errors: another model's,
  // which has tensors that these are not.
  Status read_into(const AdamW& optimizer, const Ranks& ranks) const;

 private:
  Checkpoint(Safetensors file, std::string name) : file_(std::move(file)), name_(std::move(name)) {}

  Safetensors file_;
  std::string name_;
  RunState state_;
};

}  // namespace qnext::train
