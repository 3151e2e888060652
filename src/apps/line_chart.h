#pragma once
// Line charts as SVG text: curves over one axis, each with a band around it where it has one.

#include <string>
#include <vector>

namespace qnext {

struct ChartPoint {
  double x = 0, y = 0;
  double low = 0, high = 0;  // the band's; both equal y: no band
};

struct ChartSeries {
  std::string name;
  std::vector<ChartPoint> points;  // ascending in x, finite
};

struct ChartOptions {
  std::string title, x_label, y_label;
  bool log_y = false;  // every y above 0
};

// 720 x 440, white, text as text. Series beyond the palette's eight colours are dashed. At least one point.
std::string line_chart_svg(const std::vector<ChartSeries>& series, const ChartOptions& options);

// Round values (1, 2 or 5 times a power of ten apart) from low to high, at most `most` of them; low < high.
std::vector<double> round_ticks(double low, double high, std::size_t most);

}  // namespace qnext
