#include "apps/completions.h"

#include <map>
#include <vector>

#include "apps/command.h"
#include "apps/console.h"

namespace qnext {
namespace {

struct Flag {
  std::string name;  // "--max-tokens"
  std::string description;
  bool takes_value = false;
};

struct Subcommand {
  std::string name;
  std::string description;
  std::vector<Flag> flags;
};

std::string first_sentence(const std::string& text) {
  const std::size_t end = text.find_first_of(".:;\n");
  return text.substr(0, end);
}

std::vector<Flag> flags_of(const CLI::App& app) {
  std::vector<Flag> out;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) {
      out.push_back({.name = "--" + name,
                     .description = first_sentence(option->get_description()),
                     .takes_value = option->get_expected_min() > 0});
    }
  }
  return out;
}

std::vector<Subcommand> subcommands_of(const CLI::App& root) {
  std::vector<Subcommand> out;
  for (const CLI::App* app : root.get_subcommands([](const CLI::App*) { return true; })) {
    out.push_back(
        {.name = app->get_name(), .description = first_sentence(app->get_description()), .flags = flags_of(*app)});
  }
  return out;
}

// 'text' for any of the shells: a quote ends the string, stands escaped, and begins it again.
std::string quoted(const std::string& text) {
  std::string out = "'";
  for (char c : text) c == '\'' ? out += "'\\''" : out += c;
  return out + "'";
}

std::string names(const std::vector<Subcommand>& commands) {
  std::string out;
  for (const Subcommand& command : commands) out += (out.empty() ? "" : " ") + command.name;
  return out;
}

std::string bash_script(const std::vector<Subcommand>& commands) {
  std::string out =
      "# bash completion for qnext: source <(qnext completions bash)\n"
      "_qnext() {\n"
      "  local word=${COMP_WORDS[COMP_CWORD]} flags=\n"
      "  if (( COMP_CWORD == 1 )); then\n";
  out += fmt::format("    COMPREPLY=($(compgen -W '{} --help --version' -- \"$word\"))\n    return\n  fi\n",
                     names(commands));
  out += "  case ${COMP_WORDS[1]} in\n";
  for (const Subcommand& command : commands) {
    std::string flags;
    for (const Flag& flag : command.flags) flags += (flags.empty() ? "" : " ") + flag.name;
    out += fmt::format("    {}) flags='{}' ;;\n", command.name, flags);
  }
  out +=
      "  esac\n"
      "  if [[ $word == -* ]]; then COMPREPLY=($(compgen -W \"$flags\" -- \"$word\")); fi\n"
      "}\n"
      "complete -o default -F _qnext qnext\n";
  return out;
}

std::string zsh_script(const std::vector<Subcommand>& commands) {
  std::string out =
      "#compdef qnext\n"
      "# zsh completion for qnext: qnext completions zsh > \"${fpath[1]}/_qnext\"\n"
      "_qnext() {\n"
      "  local -a commands flags\n"
      "  commands=(\n";
  for (const Subcommand& command : commands) {
    out += fmt::format("    {}\n", quoted(command.name + ":" + command.description));
  }
  out +=
      "  )\n"
      "  if (( CURRENT == 2 )); then _describe command commands; return; fi\n"
      "  case ${words[2]} in\n";
  for (const Subcommand& command : commands) {
    out += fmt::format("    {}) flags=(", command.name);
    for (const Flag& flag : command.flags) out += " " + quoted(flag.name + ":" + flag.description);
    out += " ) ;;\n";
  }
  out +=
      "  esac\n"
      "  if [[ ${words[CURRENT]} == -* ]]; then _describe option flags; else _files; fi\n"
      "}\n"
      "compdef _qnext qnext\n";
  return out;
}

std::string fish_script(const std::vector<Subcommand>& commands) {
  std::string out = "# fish completion for qnext: qnext completions fish | source\n";
  for (const Subcommand& command : commands) {
    out += fmt::format("complete -c qnext -n __fish_use_subcommand -a {} -d {}\n", command.name,
                       quoted(command.description));
    for (const Flag& flag : command.flags) {
      out += fmt::format("complete -c qnext -n '__fish_seen_subcommand_from {}' -l {}{} -d {}\n", command.name,
                         flag.name.substr(2), flag.takes_value ? " -r" : "", quoted(flag.description));
    }
  }
  return out;
}

}  // namespace

std::string completion_script(const CLI::App& root, Shell shell) {
  const std::vector<Subcommand> commands = subcommands_of(root);
  switch (shell) {
    case Shell::kBash:
      return bash_script(commands);
    case Shell::kZsh:
      return zsh_script(commands);
    case Shell::kFish:
      return fish_script(commands);
  }
  return "";
}

void add_completions_command(CLI::App& root, Action& action) {
  auto shell = std::make_shared<Shell>(Shell::kBash);
  CLI::App& command =
      *root.add_subcommand("completions", "Print a script that completes qnext's commands and options.");
  command.add_option("SHELL", *shell, "bash, zsh or fish")
      ->required()
      ->transform(CLI::CheckedTransformer(
          std::map<std::string, Shell>{{"bash", Shell::kBash}, {"zsh", Shell::kZsh}, {"fish", Shell::kFish}}))
      ->type_name("");
  command.footer(
      "Examples:\n"
      "  source <(qnext completions bash)\n"
      "  qnext completions zsh > \"${fpath[1]}/_qnext\"\n"
      "  qnext completions fish > ~/.config/fish/completions/qnext.fish");
  command.callback([shell, &root, &action] {
    action = [shell, &root]() -> Result<ExitCode> {
      QN_RETURN_IF_ERROR(write_stdout(completion_script(root, *shell)));
      return ExitCode::kDone;
    };
  });
}

}  // namespace qnext
