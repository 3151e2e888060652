// qnext: the program. Parses the command line, runs the chosen command, and turns what became of it into an exit code.
#include "apps/command.h"
#include "apps/console.h"
#include "apps/version.h"

namespace {

using namespace qnext;  // NOLINT: this file is the end of the road

constexpr const char* kDescription =
    "qnext runs the Qwen3-Next model family, and its Qwen3 relatives, on this machine.\n"
    "A MODEL is a folder with config.json and safetensors, or a .gguf file.";

constexpr const char* kFooter =
    "Every command explains itself: qnext COMMAND --help. What --json prints: docs/cli.md.\n\n"
    "Exit codes: 0 done; 1 failed while working (a bad file, an I/O error, too little memory); 2 wrong usage;\n"
    "130 interrupted (Ctrl-C), with everything written that was ready.\n\n"
    "Environment: QNEXT_ISA (instruction set, as --isa), NO_COLOR (no colours), XDG_CACHE_HOME (caches);\n"
    "OPENAI_API_KEY, HF_*, SSL_CERT_FILE: docs/cli.md.\n\n"
    "Examples:\n"
    "  qnext chat model.gguf\n"
    "  qnext run model.gguf 'Why is the sky blue?'\n"
    "  qnext inspect model.gguf";

// What CLI11 threw: help and version were asked for, anything else is wrong usage.
int explain(const CLI::App& root, const CLI::ParseError& problem) {
  if (problem.get_exit_code() == 0) return show_help(root, problem);
  const std::vector<CLI::App*> chosen = root.get_subcommands();
  const std::string command = chosen.empty() ? "" : " " + chosen.front()->get_name();
  return static_cast<int>(usage_error(fmt::format("{}\nTry: qnext{} --help", problem.what(), command)));
}

}  // namespace

int main(int argc, char** argv) {
  catch_interrupts();
  CLI::App root(kDescription, "qnext");
  root.set_version_flag("--version", fmt::format("qnext {}", version()));
  root.require_subcommand(1);
  root.footer(kFooter);
  root.get_formatter()->column_width(32);
  Action action;
  add_run_command(root, action);
  add_chat_command(root, action);
  add_serve_command(root, action);
  add_ask_command(root, action);
  add_pull_command(root, action);
  add_tokenize_command(root, action);
  add_inspect_command(root, action);
  add_convert_command(root, action);
  add_compare_command(root, action);
  add_bench_command(root, action);
  add_train_command(root, action);
  add_data_command(root, action);
  add_plot_command(root, action);
  add_completions_command(root, action);
  try {
    root.parse(argc, argv);
  } catch (const CLI::ParseError& problem) {
    return explain(root, problem);
  }
  return run_action(action);
}
