#pragma once
// The subcommands of qnext-train, which `qnext train` and `qnext data` run. Conventions: apps/command.h.

#include "apps/command.h"

namespace qnext {

void add_training_command(CLI::App& root, Action& action);
void add_shard_command(CLI::App& root, Action& action);
void add_synth_command(CLI::App& data, Action& action);  // of `data`

// Subcommands of `data`, beside those in its own file.
void add_tokenizer_command(CLI::App& data, Action& action);
void add_pack_command(CLI::App& data, Action& action);

// --tokenizer of everything that reads or writes a shard.
inline void add_tokenizer_option(CLI::App& command, std::string& tokenizer) {
  command.add_option("--tokenizer", tokenizer, "The tokenizer.json that the tokens are of")->required();
}

}  // namespace qnext
