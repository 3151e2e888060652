#pragma once
// What `qnext compare` found, and how it says it.

#include <nlohmann/json.hpp>

#include <string>

#include "eval/trace.h"
#include "model/config.h"

namespace qnext {

struct GreedyAgreement {
  std::size_t matched = 0;  // places where both have the same token
  std::size_t total = 0;
};

struct CompareReport {
  std::string model;
  std::string reference;
  const ModelConfig* config = nullptr;  // of `model`
  Comparison comparison = {};
  GreedyAgreement greedy = {};
};

nlohmann::ordered_json compare_json(const CompareReport& report);
std::string compare_text(const CompareReport& report, bool all_positions);

}  // namespace qnext
