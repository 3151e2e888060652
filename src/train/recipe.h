#pragma once
// A recipe: everything that decides what a training run computes, as one JSON file. docs/training.md has every field.

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "model/config.h"
#include "train/adamw.h"
#include "train/balance.h"
#include "train/compute.h"
#include "train/gspo.h"

namespace qnext::train {

struct Recipe {
  std::string text;  // as the file has it
  ModelConfig model;
  std::string model_json;                   // the config.json that the run's checkpoint gets
  std::filesystem::path tokenizer;          // tokenizer.json; files beside it are copied to the run
  std::vector<std::filesystem::path> data;  // token shards; with gspo: conversations, .jsonl
  std::filesystem::path init_from;          // a checkpoint folder; empty: random weights
  std::uint64_t seed = 0;

  std::int64_t batch_tokens = 0;        // of one step, over all its micro-batches; 0 with gspo
  std::int64_t micro_batch_tokens = 0;  // divides batch_tokens; with gspo: of answers in one pass, at most
  std::int64_t context_tokens = 0;
  Schedule schedule;
  AdamWParams adamw;
  double clip = 1.0;

  BalanceParams balance;
  std::int64_t mtp_steps = 1;  // chained predictions; 0: no MTP block
  double mtp_weight = 0.1;
  double mtp_decay = 0.6;  // each further step's share of the one before

  std::optional<GspoParams> gspo;  // reinforcement learning instead of learning from texts

  double spike = 0;  // a loss this far above the mean of those before has diverged; 0: none that is finite
  std::int64_t max_rollbacks = 0;  // returns to the last checkpoint after a divergence; then it stops

  bool balanced_router = true, output_gate = true;
  bool recompute = false;
  bool expert_parallel = false;               // of several ranks, each has a share of the experts
  ProductType precision = ProductType::kF32;  // of the factors of products with weights; all else is float32
  std::int64_t checkpoint_steps = 100;
};

// `file` names the recipe in errors; relative paths in it are relative to `folder`. Errors: a field that is unknown, of
// another type, missing or out of range, by name.
Result<Recipe> parse_recipe(const std::string& text, const std::string& file, const std::filesystem::path& folder);

}  // namespace qnext::train
