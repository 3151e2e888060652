#pragma once
// Chat: a conversation at the keyboard. Lines that begin with a slash are commands.

#include <map>
#include <string>
#include <vector>

#include "apps/conversation.h"
#include "apps/generation.h"

namespace qnext {

struct ChatOptions {
  std::string model;
  std::string system;
  std::optional<bool> thinking;
  std::optional<std::size_t> max_new_tokens;  // none: up to the context's end
  SamplingOptions sampling;
  MachineOptions machine;
  ContextOptions context;
};

class Chat {
 public:
  // What it is given must outlive it.
  Chat(const ChatOptions& options, const TextFiles& files, Generator& generator);

  // Reads lines until the end of input, /exit, or Ctrl-C at an empty prompt twice. Errors: stdout's.
  Result<ExitCode> run();

 private:
  enum class Next { kGoOn, kExit };
  using Command = Result<Next> (Chat::*)(const std::string& argument);
  struct CommandInfo {
    std::string argument;
    std::string description;
    Command command;
  };
  static const std::map<std::string, CommandInfo>& commands();

  Result<Next> handle_line(const std::string& line);
  Result<Next> handle_command(const std::string& line);
  Status answer(const std::string& text);
  Result<Answer> generate();  // the answer to messages_, shown as it comes

  Result<Next> help(const std::string& argument);
  Result<Next> clear(const std::string& argument);
  Result<Next> set_system(const std::string& argument);
  Result<Next> save(const std::string& argument);
  Result<Next> load(const std::string& argument);
  Result<Next> stats(const std::string& argument);
  Result<Next> exit(const std::string& argument);

  const ChatOptions& options_;
  const TextFiles& files_;
  Generator& generator_;
  std::vector<Message> messages_;
  std::optional<Answer> last_answer_;
  std::size_t num_answers_ = 0;
  std::size_t num_answer_tokens_ = 0;
};

}  // namespace qnext
