// qnext plot: the curves of training logs.
#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>

#include <nlohmann/json.hpp>

#include "apps/command.h"
#include "apps/console.h"
#include "apps/line_chart.h"
#include "apps/png.h"
#include "tensor/atomic_file.h"
#include "tensor/tensor_entry.h"

namespace qnext {
namespace {

using Json = nlohmann::ordered_json;

struct PlotOptions {
  std::vector<std::string> logs, y = {"loss"};
  std::string out, x = "step", title;
  std::size_t smooth = 1;
  bool log_y = false;
};

// The number that a dotted path names: "mtp_losses.0", "time.experts".
std::optional<double> number_at(const Json& root, const std::string& path) {
  const Json* at = &root;
  for (std::size_t begin = 0; begin <= path.size();) {
    const std::size_t end = std::min(path.find('.', begin), path.size());
    const std::string name = path.substr(begin, end - begin);
    const bool is_index =
        at->is_array() && !name.empty() && name.size() < 9 && name.find_first_not_of("0123456789") == std::string::npos;
    if (is_index && std::stoul(name) < at->size()) {
      at = &(*at)[std::stoul(name)];
    } else if (at->is_object() && at->contains(name)) {
      at = &(*at)[name];
    } else {
      return std::nullopt;
    }
    begin = end + 1;
  }
  if (!at->is_number()) return std::nullopt;
  return at->get<double>();
}

using Curve = std::map<double, double>;  // x to y

Result<Curve> read_curve(const std::string& file, const PlotOptions& options, const std::string& y) {
  std::ifstream in(file);
  if (!in) return error("{}: cannot open it: {}", file, std::strerror(errno));
  Curve out;
  std::string line;
  for (std::size_t number = 1; std::getline(in, line); ++number) {
    const Json object = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (object.is_discarded())
      return error("{}: line {}: expected a JSON object, found {}", file, number, printable(line));
    const std::optional<double> at = number_at(object, options.x), value = number_at(object, y);
    if (at && value && std::isfinite(*at) && std::isfinite(*value) && (!options.log_y || *value > 0)) out[*at] = *value;
  }
  if (out.empty()) return error("{}: no line has the numbers {} and {}", file, options.x, y);
  return out;
}

// Each value becomes the mean of those up to `width` / 2 places before and after it.
Curve smoothed(const Curve& curve, std::size_t width) {
  std::vector<std::pair<double, double>> points(curve.begin(), curve.end());
  Curve out;
  for (std::size_t i = 0; i < points.size(); ++i) {
    const std::size_t reach = std::min({width / 2, i, points.size() - 1 - i});
    double sum = 0;
    for (std::size_t j = i - reach; j <= i + reach; ++j) sum += points[j].second;
    out[points[i].first] = sum / static_cast<double>(2 * reach + 1);
  }
  return out;
}

// Mean, least and largest of the curves wherever all of them have a value.
std::vector<ChartPoint> combined(const std::vector<Curve>& curves) {
  std::vector<ChartPoint> out;
  for (const auto& [x, first] : curves.front()) {
    ChartPoint point{x, 0, first, first};
    bool all = true;
    for (const Curve& curve : curves) {
      const auto found = curve.find(x);
      all = all && found != curve.end();
      if (!all) break;
      point.y += found->second / static_cast<double>(curves.size());
      point.low = std::min(point.low, found->second);
      point.high = std::max(point.high, found->second);
    }
    if (all) out.push_back(point);
  }
  return out;
}

struct PlotInput {
  std::string name;
  std::vector<std::string> files;
};

PlotInput parse_input(const std::string& text) {
  const std::size_t equals = text.find('=');
  if (equals == std::string::npos) return {text, {text}};
  PlotInput out{text.substr(0, equals), {}};
  for (const std::string& file : CLI::detail::split(text.substr(equals + 1), ',')) out.files.push_back(file);
  return out;
}

Result<ExitCode> plot(const PlotOptions& options) {
  std::vector<ChartSeries> series;
  for (const std::string& text : options.logs) {
    const PlotInput input = parse_input(text);
    for (const std::string& y : options.y) {
      std::vector<Curve> curves;
      for (const std::string& file : input.files) {
        QN_TRY(const Curve curve, read_curve(file, options, y));
        curves.push_back(smoothed(curve, options.smooth));
      }
      series.push_back({options.y.size() == 1 ? input.name : fmt::format("{}: {}", input.name, y), combined(curves)});
      if (series.back().points.empty()) return error("{}: its logs have no {} in common", input.name, options.x);
    }
  }
  const ChartOptions chart{options.title, options.x, options.y.size() == 1 ? options.y.front() : "", options.log_y};
  std::string picture = line_chart_svg(series, chart);
  if (std::filesystem::path(options.out).extension() == ".png") {
    QN_TRY(picture, png_of_svg(picture));
  }
  QN_RETURN_IF_ERROR(write_file(options.out, picture));
  return ExitCode::kDone;
}

}  // namespace

void add_plot_command(CLI::App& root, Action& action) {
  auto options = std::make_shared<PlotOptions>();
  CLI::App& command = *root.add_subcommand("plot", "Curves of training logs, as SVG or PNG.");
  command
      .add_option("LOGS", options->logs,
                  "log.jsonl files; NAME=FILE names a curve, NAME=FILE,FILE,... draws the mean of several runs and the "
                  "band that they span")
      ->required();
  command.add_option("--out", options->out, "The picture: NAME.svg or NAME.png")
      ->required()
      ->check([](const std::string& file) {
        const std::filesystem::path kind = std::filesystem::path(file).extension();
        if (kind == ".svg" || kind == ".png") return std::string();
        return fmt::format("{}: expected a name that ends in .svg or .png", printable(file));
      });
  command.add_option("--y", options->y, "Fields, by commas: loss, mtp_losses.0, time.experts, ...")
      ->delimiter(',')
      ->capture_default_str();
  command.add_option("--x", options->x, "The field along the bottom")->capture_default_str();
  command.add_option("--smooth", options->smooth, "Mean over so many lines")
      ->check(CLI::Range(1, 1000000))
      ->capture_default_str();
  command.add_option("--title", options->title, "Above the curves");
  command.add_flag("--log-y", options->log_y, "A logarithmic axis; values of 0 and below are left out");
  command.footer(
      "Examples:\n"
      "  qnext plot run1/log.jsonl --out loss.svg --smooth 20\n"
      "  qnext plot one=a/log.jsonl two=b/log.jsonl,c/log.jsonl --y mtp_accuracies.1 --out mtp.svg");
  command.callback([options, &action] { action = [options] { return plot(*options); }; });
}

}  // namespace qnext
