// qnext bench: how fast a model runs on this machine, and how near to the machine's own limits.
#include <cmath>

#include "apps/command.h"
#include "apps/console.h"
#include "apps/json_text.h"
#include "apps/load_model.h"
#include "apps/progress.h"
#include "base/cpu.h"
#include "eval/speed.h"

namespace qnext {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kMaxTokens = std::size_t{1} << 22;

struct BenchOptions {
  std::string model;
  SpeedConfig speed = {.prompt_tokens = {512}};
  MachineOptions machine;
  bool json = false;
};

struct BenchRun {
  const BenchOptions& options;
  const Qwen3Next& model;
  const Machine& machine;
  const SpeedReport& report;
  Roofs roofs;  // the better of before and after
};

Json roofs_json(const Roofs& roofs) {
  return {{"read_bytes_per_s", std::round(roofs.read_bytes_per_s)},
          {"matmul_ops_per_s", std::round(roofs.matmul_ops_per_s)}};
}

Json result_json(const SpeedResult& result, const Roofs& roofs) {
  const double num_tokens = static_cast<double>(result.num_tokens * result.num_sequences);
  return {{"phase", result.phase == Phase::kPrefill ? "prefill" : "decode"},
          {"tokens", result.num_tokens},
          {"sequences", result.num_sequences},
          {"depth", result.depth},
          {"tokens_per_s", result.tokens_per_s()},
          {"median_ms", result.median_s * 1e3},
          {"fastest_ms", result.fastest_s * 1e3},
          {"roof", result.phase == Phase::kPrefill ? "matmul" : "bandwidth"},
          {"share_of_roof", result.share_of_roof(roofs)},
          {"share_of_bandwidth", result.share_of_bandwidth(roofs)},
          {"share_of_matmul", result.share_of_matmul(roofs)},
          {"bytes", result.work.bytes()},
          {"ops", result.work.ops},
          {"bytes_per_token", static_cast<double>(result.work.bytes()) / num_tokens},
          {"ops_per_token", static_cast<double>(result.work.ops) / num_tokens},
          {"output_hash", fmt::format("{:016x}", result.output_hash)}};
}

Json report_json(const BenchRun& run) {
  Json results = Json::array();
  for (const SpeedResult& result : run.report.results) results.push_back(result_json(result, run.roofs));
  Json roof = roofs_json(run.roofs);
  roof["read_buffer_bytes"] = run.roofs.read_buffer_bytes;
  roof["before"] = roofs_json(run.report.before);
  roof["after"] = roofs_json(run.report.after);
  return {{"model", run.options.model},
          {"weight_bytes", run.model.weights().parameter_bytes},
          {"cpu", cpu_name()},
          {"threads", run.machine.pool->num_threads()},
          {"isa", run.machine.table->name},
          {"kv_type", dtype_info(run.options.speed.kv_type).name},
          {"chunk_tokens", run.options.speed.chunk_tokens},
          {"repetitions", run.options.speed.num_repetitions},
          {"results", results},
          {"roof", roof}};
}

std::string report_text(const BenchRun& run) {
  const SpeedConfig& config = run.options.speed;
  std::string out = fmt::format("{} ({} of matrices)\n{}, {} threads, {}; K/V {}, chunks of {}, median of {}\n",
                                run.options.model, bytes_text(run.model.weights().parameter_bytes), cpu_name(),
                                run.machine.pool->num_threads(), run.machine.table->name,
                                dtype_info(config.kv_type).name, config.chunk_tokens, config.num_repetitions);
  const auto roof = [&](const Roofs& roofs) {
    return fmt::format("{:.1f} GB/s read, {:.0f} Gop/s {}", roofs.read_bytes_per_s / 1e9, roofs.matmul_ops_per_s / 1e9,
                       run.machine.table->packed != nullptr ? "16-bit multiply-adds" : "f32 matmul");
  };
  out += fmt::format("roof: {} before, {} after\n\n", roof(run.report.before), roof(run.report.after));
  out +=
      "phase    tokens  depth  seqs        t/s   ms/token  bytes/token  ops/token  of bandwidth  of matmul  output\n";
  for (const SpeedResult& result : run.report.results) {
    const double num_tokens = static_cast<double>(result.num_tokens * result.num_sequences);
    out += fmt::format("{:<7} {:>7} {:>6} {:>5} {:>10.2f} {:>10.3f} {:>12} {:>10} {:>12.1f}% {:>9.1f}%  {:016x}\n",
                       result.phase == Phase::kPrefill ? "prefill" : "decode", result.num_tokens, result.depth,
                       result.num_sequences, result.tokens_per_s(), result.median_s * 1e3 / num_tokens,
                       bytes_text(static_cast<std::uint64_t>(static_cast<double>(result.work.bytes()) / num_tokens)),
                       count_text(static_cast<double>(result.work.ops) / num_tokens),
                       100 * result.share_of_bandwidth(run.roofs), 100 * result.share_of_matmul(run.roofs),
                       result.output_hash);
  }
  return out;
}

Result<ExitCode> bench(const BenchOptions& options) {
  QN_TRY(const Machine machine, make_machine(options.machine));
  const Ops ops(*machine.table, *machine.pool);
  QN_TRY(const auto model, load_model(options.model, ops, options.machine));
  const auto begin = [](std::string_view what) { write_stderr(fmt::format("{} ...\n", what)); };
  const auto go_on = [] { return !interrupted(); };
  QN_TRY(const SpeedReport report, measure_speed(*model, ops, options.speed, {.begin = begin, .go_on = go_on}));
  const BenchRun run{options, *model, machine, report, best_of(report.before, report.after)};
  QN_RETURN_IF_ERROR(write_stdout(options.json ? json_indented(report_json(run)) : report_text(run)));
  return ExitCode::kDone;
}

// A list of token counts: "512,4096", also "4K".
CLI::Option* add_counts(CLI::App& command, const std::string& name, std::vector<std::size_t>& counts,
                        const std::string& description) {
  return command.add_option(name, counts, description)
      ->delimiter(',')
      ->transform(CLI::AsSizeValue(false))
      ->check(CLI::Range(std::size_t{0}, kMaxTokens))
      ->type_name("N,N,...");
}

}  // namespace

void add_bench_command(CLI::App& root, Action& action) {
  auto options = std::make_shared<BenchOptions>();
  CLI::App& command = *root.add_subcommand(
      "bench", "Measure prefill and decode, beside this machine's own limits measured in the same run.");
  command.add_option("MODEL", options->model, "A folder (config.json + safetensors) or a .gguf file")->required();
  add_counts(command, "--prompt", options->speed.prompt_tokens, "Prompt lengths to prefill (default: 512; 0: none)");
  add_counts(command, "--depth", options->speed.depths, "Tokens already in the context (default: 0)");
  command.add_option("--gen", options->speed.gen_tokens, "Tokens to decode at each depth (default: 128; 0: none)")
      ->check(CLI::Range(std::size_t{0}, kMaxTokens))
      ->type_name("N");
  command.add_option("--batch", options->speed.num_sequences, "Sequences that decode at once (default: 1)")
      ->check(CLI::Range(1, 4096))
      ->type_name("N");
  command.add_option("--repeat", options->speed.num_repetitions, "Runs of each; the median is reported (default: 3)")
      ->check(CLI::Range(1, 1000))
      ->type_name("N");
  command.add_option("--chunk", options->speed.chunk_tokens, "Prompt tokens a step (default: 512)")
      ->check(CLI::Range(1, 65536))
      ->type_name("N");
  command
      .add_option_function<std::string>(
          "--kv-type", [options](const std::string& name) { options->speed.kv_type = *dtype_from_name(name); },
          "Element type of the K/V cache: f32 (default) or bf16")
      ->check(CLI::IsMember({"f32", "bf16"}))
      ->type_name("TYPE");
  command.add_flag("--json", options->json, "Print one JSON object (docs/cli.md)");
  add_machine_options(command, options->machine);
  command.footer(
      "Bytes and operations are counted from the model's shapes: each matrix once a step, of the experts those that\n"
      "are chosen; K/V and states as they are read and written. The bandwidth is that of streaming reads by all\n"
      "threads; the matmul peak is this instruction set's own f32 matmul on data in cache, or, where it packs "
      "weights,\n"
      "the 16-bit multiply-adds of its products on registers. Depth is filled with random K/V and states, not "
      "prefilled.\n"
      " The same options print the same output hash, whatever the speed.\n\n"
      "Examples:\n"
      "  qnext bench model.gguf\n"
      "  qnext bench model.gguf --prompt 512,4096 --gen 128 --depth 0,4096 --json\n"
      "  qnext bench model.gguf --prompt 0 --batch 8");
  command.callback([options, &action] {
    std::erase(options->speed.prompt_tokens, 0);
    action = [options] { return bench(*options); };
  });
}

}  // namespace qnext
