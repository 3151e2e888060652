#include "tensor/shape_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tensor/file_test_util.h"

namespace qnext {
namespace {

TEST(Shapes, BindsOnFirstUse) {
  float data[24] = {};
  const View<float> q(data, {2, 3, 4});
  const View<const float> k(data, {3, 4});
  Shapes s;
  s.match(q, {"T", "H", "D"}).match(k, {"H", "D"}).match(Weight{.rows = 7, .cols = 4}, {"F", "D"}).bind("T", 2);
  EXPECT_EQ(s["T"], 2U);
  EXPECT_EQ(s["D"], 4U);
  EXPECT_EQ(s["F"], 7U);
}

TEST(Shapes, OneSymbolTwiceInAViewMeansASquare) {
  float data[9] = {};
  Shapes().match(View<float>(data, {3, 3}), {"N", "N"});
  EXPECT_DEATH(Shapes().match(View<float>(data, {1, 3}), {"N", "N"}), "N = 1, found \\[1, 3\\]");
}

TEST(ShapesDeathTest, NamesSymbolAndBothValues) {
  float data[24] = {};
  Shapes s;
  s.match(View<float>(data, {2, 3}), {"T", "D"});
  EXPECT_DEATH(s.match(View<float>(data, {2, 4}), {"T", "D"}), "\\[T, D\\] with D = 3, found \\[2, 4\\]");
  EXPECT_DEATH(s.match(Weight{.rows = 5, .cols = 4}, {"F", "D"}), "D = 3, found \\[5, 4\\]");
  EXPECT_DEATH(s.match(View<float>(data, {2}), {"T", "D"}), "expected \\[T, D\\], found \\[2\\]");
  EXPECT_DEATH(s.bind("T", 9), "T = 2");
  EXPECT_DEATH(s["Q"], "nothing has bound Q");
}

TEST(ShapesDeathTest, HasRoomForSoManySymbols) {
  static const std::string names = "abcdefghijklmnopqrstuvwxyz";
  Shapes s;
  for (std::size_t i = 0; i < Shapes::kMaxSymbols; ++i) s.bind(std::string_view(names).substr(i, 1), i);
  EXPECT_EQ(s[names.substr(Shapes::kMaxSymbols - 1, 1)], Shapes::kMaxSymbols - 1);
  EXPECT_DEATH(s.bind("z", 1), "one too many");
}

TEST(ExpectShape, SaysWhatWasExpectedAndFound) {
  const TensorEntry entry{.name = "w", .shape = {3, 4}};
  EXPECT_TRUE(expect_shape(entry, {3, 4}, "x.gguf").ok());
  EXPECT_EQ(expect_shape(entry, {3, 5}, "x.gguf").message(), "x.gguf: tensor 'w': expected shape [3, 5], found [3, 4]");
  EXPECT_FALSE(expect_shape(entry, {4, 3}, "x").ok());
  EXPECT_FALSE(expect_shape(entry, {3, 4, 1}, "x").ok());
  EXPECT_FALSE(expect_shape(entry, {3}, "x").ok());
  EXPECT_FALSE(expect_shape(entry, {}, "x").ok());
}

}  // namespace
}  // namespace qnext
