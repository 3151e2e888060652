#pragma once
// How a subcommand of `qnext` registers and ends. One file a subcommand; qnext.cc knows them all.
//
//   void add_convert_command(CLI::App& root, Action& action) {
//     auto options = std::make_shared<ConvertOptions>();
//     CLI::App& command = *root.add_subcommand("convert", "Rewrite a checkpoint in another format or type.");
//     command.add_option("SRC", options->src, "...")->required();
//     command.footer("Examples:\n  qnext convert ...");
//     command.callback([options, &action] { action = [options] { return convert(*options); }; });
//   }
//
// Parsing only notes what is to be done; the work starts after the whole command line was found right.

#include <CLI/CLI.hpp>

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/result.h"
#include "base/thread_pool.h"
#include "kernels/dispatch.h"
#include "tensor/dtype.h"

namespace qnext {

enum class ExitCode {
  kDone = 0,
  kFailed = 1,         // a bad file, an I/O error, not enough memory: whatever went wrong while working
  kUsage = 2,          // a wrong command line
  kInterrupted = 130,  // Ctrl-C; what was ready by then has been written
};

// The chosen subcommand's work. An error is printed as "qnext: TEXT" and ends the program with kFailed.
using Action = std::function<Result<ExitCode>()>;

// Does the work, and tells what became of it: main's result.
int run_action(const Action& action);

// The help or version that a command line asked for; `problem` is what CLI11 threw, with exit code 0.
int show_help(const CLI::App& root, const CLI::ParseError& problem);

// Prints "qnext: TEXT" for a command line whose parts are right but do not go together.
ExitCode usage_error(const std::string& text);

// --threads, --isa, --pack-cache, --no-mmap and --mlock, the same for every command that computes.
struct MachineOptions {
  std::size_t num_threads = 0;  // 0: all that this process may use
  std::string isa;              // "": QNEXT_ISA, or the best that this CPU has
  std::string pack_cache;       // folder; "": the user's cache folder; "none": packed in memory each time
  bool no_mmap = false;         // weights in memory of our own, none read from a mapped file
  bool mlock = false;           // weights locked in memory
};
void add_machine_options(CLI::App& command, MachineOptions& options);

// Of an option that names a model: a Hub id that is in the Hub's cache (hub_cache.h) becomes its path.
CLI::Validator pulled_model();
void add_model_option(CLI::App& command, std::string& model, const std::string& what);  // the positional MODEL

void add_kv_type_option(CLI::App& command, DType& kv_type);

// --context, --kv-type and --draft, for every command that runs sequences.
struct ContextOptions {
  std::size_t context_tokens = 0;  // 0: the command's own default
  DType kv_type = DType::kF32;
  std::optional<std::size_t> max_drafts;  // none: a few, if the model has an MTP block
  bool fixed_drafts = false;              // always as many

  std::size_t drafts_for(bool has_mtp) const { return max_drafts.value_or(has_mtp ? 2 : 0); }
};
void add_context_options(CLI::App& command, ContextOptions& options);

// What computes: the threads and the kernel table that the options ask for.
struct Machine {
  std::unique_ptr<ThreadPool> pool;
  const KernelTable* table = nullptr;
};
// Errors: an instruction set that this CPU lacks.
Result<Machine> make_machine(const MachineOptions& options);

void add_run_command(CLI::App& root, Action& action);
void add_chat_command(CLI::App& root, Action& action);
void add_tokenize_command(CLI::App& root, Action& action);
void add_inspect_command(CLI::App& root, Action& action);
void add_convert_command(CLI::App& root, Action& action);
void add_compare_command(CLI::App& root, Action& action);
void add_bench_command(CLI::App& root, Action& action);
void add_serve_command(CLI::App& root, Action& action);
void add_ask_command(CLI::App& root, Action& action);
void add_pull_command(CLI::App& root, Action& action);
void add_completions_command(CLI::App& root, Action& action);
void add_train_command(CLI::App& root, Action& action);
void add_data_command(CLI::App& root, Action& action);
void add_plot_command(CLI::App& root, Action& action);

}  // namespace qnext
