// qnext inspect: what a model is, and what it needs.
#include <numeric>

#include "apps/command.h"
#include "apps/console.h"
#include "apps/inspect_report.h"
#include "apps/json_text.h"
#include "apps/progress.h"

namespace qnext {
namespace {

struct InspectOptions {
  std::string model;
  std::vector<std::size_t> contexts = {4096, 32768, 262144};
  bool json = false;
  bool verify = false;
};

// Every scale, and every plain value, is finite.
Result<ExitCode> verify(const ModelReport& report) {
  if (!report.weights) return usage_error("--verify: this folder has no weights to verify");
  Progress progress("verifying");
  std::uint64_t done_bytes = 0;
  const std::uint64_t total_bytes = report.weight_bytes();
  for (const TensorEntry& entry : tensor_entries(*report.weights)) {
    if (interrupted()) return ExitCode::kInterrupted;
    if (Status status = expect_finite_scales(entry); !status.ok()) {
      return error("{}: {}", report.path, status.message());
    }
    done_bytes += entry.bytes;
    progress.update(done_bytes, total_bytes);
  }
  return ExitCode::kDone;
}

Result<ExitCode> inspect(const InspectOptions& options) {
  QN_TRY(const ModelReport report, make_model_report(options.model));
  QN_RETURN_IF_ERROR(write_stdout(options.json ? json_indented(report_json(report, options.contexts))
                                               : report_text(report, options.contexts)));
  return options.verify ? verify(report) : Result<ExitCode>(ExitCode::kDone);
}

}  // namespace

void add_inspect_command(CLI::App& root, Action& action) {
  auto options = std::make_shared<InspectOptions>();
  CLI::App& command = *root.add_subcommand(
      "inspect", "Show what a model is: shape, tensor types, parameters, and the memory that it needs.");
  add_model_option(command, options->model,
                   "A folder (config.json + safetensors), a .gguf file, or a bare config.json");
  command
      .add_option("--context", options->contexts, "Context lengths to print the memory for (default: 4K, 32K, 256K)")
      ->delimiter(',')
      ->transform(CLI::AsSizeValue(false))
      ->check(CLI::Range(std::size_t{1}, std::size_t{1} << 30))
      ->type_name("N,N,...");
  command.add_flag("--verify", options->verify, "Read every tensor and check that all scales and values are finite");
  command.add_flag("--json", options->json, "Print one JSON object (docs/cli.md)");
  command.footer(
      "Every tensor's name, type and shape is checked against the config.\n\n"
      "Examples:\n"
      "  qnext inspect model.gguf\n"
      "  qnext inspect Qwen3-Next-80B-A3B-Instruct/config.json --context 131072\n"
      "  qnext inspect model.gguf --verify --json | jq .memory");
  command.callback([options, &action] { action = [options] { return inspect(*options); }; });
}

}  // namespace qnext
