#include "apps/bench_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "apps/progress.h"
#include "apps/version.h"
#include "apps/xml_text.h"
#include "base/cpu.h"

namespace qnext {
namespace {

using Json = nlohmann::ordered_json;

// What an engine near this machine's limits reaches of the bandwidth (docs/performance.md).
constexpr double kReachable = 0.9;

std::string_view phase_name(Phase phase) {
  return phase == Phase::kPrefill ? "prefill" : "decode";
}

double all_tokens(const SpeedResult& result) {
  return static_cast<double>(result.num_tokens * result.num_sequences);
}

Json roofs_json(const Roofs& roofs) {
  return {{"read_bytes_per_s", std::round(roofs.read_bytes_per_s)},
          {"matmul_ops_per_s", std::round(roofs.matmul_ops_per_s)},
          {"read_buffer_bytes", roofs.read_buffer_bytes}};
}

Roofs best_roofs(const BenchReport& report) {
  Roofs out;
  for (const SpeedResult& result : report.results) out = best_of(out, result.roofs);
  return out;
}

Json result_json(const SpeedResult& result) {
  return {{"phase", phase_name(result.phase)},
          {"tokens", result.num_tokens},
          {"sequences", result.num_sequences},
          {"depth", result.depth},
          {"threads", result.num_threads},
          {"tokens_per_s", result.tokens_per_s()},
          {"median_ms", result.median_s * 1e3},
          {"fastest_ms", result.fastest_s * 1e3},
          {"roof", result.phase == Phase::kPrefill ? "matmul" : "bandwidth"},
          {"share_of_roof", result.share_of_roof()},
          {"share_of_bandwidth", result.share_of_bandwidth},
          {"share_of_matmul", result.share_of_matmul},
          {"read_bytes_per_s", std::round(result.roofs.read_bytes_per_s)},
          {"matmul_ops_per_s", std::round(result.roofs.matmul_ops_per_s)},
          {"bytes", result.work.bytes()},
          {"ops", result.work.ops},
          {"bytes_per_token", static_cast<double>(result.work.bytes()) / all_tokens(result)},
          {"ops_per_token", static_cast<double>(result.work.ops) / all_tokens(result)},
          {"output_hash", fmt::format("{:016x}", result.output_hash)}};
}

// What makes two measurements the same, but for the speed.
std::string key_of(const Json& result) {
  std::string out;
  for (const char* field : {"phase", "tokens", "sequences", "depth", "threads"}) out += result.at(field).dump() + " ";
  return out;
}

}  // namespace

Json bench_json(const BenchReport& report) {
  Json results = Json::array();
  for (const SpeedResult& result : report.results) results.push_back(result_json(result));
  return {{"version", version()},
          {"model", report.model},
          {"weight_bytes", report.weight_bytes},
          {"cpu", cpu_name()},
          {"isa", report.isa},
          {"kv_type", dtype_info(report.config.kv_type).name},
          {"chunk_tokens", report.config.chunk_tokens},
          {"repetitions", report.config.num_repetitions},
          {"results", results},
          {"roof", roofs_json(best_roofs(report))}};
}

std::string bench_text(const BenchReport& report) {
  const Roofs roofs = best_roofs(report);
  std::string out = fmt::format(
      "{} ({} of matrices)\n{}, {}; K/V {}, chunks of {}, median of {}; qnext {}\n"
      "roofs, at best: {:.1f} GB/s read, {:.0f} Gop/s {}\n\n",
      report.model, bytes_text(report.weight_bytes), cpu_name(), report.isa, dtype_info(report.config.kv_type).name,
      report.config.chunk_tokens, report.config.num_repetitions, version(), roofs.read_bytes_per_s / 1e9,
      roofs.matmul_ops_per_s / 1e9, report.packs ? "16-bit multiply-adds" : "f32 matmul");
  out +=
      "phase    tokens  depth  seqs  threads        t/s   ms/token  bytes/token  ops/token  read GB/s  of bandwidth  "
      "of "
      "matmul  output\n";
  for (const SpeedResult& result : report.results) {
    const double num_tokens = all_tokens(result);
    out += fmt::format(
        "{:<7} {:>7} {:>6} {:>5} {:>8} {:>10.2f} {:>10.3f} {:>12} {:>10} {:>10.1f} {:>12.1f}% {:>9.1f}%  {:016x}\n",
        phase_name(result.phase), result.num_tokens, result.depth, result.num_sequences, result.num_threads,
        result.tokens_per_s(), result.median_s * 1e3 / num_tokens,
        bytes_text(static_cast<std::uint64_t>(static_cast<double>(result.work.bytes()) / num_tokens)),
        count_text(static_cast<double>(result.work.ops) / num_tokens), result.roofs.read_bytes_per_s / 1e9,
        100 * result.share_of_bandwidth, 100 * result.share_of_matmul, result.output_hash);
  }
  return out;
}

Result<std::string> bench_comparison(const BenchReport& report, const Json& before) try {
  std::string out = "\nbeside the earlier report         t/s before       now   ratio   share of roof before    now\n";
  const Json now = bench_json(report);
  for (const Json& result : now.at("results")) {
    const auto& earlier = before.at("results");
    const auto same = std::find_if(earlier.begin(), earlier.end(),
                                   [&](const Json& other) { return key_of(other) == key_of(result); });
    const std::string name =
        fmt::format("{} {}, depth {}, x{}, {} threads", result.at("phase").get<std::string>(),
                    result.at("tokens").get<std::size_t>(), result.at("depth").get<std::size_t>(),
                    result.at("sequences").get<std::size_t>(), result.at("threads").get<std::size_t>());
    if (same == earlier.end()) {
      out += fmt::format("{:<34} {:>9}\n", name, "not there");
      continue;
    }
    const double speed = result.at("tokens_per_s"), speed_before = same->at("tokens_per_s");
    const double share = result.at("share_of_roof"), share_before = same->at("share_of_roof");
    out += fmt::format("{:<34} {:>10.2f} {:>9.2f} {:>7.3f} {:>21.1f}% {:>6.1f}%{}\n", name, speed_before, speed,
                       speed / speed_before, 100 * share_before, 100 * share,
                       result.at("output_hash") == same->at("output_hash") ? "" : "  other output");
  }
  for (const char* field : {"version", "model", "weight_bytes", "cpu", "isa", "kv_type", "chunk_tokens"}) {
    if (before.at(field) != now.at(field)) {
      out += fmt::format("{} was {}, is {}\n", field,
                         before.at(field).dump(-1, ' ', false, Json::error_handler_t::replace),
                         now.at(field).dump(-1, ' ', false, Json::error_handler_t::replace));
    }
  }
  return out;
} catch (const Json::exception& problem) {
  return error("not a report of `qnext bench --json`: {}", problem.what());
}

std::string bench_svg(const BenchReport& report) {
  constexpr int kLeft = 330, kBarWidth = 400, kRow = 26, kTop = 64;
  const int height = kTop + kRow * static_cast<int>(report.results.size()) + 34;
  std::string out = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"840\" height=\"{}\" font-family=\"sans-serif\" "
      "font-size=\"13\">\n<rect width=\"840\" height=\"{}\" fill=\"#ffffff\"/>\n"
      "<text x=\"16\" y=\"26\" font-size=\"16\">Share of the roof that binds: compute for prefill, bandwidth for "
      "decode</text>\n<text x=\"16\" y=\"46\" fill=\"#555555\">{}, {}, qnext {}</text>\n",
      height, height, xml_text(cpu_name()), xml_text(report.isa), version());
  for (int percent = 0; percent <= 100; percent += 25) {
    const int x = kLeft + kBarWidth * percent / 100;
    out += fmt::format(
        "<path d=\"M{} {}V{}\" stroke=\"#dddddd\"/>\n<text x=\"{}\" y=\"{}\" text-anchor=\"middle\" "
        "fill=\"#555555\">{}%</text>\n",
        x, kTop - 6, height - 28, x, height - 10, percent);
  }
  for (std::size_t i = 0; i < report.results.size(); ++i) {
    const SpeedResult& result = report.results[i];
    const int y = kTop + kRow * static_cast<int>(i);
    out += fmt::format(
        "<text x=\"16\" y=\"{}\">{} {}, depth {}, x{}, {} threads</text>\n"
        "<rect x=\"{}\" y=\"{}\" width=\"{:.1f}\" height=\"18\" fill=\"{}\"/>\n"
        "<text x=\"{:.1f}\" y=\"{}\">{:.1f}%, {:.1f} t/s</text>\n",
        y + 14, phase_name(result.phase), result.num_tokens, result.depth, result.num_sequences, result.num_threads,
        kLeft, y, kBarWidth * result.share_of_roof(), result.phase == Phase::kPrefill ? "#3b6ea5" : "#c2703d",
        kLeft + 6 + kBarWidth * result.share_of_roof(), y + 14, 100 * result.share_of_roof(), result.tokens_per_s());
  }
  return out + "</svg>\n";
}

Json prediction_json(const BenchPrediction& prediction) {
  Json decode = Json::array();
  for (const DecodePrediction& one : prediction.decode) {
    decode.push_back({{"depth", one.depth},
                      {"read_bytes_per_s", one.read_bytes_per_s},
                      {"bytes_per_token", one.work.bytes()},
                      {"weight_bytes", one.work.weight_bytes},
                      {"kv_bytes", one.work.kv_bytes},
                      {"state_bytes", one.work.state_bytes},
                      {"ops_per_token", one.work.ops},
                      {"tokens_per_s", one.tokens_per_s()}});
  }
  return {{"model", prediction.model},
          {"layers", prediction.num_layers},
          {"kv_type", dtype_info(prediction.kv_type).name},
          {"decode", decode}};
}

std::string prediction_text(const BenchPrediction& prediction) {
  std::string out = fmt::format(
      "{}, {} layers, K/V {}: decode of one sequence, predicted from the bytes of a token\n\n"
      "depth   read GB/s   bytes/token      weights        K/V     states   ops/token   t/s at the roof   at {:.0f}% "
      "of it\n",
      prediction.model, prediction.num_layers, dtype_info(prediction.kv_type).name, 100 * kReachable);
  for (const DecodePrediction& one : prediction.decode) {
    out +=
        fmt::format("{:<7} {:>9.1f} {:>13} {:>12} {:>10} {:>10} {:>11} {:>17.2f} {:>15.2f}\n", one.depth,
                    one.read_bytes_per_s / 1e9, bytes_text(one.work.bytes()), bytes_text(one.work.weight_bytes),
                    bytes_text(one.work.kv_bytes), bytes_text(one.work.state_bytes),
                    count_text(static_cast<double>(one.work.ops)), one.tokens_per_s(), kReachable * one.tokens_per_s());
  }
  return out;
}

}  // namespace qnext
