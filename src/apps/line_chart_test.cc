#include "apps/line_chart.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace qnext {
namespace {

using ::testing::DoubleNear;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::Pointwise;

TEST(LineChart, TicksAreRound) {
  EXPECT_THAT(round_ticks(0, 10, 8), Pointwise(DoubleNear(1e-9), {0.0, 2.0, 4.0, 6.0, 8.0, 10.0}));
  EXPECT_THAT(round_ticks(0.93, 1.27, 8), Pointwise(DoubleNear(1e-9), {0.95, 1.0, 1.05, 1.1, 1.15, 1.2, 1.25}));
  EXPECT_THAT(round_ticks(-3, 70000, 8),
              Pointwise(DoubleNear(1e-9), {0.0, 10000.0, 20000.0, 30000.0, 40000.0, 50000.0, 60000.0, 70000.0}));
}

TEST(LineChart, DrawsCurvesBandsAndNames) {
  const std::vector<ChartSeries> series = {{"a < b", {{0, 1, 1, 1}, {10, 2, 2, 2}}},
                                           {"c", {{0, 1, 0.5, 1.5}, {10, 3, 2, 4}}}};
  const std::string svg = line_chart_svg(series, {.title = "loss & more", .x_label = "step", .y_label = "nats"});
  for (const char* part : {"a &lt; b", "loss &amp; more", "step", "nats", "<polygon", "</svg>"})
    EXPECT_THAT(svg, HasSubstr(part));
  // x from 70 to 700 pixels, y from 388 (0.5) down to 44 (4).
  EXPECT_THAT(svg, HasSubstr("points=\"70.0,338.9 700.0,240.6 \""));
}

TEST(LineChart, OnePointAndAFlatCurveHaveAPlace) {
  const std::string svg = line_chart_svg({{"one", {{3, 0, 0, 0}}}}, {});
  EXPECT_THAT(svg, HasSubstr("<circle"));
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
}

TEST(LineChart, ALogarithmicAxisHasTicksOfEachPower) {
  const std::string svg = line_chart_svg({{"one", {{0, 0.01, 0.01, 0.01}, {1, 100, 100, 100}}}}, {"", "", "", true});
  for (const char* tick : {">0.01<", ">0.2<", ">5<", ">100<"}) EXPECT_THAT(svg, HasSubstr(tick));
}

}  // namespace
}  // namespace qnext
