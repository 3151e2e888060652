// qnext-train: the trainer's program. A binary of its own, so that qnext runs where libtorch is not.
#include "apps/console.h"
#include "apps/version.h"
#include "train_apps/commands.h"

using namespace qnext;  // NOLINT: this file is the end of the road

int main(int argc, char** argv) {
  catch_interrupts();
  CLI::App root("Trains models of the Qwen3-Next family, and makes the data that training reads.", "qnext");
  root.set_version_flag("--version", fmt::format("qnext {}", version()));
  root.require_subcommand(1);
  root.get_formatter()->column_width(32);
  Action action;
  add_training_command(root, action);
  add_shard_command(root, action);
  try {
    root.parse(argc, argv);
  } catch (const CLI::ParseError& problem) {
    if (problem.get_exit_code() != 0) {
      return static_cast<int>(
          usage_error(fmt::format("{}\nTry: qnext train --help, qnext data --help", problem.what())));
    }
    return show_help(root, problem);
  }
  return run_action(action);
}
