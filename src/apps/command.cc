#include "apps/command.h"

#include <exception>

#include "apps/console.h"
#include "apps/hub_cache.h"
#include "base/cpu.h"
#include "base/env.h"

namespace qnext {
namespace {

constexpr std::size_t kMaxThreads = 1024;
constexpr std::size_t kMaxContextTokens = std::size_t{1} << 24;

}  // namespace

int run_action(const Action& action) {
  const Result<ExitCode> result = [&]() -> Result<ExitCode> {
    try {
      return action();
    } catch (const std::exception& problem) {  // of a library: no memory, no right to look into a folder
      return error("{}", printable(problem.what()));
    }
  }();
  if (result.ok()) return static_cast<int>(*result);
  if (interrupted()) {
    write_stderr("qnext: interrupted\n");
    return static_cast<int>(ExitCode::kInterrupted);
  }
  if (!stdout_reader_gone()) write_stderr(fmt::format("qnext: {}\n", result.message()));
  return static_cast<int>(ExitCode::kFailed);
}

int show_help(const CLI::App& root, const CLI::ParseError& problem) {
  const bool wants_version = dynamic_cast<const CLI::CallForVersion*>(&problem) != nullptr;
  const Status written = write_stdout(wants_version ? fmt::format("{}\n", problem.what()) : root.help());
  return static_cast<int>(written.ok() ? ExitCode::kDone : ExitCode::kFailed);
}

ExitCode usage_error(const std::string& text) {
  write_stderr(fmt::format("qnext: {}\n", text));
  return ExitCode::kUsage;
}

void add_machine_options(CLI::App& command, MachineOptions& options) {
  command
      .add_option("--threads", options.num_threads,
                  fmt::format("Threads that compute (default: the {} that this process may use)", usable_cores()))
      ->check(CLI::Range(std::size_t{1}, kMaxThreads))
      ->type_name("N")
      ->group("Machine");
  command
      .add_option("--isa", options.isa,
                  "Instruction set: ref, or one that the CPU has (default: the environment's QNEXT_ISA, else the best)")
      ->check([](const std::string& name) {
        const auto table = find_table(name);
        return table.ok() ? std::string() : table.message();
      })
      ->type_name("NAME")
      ->group("Machine");
  command
      .add_option("--pack-cache", options.pack_cache,
                  "Where weights packed for this CPU are kept between runs, or none (default: qnext in the user's "
                  "cache folder)")
      ->type_name("DIR")
      ->group("Machine");
  command
      .add_flag("--no-mmap", options.no_mmap,
                "Keep all weights in this process's own memory, none in mapped files; packs at each start")
      ->group("Machine");
  command.add_flag("--mlock", options.mlock, "Lock the weights in memory, so that they are never swapped out")
      ->group("Machine");
}

CLI::Validator pulled_model() {
  return {[](std::string& text) {
            text = resolve_model(text);
            return std::string();
          },
          ""};
}

void add_model_option(CLI::App& command, std::string& model, const std::string& what) {
  command.add_option("MODEL", model, what + ", or OWNER/NAME that was pulled")->transform(pulled_model())->required();
}

void add_kv_type_option(CLI::App& command, DType& kv_type) {
  command
      .add_option_function<std::string>(
          "--kv-type", [&kv_type](const std::string& name) { kv_type = *dtype_from_name(name); },
          "Element type of the K/V cache: f32 (exact, the default), i16 (half the memory, long contexts fastest), bf16 "
          "(half the memory) or q8_0 (about a quarter)")
      ->check(CLI::IsMember({"f32", "i16", "bf16", "q8_0"}))
      ->type_name("TYPE")
      ->group("Machine");
}

void add_context_options(CLI::App& command, ContextOptions& options) {
  command.add_option("--context", options.context_tokens, "Longest conversation, prompt and answer, in tokens")
      ->transform(CLI::AsSizeValue(false))  // 32K is 32,768
      ->check(CLI::Range(std::size_t{1}, kMaxContextTokens))
      ->type_name("N")
      ->group("Machine");
  add_kv_type_option(command, options.kv_type);
  command
      .add_option("--draft", options.max_drafts,
                  "Tokens that the model's MTP block guesses ahead, at most; fewer, or none, where that is faster. "
                  "Changes no answer (default: 2 with such a block, else 0)")
      ->check(CLI::Range(0, 8))
      ->type_name("N")
      ->group("Machine");
  command
      .add_flag(
          "--fixed-draft", options.fixed_drafts,
          "Guess as many as --draft says at every step, whatever it costs: to measure how often guesses are right")
      ->group("Machine");
}

Result<Machine> make_machine(const MachineOptions& options) {
  const std::string isa = !options.isa.empty() ? options.isa : env("QNEXT_ISA").value_or("");
  QN_TRY(const KernelTable* table, find_table(isa));
  const std::size_t num_threads = options.num_threads != 0 ? options.num_threads : usable_cores();
  return Machine{.pool = std::make_unique<ThreadPool>(num_threads), .table = table};
}

}  // namespace qnext
