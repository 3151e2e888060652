#include "apps/line_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "apps/xml_text.h"

namespace qnext {
namespace {

constexpr double kWidth = 720, kHeight = 440;
constexpr double kLeft = 70, kRight = 20, kTop = 44, kBottom = 52;
// Okabe and Ito's colours, which the colour-blind tell apart, without yellow.
constexpr std::array kColours = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                 "#56b4e9", "#e69f00", "#555555", "#7a3b8f"};

// An axis: values to pixels.
struct Scale {
  double low = 0, high = 1, from = 0, to = 1;
  bool is_log = false;

  double pixel(double value) const {
    const double at = is_log ? std::log10(value / low) / std::log10(high / low) : (value - low) / (high - low);
    return from + at * (to - from);
  }
  std::vector<double> ticks() const {
    if (!is_log) return round_ticks(low, high, 8);
    std::vector<double> out;
    for (double tick = std::pow(10, std::floor(std::log10(low))); tick <= high; tick *= 10) {
      for (double times : {1.0, 2.0, 5.0}) {
        if (tick * times >= low && tick * times <= high) out.push_back(tick * times);
      }
    }
    return out;
  }
};

// Room for all points; a single value gets some above and below.
Scale fit(double low, double high, double from, double to, bool is_log) {
  if (low == high) {
    const double room = low == 0 ? 1 : std::abs(low) * 0.1;
    low -= room;
    high += room;
  }
  return {low, high, from, to, is_log};
}

std::string points_text(const std::vector<ChartPoint>& points, const Scale& x, const Scale& y,
                        double ChartPoint::*value, bool backwards) {
  std::string out;
  for (std::size_t i = 0; i < points.size(); ++i) {
    const ChartPoint& point = points[backwards ? points.size() - 1 - i : i];
    out += fmt::format("{:.1f},{:.1f} ", x.pixel(point.x), y.pixel(point.*value));
  }
  return out;
}

std::string axes_svg(const Scale& x, const Scale& y, const ChartOptions& options) {
  std::string out;
  for (double tick : x.ticks()) {
    out += fmt::format(
        "<path d=\"M{0:.1f} {1}V{2}\" stroke=\"#ddd\"/><text x=\"{0:.1f}\" y=\"{3}\" "
        "text-anchor=\"middle\">{4:g}</text>\n",
        x.pixel(tick), kTop, kHeight - kBottom, kHeight - kBottom + 18, tick);
  }
  for (double tick : y.ticks()) {
    out += fmt::format(
        "<path d=\"M{0} {1:.1f}H{2}\" stroke=\"#ddd\"/><text x=\"{3}\" y=\"{4:.1f}\" "
        "text-anchor=\"end\">{5:g}</text>\n",
        kLeft, y.pixel(tick), kWidth - kRight, kLeft - 8, y.pixel(tick) + 4, tick);
  }
  out += fmt::format("<text x=\"{}\" y=\"24\" text-anchor=\"middle\" font-size=\"15\">{}</text>\n", kWidth / 2,
                     xml_text(options.title));
  out += fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n", (kLeft + kWidth - kRight) / 2,
                     kHeight - 12, xml_text(options.x_label));
  const double middle = (kTop + kHeight - kBottom) / 2;
  out += fmt::format("<text x=\"18\" y=\"{0}\" text-anchor=\"middle\" transform=\"rotate(-90 18 {0})\">{1}</text>\n",
                     middle, xml_text(options.y_label));
  return out;
}

std::string series_svg(const ChartSeries& series, std::size_t number, const Scale& x, const Scale& y) {
  const char* colour = kColours[number % kColours.size()];
  const bool has_band = std::ranges::any_of(series.points, [](const ChartPoint& p) { return p.low < p.high; });
  std::string out;
  if (has_band) {
    out += fmt::format("<polygon fill=\"{}\" fill-opacity=\"0.15\" points=\"{}{}\"/>\n", colour,
                       points_text(series.points, x, y, &ChartPoint::high, false),
                       points_text(series.points, x, y, &ChartPoint::low, true));
  }
  out += fmt::format("<polyline fill=\"none\" stroke=\"{}\" stroke-width=\"1.6\"{} points=\"{}\"/>\n", colour,
                     number < kColours.size() ? "" : " stroke-dasharray=\"6 3\"",
                     points_text(series.points, x, y, &ChartPoint::y, false));
  if (series.points.size() == 1) {
    out += fmt::format("<circle fill=\"{}\" r=\"3\" cx=\"{:.1f}\" cy=\"{:.1f}\"/>\n", colour,
                       x.pixel(series.points[0].x), y.pixel(series.points[0].y));
  }
  return out;
}

// A curve's line in the legend, legible upon curves.
std::string name_svg(const ChartSeries& series, std::size_t number) {
  const double at = kTop + 14 + 16 * static_cast<double>(number);
  return fmt::format(
      "<path d=\"M{0} {1}h22\" stroke=\"white\" stroke-width=\"9\"/><path d=\"M{0} {1}h22\" stroke=\"{2}\" "
      "stroke-width=\"3\"/><text x=\"{3}\" y=\"{4}\" text-anchor=\"end\" stroke=\"white\" stroke-width=\"4\" "
      "paint-order=\"stroke\">{5}</text>\n",
      kWidth - kRight - 30, at - 4, kColours[number % kColours.size()], kWidth - kRight - 36, at,
      xml_text(series.name));
}

}  // namespace

std::vector<double> round_ticks(double low, double high, std::size_t most) {
  const double least = (high - low) / static_cast<double>(most);
  const double power = std::pow(10, std::floor(std::log10(least)));
  double step = 10 * power;
  for (double times : {5.0, 2.0, 1.0}) {
    if (times * power >= least) step = times * power;
  }
  std::vector<double> out;
  for (double i = std::ceil(low / step); i * step <= high && out.size() < most; ++i) out.push_back(i * step);
  return out;
}

std::string line_chart_svg(const std::vector<ChartSeries>& series, const ChartOptions& options) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  double x_low = kInfinity, x_high = -kInfinity, y_low = kInfinity, y_high = -kInfinity;
  for (const ChartSeries& one : series) {
    for (const ChartPoint& point : one.points) {
      x_low = std::min(x_low, point.x);
      x_high = std::max(x_high, point.x);
      y_low = std::min({y_low, point.y, point.low});
      y_high = std::max({y_high, point.y, point.high});
    }
  }
  const Scale x = fit(x_low, x_high, kLeft, kWidth - kRight, false);
  const Scale y = fit(y_low, y_high, kHeight - kBottom, kTop, options.log_y);
  std::string out = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\" "
      "font-family=\"sans-serif\" "
      "font-size=\"12\">\n<rect width=\"{0}\" height=\"{1}\" fill=\"white\"/>\n",
      kWidth, kHeight);
  out += axes_svg(x, y, options);
  for (std::size_t i = 0; i < series.size(); ++i) out += series_svg(series[i], i, x, y);
  for (std::size_t i = 0; i < series.size(); ++i) out += name_svg(series[i], i);
  return out + "</svg>\n";
}

}  // namespace qnext
