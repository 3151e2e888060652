// How small the quantisers' errors are: against llama.cpp's on the same weights, and against plain rounding.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tensor/format_test_data.h"

namespace qnext {
namespace {

struct LlamaSlice {
  std::vector<float> weights;
  std::vector<std::byte> blocks;
};

LlamaSlice load_llama_slice(DType type) {
  const std::string name = "llama_" + std::string(dtype_info(type).name);
  const auto raw = load_format_data<std::byte>(name + ".bf16");
  LlamaSlice slice = {std::vector<float>(raw.size() / 2), load_format_data<std::byte>(name + ".blocks")};
  decode_blocks(slice.weights.data(), raw.data(), DType::kBF16, slice.weights.size());
  EXPECT_EQ(slice.blocks.size(), dtype_bytes(type, slice.weights.size()));
  return slice;
}

TEST(AgainstLlama, Q8_0IsTheSameToTheByte) {
  const LlamaSlice slice = load_llama_slice(DType::kQ8_0);
  std::vector<std::byte> blocks(slice.blocks.size());
  encode_blocks(blocks.data(), slice.weights.data(), DType::kQ8_0, slice.weights.size());
  EXPECT_TRUE(blocks == slice.blocks);
}

struct Ratio {
  DType type;
  double rmse_ratio;  // ours / llama.cpp's: measured, and two thousandths above
};

class AgainstLlama : public testing::TestWithParam<Ratio> {};

TEST_P(AgainstLlama, ErrsLess) {
  const LlamaSlice slice = load_llama_slice(GetParam().type);
  std::vector<float> theirs(slice.weights.size());
  decode_blocks(theirs.data(), slice.blocks.data(), GetParam().type, theirs.size());
  const double ours = squared_error(round_trip(slice.weights, GetParam().type), slice.weights);
  EXPECT_LE(std::sqrt(ours / squared_error(theirs, slice.weights)), GetParam().rmse_ratio);
}

INSTANTIATE_TEST_SUITE_P(Types, AgainstLlama,
                         testing::Values(Ratio{DType::kQ4_K, 0.973}, Ratio{DType::kQ5_K, 0.949},
                                         Ratio{DType::kQ6_K, 0.925}),
                         [](const auto& info) { return std::string(dtype_info(info.param.type).name); });

// Plain rounding of runs of `run` elements, its scales real numbers: what the format would give with scales for free.
struct PlainRounding {
  DType type;
  std::size_t run;
  std::vector<float> levels;  // ascending; the value of the largest magnitude is laid on the first
  bool affine;                // or: the least value on the first, the greatest on the last
};

std::vector<float> integers(int first, int last) {
  std::vector<float> levels;
  for (int level = first; level <= last; ++level) levels.push_back(static_cast<float>(level));
  return levels;
}

std::vector<float> round_plainly(const std::vector<float>& values, const PlainRounding& plain) {
  std::vector<float> out;
  for (std::size_t begin = 0; begin < values.size(); begin += plain.run) {
    const auto* first = &values[begin];
    const auto [low, high] = std::minmax_element(first, first + plain.run);
    const float extreme = -*low > *high ? *low : *high;
    const float scale = plain.affine ? (*high - *low) / plain.levels.back() : extreme / plain.levels.front();
    const float offset = plain.affine ? *low : 0;
    for (std::size_t i = 0; i < plain.run; ++i) {
      const float scaled = (first[i] - offset) / scale;
      const float level = *std::min_element(plain.levels.begin(), plain.levels.end(), [scaled](float a, float b) {
        return std::fabs(a - scaled) < std::fabs(b - scaled);
      });
      out.push_back(level * scale + offset);
    }
  }
  return out;
}

class AgainstPlainRounding : public testing::TestWithParam<PlainRounding> {};

TEST_P(AgainstPlainRounding, ErrsLessThoughScalesCostBits) {
  const std::vector<float> values = normal_values(16 * kSuperBlock, 0.02f, 3);
  const double ours = squared_error(round_trip(values, GetParam().type), values);
  EXPECT_LT(ours, squared_error(round_plainly(values, GetParam()), values));
}

const std::vector<float> kIq4(kIq4Levels.begin(), kIq4Levels.end());

INSTANTIATE_TEST_SUITE_P(Types, AgainstPlainRounding,
                         testing::Values(PlainRounding{DType::kQ4_0, 32, integers(-8, 7), false},
                                         PlainRounding{DType::kQ4_1, 32, integers(0, 15), true},
                                         PlainRounding{DType::kQ5_0, 32, integers(-16, 15), false},
                                         PlainRounding{DType::kQ5_1, 32, integers(0, 31), true},
                                         PlainRounding{DType::kQ2_K, 16, integers(0, 3), true},
                                         PlainRounding{DType::kQ3_K, 16, integers(-4, 3), false},
                                         PlainRounding{DType::kQ4_K, 32, integers(0, 15), true},
                                         PlainRounding{DType::kQ5_K, 32, integers(0, 31), true},
                                         PlainRounding{DType::kQ6_K, 16, integers(-32, 31), false},
                                         PlainRounding{DType::kIQ4_NL, 32, kIq4, false},
                                         PlainRounding{DType::kIQ4_XS, 32, kIq4, false}),
                         [](const auto& info) { return std::string(dtype_info(info.param.type).name); });

// MXFP4's plain rule lays the largest magnitude's exponent on that of 6 (OCP MX specification 1.0, section 6.3).
TEST(Mxfp4, ErrsLessThanTheSpecificationsConversion) {
  const std::vector<float> values = normal_values(512 * kSmallBlock, 0.02f, 4);
  std::vector<float> plain;
  for (std::size_t begin = 0; begin < values.size(); begin += kSmallBlock) {
    float max_magnitude = 0;
    for (std::size_t i = 0; i < kSmallBlock; ++i) {
      max_magnitude = std::max(max_magnitude, std::fabs(values[begin + i]));
    }
    const float scale = std::ldexp(1.0f, std::ilogb(max_magnitude) - 3);  // of the doubled levels
    for (std::size_t i = 0; i < kSmallBlock; ++i) {
      plain.push_back(scale * *std::min_element(kMxfp4Levels.begin(), kMxfp4Levels.end(),
                                                [scaled = values[begin + i] / scale](int a, int b) {
                                                  return std::fabs(static_cast<float>(a) - scaled) <
                                                         std::fabs(static_cast<float>(b) - scaled);
                                                }));
    }
  }
  EXPECT_LT(squared_error(round_trip(values, DType::kMXFP4), values), squared_error(plain, values));
}

class Importance : public testing::TestWithParam<DType> {};

TEST_P(Importance, LowersTheErrorThatItWeighs) {
  const std::vector<float> values = normal_values(16 * kSuperBlock, 0.02f, 5);
  std::vector<float> importance = normal_values(values.size(), 1, 6);
  for (float& weight : importance) weight = weight * weight * weight * weight;
  const double unaware = squared_error(round_trip(values, GetParam()), values, importance);
  EXPECT_LT(squared_error(round_trip(values, GetParam(), importance), values, importance), unaware);
}

TEST_P(Importance, OnlyItsProportionsMatter) {
  const std::vector<float> values = normal_values(2 * kSuperBlock, 0.02f, 7);
  const std::vector<float> unaware = round_trip(values, GetParam());
  for (const float weight : {0.0f, 1e-38f, 1e38f}) {
    EXPECT_EQ(round_trip(values, GetParam(), std::vector<float>(values.size(), weight)), unaware) << weight;
  }
}

INSTANTIATE_TEST_SUITE_P(Types, Importance,
                         testing::Values(DType::kQ4_0, DType::kQ4_1, DType::kQ5_0, DType::kQ5_1, DType::kQ2_K,
                                         DType::kQ3_K, DType::kQ4_K, DType::kQ5_K, DType::kQ6_K, DType::kIQ4_NL,
                                         DType::kIQ4_XS, DType::kMXFP4),
                         dtype_test_name);

}  // namespace
}  // namespace qnext
