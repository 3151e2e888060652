#pragma once
// What `qnext bench` measured or predicts, and how it says it.

#include <nlohmann/json.hpp>

#include <string>
#include <vector>

#include "eval/speed.h"

namespace qnext {

struct BenchReport {
  std::string model;
  std::uint64_t weight_bytes = 0;
  std::string isa;
  bool packs = false;  // the table packs weights: its roof is 16-bit multiply-adds, not f32 matmul
  SpeedConfig config = {};
  std::vector<SpeedResult> results = {};
};

nlohmann::ordered_json bench_json(const BenchReport& report);
std::string bench_text(const BenchReport& report);

// The report beside an earlier one's JSON, measurement by measurement, and what else differs between the two.
// Error: `before` is not what bench_json() makes.
Result<std::string> bench_comparison(const BenchReport& report, const nlohmann::ordered_json& before);

// The share of its roof that each measurement reached, drawn as bars.
std::string bench_svg(const BenchReport& report);

// Decode of one sequence where memory gives read_bytes_per_s, from the bytes of the model's shapes alone.
struct DecodePrediction {
  std::size_t depth = 0;
  Work work = {};  // of one token
  double read_bytes_per_s = 0;

  double tokens_per_s() const { return read_bytes_per_s / static_cast<double>(work.bytes()); }  // the roof
};

struct BenchPrediction {
  std::string model;
  std::size_t num_layers = 0;
  DType kv_type = DType::kF32;
  std::vector<DecodePrediction> decode = {};
};

nlohmann::ordered_json prediction_json(const BenchPrediction& prediction);
std::string prediction_text(const BenchPrediction& prediction);

}  // namespace qnext
