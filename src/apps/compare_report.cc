#include "apps/compare_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "apps/inspect_report.h"

namespace qnext {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kNumWorst = 5;

// The layer after the last is the final norm.
std::string_view layer_name(const ModelConfig& config, std::size_t layer_idx) {
  return layer_idx < config.num_layers() ? mixer_name(config.layers[layer_idx].mixer) : "final norm";
}

Json layers_json(const CompareReport& report) {
  Json out = Json::array();
  for (std::size_t layer_idx = 0; layer_idx < report.comparison.layers.size(); ++layer_idx) {
    const LayerDifference& layer = report.comparison.layers[layer_idx];
    Json entry = {{"layer", layer_idx},
                  {"kind", layer_name(*report.config, layer_idx)},
                  {"hidden_relative", layer.hidden.relative()},
                  {"hidden_max", layer.hidden.max_difference}};
    if (layer.routing.num_tokens > 0) {
      entry["routing_agreement"] = layer.routing.agreement();
      entry["router_weight_max"] = layer.routing.max_weight_difference;
    }
    out.push_back(std::move(entry));
  }
  return out;
}

Json positions_json(const std::vector<PositionDifference>& positions) {
  Json out = Json::array();
  for (std::size_t i = 0; i < positions.size(); ++i) {
    out.push_back({{"position", i},
                   {"kl", positions[i].kl},
                   {"max_logit_diff", positions[i].max_logit_difference},
                   {"reference_top1", positions[i].reference_top1},
                   {"top1", positions[i].actual_top1}});
  }
  return out;
}

std::string layers_text(const CompareReport& report) {
  if (report.comparison.layers.empty()) return "";
  std::string out = "\n  layer                  hidden: relative    largest   routing: same experts  largest weight\n";
  for (std::size_t layer_idx = 0; layer_idx < report.comparison.layers.size(); ++layer_idx) {
    const LayerDifference& layer = report.comparison.layers[layer_idx];
    out += fmt::format("  {:>5} {:<16} {:>15.3g} {:>10.3g}", layer_idx, layer_name(*report.config, layer_idx),
                       layer.hidden.relative(), layer.hidden.max_difference);
    if (layer.routing.num_tokens > 0) {
      out += fmt::format(" {:>22.2f}% {:>15.3g}", 100 * layer.routing.agreement(), layer.routing.max_weight_difference);
    }
    out += "\n";
  }
  return out;
}

// The given positions, or the worst ones by KL.
std::string positions_text(const std::vector<PositionDifference>& positions, bool all) {
  std::vector<std::size_t> order(positions.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  if (!all) {
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t a, std::size_t b) { return positions[a].kl > positions[b].kl; });
    order.resize(std::min(order.size(), kNumWorst));
  }
  std::string out = fmt::format("\n  {}\n  position         KL   largest  best of reference, of model\n",
                                all ? "positions" : "worst positions by KL");
  for (std::size_t i : order) {
    out += fmt::format("  {:>8} {:>10.3g} {:>9.3g}  {}, {}\n", i, positions[i].kl, positions[i].max_logit_difference,
                       positions[i].reference_top1, positions[i].actual_top1);
  }
  return out;
}

}  // namespace

Json compare_json(const CompareReport& report) {
  const LogitDifference& logits = report.comparison.logits;
  return {{"model", report.model},
          {"reference", report.reference},
          {"tokens", logits.positions.size()},
          {"mean_kl", logits.mean_kl},
          {"max_kl", logits.max_kl},
          {"top1_agreement", logits.top1_agreement},
          {"max_logit_diff_over_std", logits.max_logit_difference_over_std},
          {"max_logit_diff", logits.max_logit_difference},
          {"reference_logit_std", logits.reference_std},
          {"greedy_matched", report.greedy.matched},
          {"greedy_total", report.greedy.total},
          {"layers", layers_json(report)},
          {"positions", positions_json(logits.positions)}};
}

std::string compare_text(const CompareReport& report, bool all_positions) {
  const LogitDifference& logits = report.comparison.logits;
  std::string out = fmt::format("{}\n  against {}: {} positions, vocabulary {}\n", report.model, report.reference,
                                logits.positions.size(), report.config->V);
  out += fmt::format("  mean KL            {:.4g}\n  max KL             {:.4g}\n", logits.mean_kl, logits.max_kl);
  out += fmt::format("  top-1 agreement    {:.2f}%\n", 100 * logits.top1_agreement);
  out += fmt::format("  largest difference {:.4g} = {:.4g} standard deviations of the reference's logits\n",
                     logits.max_logit_difference, logits.max_logit_difference_over_std);
  if (report.greedy.total > 0) {
    out += fmt::format("  greedy tokens      {} of {} the same\n", report.greedy.matched, report.greedy.total);
  }
  return out + layers_text(report) + positions_text(logits.positions, all_positions);
}

}  // namespace qnext
