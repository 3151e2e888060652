// qnext train and qnext data: run by qnext-train, the program beside this one that has libtorch.
#include <unistd.h>

#include <cstring>

#include "apps/command.h"
#include "apps/console.h"

namespace qnext {
namespace {

Result<ExitCode> run_trainer(const std::string& command, std::vector<std::string> arguments) {
  std::error_code failure;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", failure);
  std::string trainer = (self.parent_path() / "qnext-train").string();
  if (failure || ::access(trainer.c_str(), X_OK) != 0) {
    return error("{}: there is no trainer beside this program: make train builds it", trainer);
  }
  arguments.insert(arguments.begin(), {trainer, command});
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  ::execv(trainer.c_str(), argv.data());
  return error("{}: cannot run it: {}", trainer, std::strerror(errno));
}

void add_forwarded_command(CLI::App& root, Action& action, const std::string& name, const std::string& description) {
  CLI::App* command = root.add_subcommand(name, description);
  command->prefix_command();   // all that follows is qnext-train's,
  command->set_help_flag("");  // --help too
  command->callback([command, name, &action] {
    action = [name, arguments = command->remaining()] { return run_trainer(name, arguments); };
  });
}

}  // namespace

void add_train_command(CLI::App& root, Action& action) {
  add_forwarded_command(root, action, "train", "Train a model as a recipe says.");
}

void add_data_command(CLI::App& root, Action& action) {
  add_forwarded_command(root, action, "data", "Make and look at the token shards that training reads.");
}

}  // namespace qnext
