#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/compare.h"
#include "kernels/dispatch.h"
#include "kernels/test_tensor.h"

namespace qnext {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Shape {
  std::size_t num_tokens;
  std::size_t num_heads;
  std::size_t width;
};

// The real model's rows (2048 wide, heads of 128 and 256) and widths that no vector divides.
constexpr Shape kShapes[] = {{1, 1, 2048}, {3, 16, 256}, {2, 32, 128}, {63, 2, 33},  {64, 1, 65},
                             {65, 3, 100}, {2, 2, 1},    {1, 5, 15},   {1000, 1, 17}};

const KernelTable& ref() {
  return available_tables().front();
}

// A sum of `length` squares in f32 is within length * epsilon of itself; its root halves that; then a few roundings.
double norm_tolerance(const Tensor& expected, std::size_t length) {
  return max_abs(expected.values) * kEpsilon * (0.5 * static_cast<double>(length) + 8);
}

// An elementwise op: an exp within 1.5 ulp (3 epsilon), a division, a few products.
double gate_tolerance(const Tensor& expected) {
  return max_abs(expected.values) * kEpsilon * 12;
}

TEST(RmsNorm, EveryTableAgreesWithRef) {
  for (const Shape& s : kShapes) {
    for (const float scale : {1.0f, 1e-4f}) {  // the second so small that eps matters
      const Tensor x = random_tensor({s.num_tokens, s.num_heads, s.width}, 1, scale);
      const Tensor weight = random_tensor({s.width}, 2);
      Tensor expected({s.num_tokens, s.num_heads, s.width}, 0.0f);
      ref().rms_norm(expected, x, weight.values, 1e-6f, {0, s.num_tokens});
      for (const KernelTable& table : available_tables()) {
        SCOPED_TRACE(testing::Message() << table.name << " width " << s.width << " scale " << scale);
        Tensor out({s.num_tokens, s.num_heads, s.width}, kUntouched);
        table.rms_norm(out, x, weight.values, 1e-6f, {0, s.num_tokens});
        expect_close(out.view, expected.view, norm_tolerance(expected, s.width));
        Tensor inplace = x;
        table.rms_norm(inplace, inplace, weight.values, 1e-6f, {0, s.num_tokens});
        expect_same_bits(inplace.values, out.values);
      }
    }
  }
}

TEST(RmsNorm, IsWhatTheFormulaSays) {
  const Tensor x({1, 4}, {1, -2, 3, -4});  // mean of squares 7.5
  const std::vector<float> weight = {1, 2, 0.5f, -1};
  for (const KernelTable& table : available_tables()) {
    SCOPED_TRACE(table.name);
    Tensor out({1, 4}, kUntouched);
    table.rms_norm(out, x, weight, 0.5f, {0, 1});
    const double r = 1 / std::sqrt(8.0);
    const std::vector<float> expected = {float(r), float(-4 * r), float(1.5 * r), float(4 * r)};
    expect_close(out.values, expected, 1e-6);
  }
}

TEST(RmsNorm, OfARowIsTheSameWithAndWithoutHeadsAndWritesItsRangeOnly) {
  const Tensor x = random_tensor({5, 100}, 3);
  const Tensor weight = random_tensor({100}, 4);
  for (const KernelTable& table : available_tables()) {
    SCOPED_TRACE(table.name);
    Tensor rows({5, 100}, kUntouched);
    table.rms_norm(rows, x, weight.values, 1e-6f, {1, 4});
    Tensor heads({5, 1, 100}, kUntouched);
    table.rms_norm(heads, View<const float>(x.view.data(), {5, 1, 100}), weight.values, 1e-6f, {1, 4});
    expect_same_bits(rows.values, heads.values);
    for (std::size_t i = 0; i < 100; ++i) {
      EXPECT_EQ(rows.view(0, i), kUntouched);
      EXPECT_NE(rows.view(1, i), kUntouched);
      EXPECT_EQ(rows.view(4, i), kUntouched);
    }
  }
}

TEST(RmsNormGated, EveryTableAgreesWithRef) {
  for (const Shape& s : kShapes) {
    const Tensor x = random_tensor({s.num_tokens, s.num_heads, s.width}, 5);
    const Tensor gate = random_tensor({s.num_tokens, s.num_heads, s.width}, 6, 3.0f);
    const Tensor weight = random_tensor({s.width}, 7);
    Tensor expected({s.num_tokens, s.num_heads, s.width}, 0.0f);
    ref().rms_norm_gated(expected, x, gate, weight.values, 1e-6f, {0, s.num_tokens});
    for (const KernelTable& table : available_tables()) {
      SCOPED_TRACE(testing::Message() << table.name << " width " << s.width);
      Tensor out = x;  // in place, as the model does it
      table.rms_norm_gated(out, out, gate, weight.values, 1e-6f, {0, s.num_tokens});
      expect_close(out.view, expected.view, norm_tolerance(expected, s.width) + gate_tolerance(expected));
    }
  }
}

TEST(L2Norm, EveryTableAgreesWithRef) {
  for (const Shape& s : kShapes) {
    const Tensor x = random_tensor({s.num_tokens, s.num_heads, s.width}, 8, 1e-2f);
    Tensor expected = x;
    ref().l2_norm_inplace(expected, 0.25f, 1e-6f, {0, s.num_tokens});
    for (const KernelTable& table : available_tables()) {
      SCOPED_TRACE(testing::Message() << table.name << " width " << s.width);
      Tensor actual = x;
      table.l2_norm_inplace(actual, 0.25f, 1e-6f, {0, s.num_tokens});
      expect_close(actual.view, expected.view, norm_tolerance(expected, s.width));
    }
  }
}

TEST(Rope, EveryTableAgreesWithRefAndLeavesTheRestAlone) {
  for (const Shape& s : kShapes) {
    for (const std::size_t num_angles : {s.width / 8, s.width / 2}) {
      const Tensor x = random_tensor({s.num_tokens, s.num_heads, s.width}, 9);
      const Tensor angle = random_tensor({s.num_tokens, num_angles}, 10, 3.0f);
      Tensor cos = angle;
      Tensor sin = angle;
      for (float& value : cos.values) value = std::cos(value);
      for (float& value : sin.values) value = std::sin(value);
      Tensor expected = x;
      ref().rope_inplace(expected, cos, sin, {0, s.num_tokens});
      for (const KernelTable& table : available_tables()) {
        SCOPED_TRACE(testing::Message() << table.name << " width " << s.width << " angles " << num_angles);
        Tensor actual = x;
        table.rope_inplace(actual, cos, sin, {0, s.num_tokens});
        expect_close(actual.view, expected.view, max_abs(x.values) * kEpsilon * 4);
        for (std::size_t i = 2 * num_angles; i < s.width; ++i) EXPECT_EQ(actual.view(0, 0, i), x.view(0, 0, i));
      }
    }
  }
}

TEST(Rope, TurnsByTheAngle) {
  const Tensor cos({1, 1}, 0.0f);
  const Tensor sin({1, 1}, 1.0f);  // a quarter turn: (a, b) -> (-b, a)
  for (const KernelTable& table : available_tables()) {
    Tensor x({1, 1, 3}, {2.0f, 5.0f, 7.0f});
    table.rope_inplace(x, cos, sin, {0, 1});
    EXPECT_EQ(x.values, (std::vector<float>{-5.0f, 2.0f, 7.0f})) << table.name;
  }
}

TEST(Gates, EveryTableAgreesWithRef) {
  for (const Shape& s : kShapes) {
    const std::size_t t = s.num_tokens;
    const Tensor x = random_tensor({t, s.width}, 11);
    const Tensor gate = random_tensor({t, s.width}, 12, 4.0f);
    const Tensor share = random_tensor({t, 1}, 13, 2.0f);
    const View<const float> heads(x.view.data(), {t, 1, s.width});
    const View<const float> head_gate(gate.view.data(), {t, 1, s.width});
    Tensor silu({t, s.width}, 0.0f);
    Tensor gated({t, 1, s.width}, x.values);
    Tensor added = gate;
    ref().silu_mul(silu, gate, x, {0, t});
    ref().sigmoid_gate_inplace(gated, head_gate, {0, t});
    ref().add_gated(added, x, share, {0, t});
    for (const KernelTable& table : available_tables()) {
      SCOPED_TRACE(testing::Message() << table.name << " width " << s.width);
      Tensor actual = gate;
      table.silu_mul(actual, actual, x, {0, t});
      expect_close(actual.view, silu.view, gate_tolerance(silu));
      Tensor actual_gated({t, 1, s.width}, x.values);
      table.sigmoid_gate_inplace(actual_gated, head_gate, {0, t});
      expect_close(actual_gated.view, gated.view, gate_tolerance(gated));
      Tensor actual_added = gate;
      table.add_gated(actual_added, x, share, {0, t});
      expect_close(actual_added.view, added.view, gate_tolerance(added));
    }
  }
}

// The model passes parts of wider rows: a query and its gate lie side by side.
TEST(Gates, ReadAndWritePartsOfWiderRows) {
  const Tensor wide = random_tensor({3, 4, 70}, 14);
  for (const KernelTable& table : available_tables()) {
    SCOPED_TRACE(table.name);
    Tensor actual = wide;
    table.sigmoid_gate_inplace(actual.view.slice(2, 0, 35), actual.view.slice(2, 35, 70), {1, 3});
    for (std::size_t t = 0; t < 3; ++t) {
      for (std::size_t h = 0; h < 4; ++h) {
        for (std::size_t i = 0; i < 70; ++i) {
          const double opening = t == 0 || i >= 35 ? 1.0 : 1 / (1 + std::exp(-double(wide.view(t, h, i + 35))));
          EXPECT_NEAR(actual.view(t, h, i), opening * wide.view(t, h, i), 8 * kEpsilon);
        }
      }
    }
  }
}

// ---- Elementary functions, seen through the kernels that are nothing but them --------------------------------------

// Floats of every sign and exponent, and their neighbours' steps between.
std::vector<float> sweep_of_floats() {
  std::vector<float> values = {0.0f,    -0.0f,   20.0f, std::nextafter(20.0f, 30.0f), 88.7f, -87.4f,
                               -103.9f, -104.1f, 89.1f};
  for (std::uint64_t bits = 0; bits < 0x7f800000u; bits += 65'537) {
    values.push_back(std::bit_cast<float>(static_cast<std::uint32_t>(bits)));
    values.push_back(-values.back());
  }
  for (int i = -11'000; i <= 11'000; ++i) values.push_back(static_cast<float>(i) * 0.01f + 1e-4f);
  return values;
}

// The gap above |value| in f32.
double ulp(double value) {
  const double magnitude = std::max(std::abs(value), 0x1p-126);
  return std::ldexp(1.0, std::ilogb(magnitude) - 23);
}

TEST(Sigmoid, IsWithinThreeUlpOverAllFloats) {
  const std::vector<float> inputs = sweep_of_floats();
  const View<const float> gate(inputs.data(), {1, 1, inputs.size()});
  for (const KernelTable& table : available_tables()) {
    SCOPED_TRACE(table.name);
    Tensor out({1, 1, inputs.size()}, 1.0f);
    table.sigmoid_gate_inplace(out, gate, {0, 1});
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      const double expected = 1 / (1 + std::exp(-static_cast<double>(inputs[i])));
      ASSERT_LE(std::abs(out.values[i] - expected), 3 * ulp(expected)) << inputs[i] << " gave " << out.values[i];
    }
  }
}

// A sigmoid's error of 3 ulp is larger than 3 ulp of silu where the sigmoid is subnormal.
TEST(Silu, IsWithinFourUlpOverAllFloats) {
  const std::vector<float> inputs = sweep_of_floats();
  const View<const float> gate(inputs.data(), {1, inputs.size()});
  const Tensor ones({1, inputs.size()}, 1.0f);
  for (const KernelTable& table : available_tables()) {
    SCOPED_TRACE(table.name);
    Tensor out({1, inputs.size()}, kUntouched);
    table.silu_mul(out, gate, ones, {0, 1});
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      const double x = inputs[i];
      const double expected = x / (1 + std::exp(-x));
      ASSERT_LE(std::abs(out.values[i] - expected), 4 * ulp(expected) + 3 * std::abs(x) * 0x1p-149) << x;
    }
  }
}

TEST(Gates, CarryInfinityAndNaN) {
  const std::vector<float> inputs = {kInfinity, -kInfinity, NAN, 1000.0f, -1000.0f};
  for (const KernelTable& table : available_tables()) {
    SCOPED_TRACE(table.name);
    // Once as single lanes, once inside whole vectors.
    for (const std::size_t copies : {1, 16}) {
      std::vector<float> many;
      for (const float input : inputs) many.insert(many.end(), copies, input);
      Tensor out({1, 1, many.size()}, 1.0f);
      table.sigmoid_gate_inplace(out, View<const float>(many.data(), {1, 1, many.size()}), {0, 1});
      EXPECT_EQ(out.values[0], 1.0f);
      EXPECT_EQ(out.values[copies], 0.0f);
      EXPECT_TRUE(std::isnan(out.values[2 * copies]));
      EXPECT_EQ(out.values[3 * copies], 1.0f);
      EXPECT_EQ(out.values[4 * copies], 0.0f);
    }
  }
}

TEST(DeltaGates, SoftplusAndSigmoidAreAccurateOverAllFloats) {
  const std::vector<float> inputs = sweep_of_floats();
  const std::size_t width = inputs.size();
  const View<const float> x(inputs.data(), {1, width});
  const std::vector<float> minus_one(width, -1.0f);
  const std::vector<float> zero(width, 0.0f);
  for (const KernelTable& table : available_tables()) {
    SCOPED_TRACE(table.name);
    Tensor log_decay({1, width}, kUntouched);
    Tensor beta({1, width}, kUntouched);
    table.delta_gates(log_decay, beta, x, x, minus_one, zero, {0, 1});
    for (std::size_t i = 0; i < width; ++i) {
      const double softplus = inputs[i] > 20 ? inputs[i] : std::log1p(std::exp(static_cast<double>(inputs[i])));
      ASSERT_LE(std::abs(-log_decay.values[i] - softplus), 6 * ulp(softplus)) << inputs[i];
      const double sigmoid = 1 / (1 + std::exp(-static_cast<double>(inputs[i])));
      ASSERT_LE(std::abs(beta.values[i] - sigmoid), 3 * ulp(sigmoid)) << inputs[i];
    }
  }
}

TEST(DeltaGates, EveryTableAgreesWithRefOnItsRowsOnly) {
  for (const std::size_t num_heads : {1, 3, 32, 33, 64}) {
    const Tensor a = random_tensor({6, num_heads}, 15, 4.0f);
    const Tensor b = random_tensor({6, num_heads}, 16, 4.0f);
    const Tensor dt_bias = random_tensor({num_heads}, 17);
    Tensor neg_exp_a = random_tensor({num_heads}, 18);
    for (float& value : neg_exp_a.values) value = -std::exp(value);
    Tensor expected_decay({6, num_heads}, kUntouched);
    Tensor expected_beta({6, num_heads}, kUntouched);
    ref().delta_gates(expected_decay, expected_beta, a, b, neg_exp_a.values, dt_bias.values, {2, 5});
    for (const KernelTable& table : available_tables()) {
      SCOPED_TRACE(testing::Message() << table.name << " heads " << num_heads);
      Tensor log_decay({6, num_heads}, kUntouched);
      Tensor beta({6, num_heads}, kUntouched);
      table.delta_gates(log_decay, beta, a, b, neg_exp_a.values, dt_bias.values, {2, 5});
      const double largest = max_abs(std::span(expected_decay.view.row(2), 3 * num_heads));
      expect_close(log_decay.view, expected_decay.view, largest * kEpsilon * 16);
      expect_close(beta.view, expected_beta.view, kEpsilon * 8);
    }
  }
}

}  // namespace
}  // namespace qnext
