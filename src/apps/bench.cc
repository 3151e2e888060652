// qnext bench: how fast a model runs on this machine, and how near to the machine's own limits.
#include "apps/bench_report.h"
#include "apps/command.h"
#include "apps/console.h"
#include "apps/json_text.h"
#include "apps/load_model.h"
#include "model/caches.h"
#include "tensor/atomic_file.h"

namespace qnext {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kMaxTokens = std::size_t{1} << 22;

struct BenchOptions {
  std::string model;
  SpeedConfig speed = {.prompt_tokens = {512}};
  std::vector<std::size_t> thread_counts;  // empty: as the machine options say
  std::string compare;                     // "": with nothing
  std::string svg;                         // "": none
  std::vector<double> predict;             // GB/s; empty: measure
  std::size_t num_layers = 0;              // of the prediction; 0: the model's
  MachineOptions machine;
  bool json = false;
};

constexpr std::size_t kMaxReportBytes = std::size_t{64} << 20;

Result<Json> read_report(const std::string& path) {
  QN_TRY(const std::string text, read_file(path, kMaxReportBytes));
  Json out = Json::parse(text, nullptr, false);
  if (out.is_discarded()) return error("{}: not JSON; --compare takes what `qnext bench --json` printed", path);
  return out;
}

Result<ExitCode> predict_decode(const BenchOptions& options) {
  QN_TRY(const auto model, Qwen3Next::load(options.model));
  QN_RETURN_IF_ERROR(check_kv_type(model->config(), options.speed.kv_type));
  BenchPrediction prediction{.model = options.model,
                             .num_layers = options.num_layers != 0 ? options.num_layers : model->config().num_layers(),
                             .kv_type = options.speed.kv_type};
  for (double gigabytes_per_s : options.predict) {
    for (std::size_t depth : options.speed.depths) {
      const Work work = count_work(
          model->weights(), {.depth = depth, .kv_type = options.speed.kv_type, .num_layers = prediction.num_layers});
      prediction.decode.push_back({.depth = depth, .work = work, .read_bytes_per_s = gigabytes_per_s * 1e9});
    }
  }
  QN_RETURN_IF_ERROR(
      write_stdout(options.json ? json_indented(prediction_json(prediction)) : prediction_text(prediction)));
  return ExitCode::kDone;
}

Result<ExitCode> bench(const BenchOptions& options) {
  Json before;
  if (!options.compare.empty()) {
    QN_TRY(before, read_report(options.compare));
  }
  QN_TRY(Machine machine, make_machine(options.machine));
  BenchReport report{.model = options.model,
                     .isa = std::string(machine.table->name),
                     .packs = machine.table->packed != nullptr,
                     .config = options.speed};
  QN_TRY(const auto model, load_model(options.model, Ops(*machine.table, *machine.pool), options.machine));
  report.weight_bytes = model->weights().parameter_bytes;
  std::vector<std::size_t> thread_counts = options.thread_counts;
  if (thread_counts.empty()) thread_counts = {machine.pool->num_threads()};
  for (std::size_t num_threads : thread_counts) {
    if (num_threads != machine.pool->num_threads()) machine.pool = std::make_unique<ThreadPool>(num_threads);
    const auto begin = [&](std::string_view what) {
      write_stderr(fmt::format("{}, {} threads ...\n", what, num_threads));
    };
    const auto go_on = [] { return !interrupted(); };
    QN_TRY(const auto results,
           measure_speed(*model, Ops(*machine.table, *machine.pool), options.speed, {.begin = begin, .go_on = go_on}));
    report.results.insert(report.results.end(), results.begin(), results.end());
  }
  QN_RETURN_IF_ERROR(write_stdout(options.json ? json_indented(bench_json(report)) : bench_text(report)));
  if (!options.svg.empty()) QN_RETURN_IF_ERROR(write_file(options.svg, bench_svg(report)));
  if (!options.compare.empty()) {
    const auto comparison = bench_comparison(report, before);
    if (!comparison.ok()) return error("{}: {}", options.compare, comparison.message());
    QN_RETURN_IF_ERROR(write_stdout(comparison.value()));
  }
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

// What is made of the measurements, or said instead of them.
void add_report_options(CLI::App& command, BenchOptions& options) {
  CLI::Option* compare =
      command.add_option("--compare", options.compare, "Print ratios to an earlier report, as --json printed it")
          ->type_name("FILE");
  CLI::Option* svg =
      command.add_option("--svg", options.svg, "Draw the share of the roof of each measurement")->type_name("FILE");
  CLI::Option* predict =
      command
          .add_option("--predict", options.predict,
                      "Measure nothing: decode speed where memory gives this many GB/s, from the shapes")
          ->delimiter(',')
          ->check(CLI::Range(0.001, 1e6))
          ->type_name("GB/S,...")
          ->excludes(compare, svg);
  command.add_option("--layers", options.num_layers, "For --predict: of a model with this many layers like MODEL's")
      ->check(CLI::Range(1, 4096))
      ->type_name("N")
      ->needs(predict);
  CLI::Option* json = command.add_flag("--json", options.json, "Print one JSON object (docs/cli.md)");
  json->excludes(compare);
}

}  // namespace

void add_bench_command(CLI::App& root, Action& action) {
  auto options = std::make_shared<BenchOptions>();
  CLI::App& command = *root.add_subcommand(
      "bench", "Measure prefill and decode, beside this machine's own limits measured in the same run.");
  add_model_option(command, options->model, "A folder (config.json + safetensors) or a .gguf file");
  add_counts(command, "--prompt", options->speed.prompt_tokens, "Prompt lengths to prefill (default: 512; 0: none)");
  add_counts(command, "--depth", options->speed.depths, "Tokens already in the context (default: 0)");
  command.add_option("--gen", options->speed.gen_tokens, "Tokens to decode at each depth (default: 128; 0: none)")
      ->check(CLI::Range(std::size_t{0}, kMaxTokens))
      ->type_name("N");
  command.add_option("--batch", options->speed.batches, "Sequences that decode at once, at each depth (default: 1)")
      ->delimiter(',')
      ->check(CLI::Range(1, 4096))
      ->type_name("N,N,...");
  command
      .add_option("--sweep-threads", options->thread_counts, "Measure everything with each of these numbers of threads")
      ->delimiter(',')
      ->check(CLI::Range(1, 1024))
      ->type_name("N,N,...");
  command.add_option("--repeat", options->speed.num_repetitions, "Runs of each; the median is reported (default: 3)")
      ->check(CLI::Range(1, 1000))
      ->type_name("N");
  command.add_option("--chunk", options->speed.chunk_tokens, "Prompt tokens a step (default: 512)")
      ->check(CLI::Range(1, 65536))
      ->type_name("N");
  add_kv_type_option(command, options->speed.kv_type);
  add_report_options(command, *options);
  add_machine_options(command, options->machine);
  command.footer(
      "Bytes and operations are counted from the model's shapes: each matrix once a step, of the experts those that\n"
      "are chosen; K/V and states as they are read and written. The bandwidth is that of streaming reads by all\n"
      "threads; the matmul peak is this instruction set's own f32 matmul on data in cache, or, where it packs "
      "weights,\n"
      "the 16-bit multiply-adds of its products on registers. Depth is filled with random K/V and states, not "
      "prefilled.\n"
      "The roofs are measured around every repetition. The same options print the same output hash, whatever the "
      "speed.\n\n"
      "Examples:\n"
      "  qnext bench model.gguf\n"
      "  qnext bench model.gguf --prompt 512,4096 --gen 128 --depth 0,4096 --json\n"
      "  qnext bench model.gguf --prompt 0 --batch 1,8,32 --svg roofs.svg\n"
      "  qnext bench model.gguf --predict 35,100 --depth 0,4096 --layers 48");
  command.callback([options, &action] {
    std::erase(options->speed.prompt_tokens, 0);
    action = [options] { return options->predict.empty() ? bench(*options) : predict_decode(*options); };
  });
}

}  // namespace qnext
