// Every op against its slow twin in float64, forward and gradients, with documents that begin and end inside a chunk.
#include "train/ops.h"
#include "train/expert_parallel.h"

#include <gtest/gtest.h>

#include <functional>
#include <optional>

#include "train/compute.h"
#include "train/slow_twin.h"

namespace qnext::train {
namespace {

using Tensors = std::vector<Tensor>;

Tensor random(torch::IntArrayRef shape, double scale = 1) {
  return torch::randn(shape) * scale;
}

// A loss that every element of every result moves differently.
Tensor mixed(const Tensors& results) {
  Tensor loss = torch::zeros({}, results[0].options());
  for (const Tensor& result : results) {
    const Tensor weights =
        torch::cos(torch::arange(result.numel(), torch::kFloat64) * 0.7 + 0.3).to(result.scalar_type());
    loss = loss + (result.reshape({-1}) * weights).sum();
  }
  return loss;
}

void expect_near(const Tensor& found, const Tensor& expected, double tolerance, const std::string& what) {
  ASSERT_EQ(found.sizes(), expected.sizes()) << what;
  const double scale = expected.abs().max().item<double>();
  const double difference = (found.to(torch::kFloat64) - expected).abs().max().item<double>();
  EXPECT_LE(difference, tolerance * scale) << what << ", largest value " << scale;
  EXPECT_GT(scale, 0) << what << " is all zeros: nothing was tested";
}

// The gradient of one input whose terms cancel, so that its error is of their size and not of its own.
struct Looser {
  std::size_t input;
  double tolerance;
};

// `fast` on float32 against `slow` on the same numbers in float64: results, and gradients of every input.
// `tolerance` is relative to the largest value: float32's 6e-8 times the square root of the longest sum, with room.
void expect_agrees(const std::function<Tensors(const Tensors&)>& fast,
                   const std::function<Tensors(const Tensors&)>& slow, const Tensors& inputs, double tolerance,
                   std::optional<Looser> looser = std::nullopt) {
  Tensors singles, doubles;
  for (const Tensor& input : inputs) {
    singles.push_back(input.clone().requires_grad_(true));
    doubles.push_back(input.to(torch::kFloat64).requires_grad_(true));
  }
  const Tensors found = fast(singles), expected = slow(doubles);
  ASSERT_EQ(found.size(), expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    expect_near(found[i].detach(), expected[i].detach(), tolerance, "result " + std::to_string(i));
  }
  const Tensors d_found = torch::autograd::grad({mixed(found)}, singles);
  const Tensors d_expected = torch::autograd::grad({mixed(expected)}, doubles);
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    expect_near(d_found[i], d_expected[i], looser && looser->input == i ? looser->tolerance : tolerance,
                "gradient of input " + std::to_string(i));
  }
}

class OpsTest : public testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    set_num_threads(static_cast<std::size_t>(GetParam()));
    torch::manual_seed(11);
  }
  const Bounds bounds_ = {0, 1, 64, 65, 200, 261};  // one token, a chunk less one, one, two chunks and a bit
  const std::int64_t T_ = 261;
};

TEST_P(OpsTest, Project) {
  expect_agrees([](const Tensors& x) { return Tensors{project(x[0], x[1])}; },
                [](const Tensors& x) { return Tensors{torch::mm(x[0], x[1].t())}; },
                {random({T_, 33}), random({150, 33})}, 1e-5);
}

TEST_P(OpsTest, ProjectEach) {
  expect_agrees(
      [](const Tensors& x) {
        return project_each(x[0], {x[1], x[2]});
      },
      [](const Tensors& x) {
        return Tensors{torch::mm(x[0], x[1].t()), torch::mm(x[0], x[2].t())};
      },
      {random({T_, 33}), random({150, 33}), random({1, 33})}, 1e-5);
}

TEST_P(OpsTest, SumsAndBranches) {
  expect_agrees(
      [](const Tensors& x) {
        const Tensors parts = branches(x[0], 3);
        return Tensors{sum_of({parts[0] * x[1], parts[1], x[1]}), parts[2] * 2};
      },
      [](const Tensors& x) {
        return Tensors{x[0] * x[1] + x[0] + x[1], x[0] * 2};
      },
      {random({T_, 33}), random({T_, 33})}, 1e-5);
}

TEST_P(OpsTest, NormedStream) {
  const auto list = [](const NormedStream& out) { return Tensors{out.stream, out.normed}; };
  expect_agrees(
      [&](const Tensors& x) {
        return list(normed_stream({x[0], x[1]}, x[2], 1e-6));
      },
      [](const Tensors& x) {
        return Tensors{x[0] + x[1], slow::zero_centred_norm(x[0] + x[1], x[2], 1e-6)};
      },
      {random({T_, 40}), random({T_, 40}), random({40}, 0.3)}, 1e-5);
  expect_agrees([&](const Tensors& x) { return list(normed_stream(x[0], x[1], 1e-6)); },
                [](const Tensors& x) {
                  return Tensors{x[0] * 1, slow::zero_centred_norm(x[0], x[1], 1e-6)};
                },
                {random({T_, 40}), random({40}, 0.3)}, 1e-5);
}

TEST_P(OpsTest, Route) {
  const Tensor logits = random({T_, 20}, 2);
  const auto list = [](const Routed& out) { return Tensors{out.weights, out.load.probabilities, out.load.z}; };
  for (const Bounds& parts : {Bounds{0, T_}, bounds_}) {
    expect_agrees([&](const Tensors& x) { return list(route(x[0], 3, parts)); },
                  [&](const Tensors& x) { return list(slow::route(x[0], 3, parts)); }, {logits}, 1e-5);
    const Routed found = route(logits, 3, parts), expected = slow::route(logits, 3, parts);
    EXPECT_TRUE(torch::equal(found.chosen, expected.chosen));
    EXPECT_TRUE(torch::equal(found.load.counts, expected.load.counts));
  }
  const Tensor alike = route(torch::zeros({1, 5}), 5, {0, 1}).chosen;
  EXPECT_TRUE(torch::equal(alike, torch::arange(5).unsqueeze(0)));
  const Tensor broken =
      route(torch::full({1, 5}, NAN), 2, {0, 1}).chosen;  // the loss will say so; indices must stay indices
  EXPECT_TRUE(torch::equal(broken, torch::arange(2).unsqueeze(0)));
}

TEST_P(OpsTest, ZeroCentredNorm) {
  expect_agrees([](const Tensors& x) { return Tensors{zero_centred_norm(x[0], x[1], 1e-6)}; },
                [](const Tensors& x) { return Tensors{slow::zero_centred_norm(x[0], x[1], 1e-6)}; },
                {random({T_, 3, 40}), random({40}, 0.3)}, 1e-5);
}

TEST_P(OpsTest, GatedNorm) {
  expect_agrees([](const Tensors& x) { return Tensors{gated_norm(x[0], x[1], x[2], 1e-6)}; },
                [](const Tensors& x) { return Tensors{slow::gated_norm(x[0], x[1], x[2], 1e-6)}; },
                {random({T_, 3, 40}), random({T_, 3, 40}, 3), random({40})}, 1e-5);
}

TEST_P(OpsTest, L2Norm) {
  expect_agrees([](const Tensors& x) { return Tensors{l2_norm(x[0], 0.25)}; },
                [](const Tensors& x) { return Tensors{slow::l2_norm(x[0], 0.25)}; }, {random({T_, 3, 40})}, 1e-5);
}

TEST_P(OpsTest, Rope) {
  expect_agrees([&](const Tensors& x) { return Tensors{rope(x[0], rope_angles(bounds_, 8, 1e4))}; },
                [&](const Tensors& x) { return Tensors{slow::rope(x[0], bounds_, 8, 1e4)}; }, {random({T_, 3, 32})},
                1e-5);
}

TEST_P(OpsTest, ConvSilu) {
  const DeltaNetHeads heads{.Hk = 2, .Hv = 6, .Dk = 8, .Dv = 5};
  const auto list = [](const ConvOutputs& out) { return Tensors{out.q, out.k, out.v, out.z}; };
  expect_agrees([&](const Tensors& x) { return list(conv_silu(x[0], x[1], bounds_, heads)); },
                [&](const Tensors& x) { return list(slow::conv_silu(x[0], x[1], bounds_, heads)); },
                {random({T_, 2 * (16 + 30)}), random({32 + 30, 1, 4}, 0.5)}, 1e-5);
}

// Log-decays from nearly none to e^-8 a token: sums of 64 reach -500, whose exponentials must never be divided.
TEST_P(OpsTest, DeltaRule) {
  const auto with = [&](const auto& rule) {
    return [&](const Tensors& x) {
      return Tensors{rule(x[0], x[1], x[2], -8 * torch::sigmoid(x[3]), torch::sigmoid(x[4]), bounds_)};
    };
  };
  const Tensor q = l2_norm(random({T_, 2, 16}), 0.25), k = l2_norm(random({T_, 2, 16}), 1);
  expect_agrees(with(delta_rule), with(slow::delta_rule),
                {q, k, random({T_, 4, 24}), random({T_, 4}, 4) - 3, random({T_, 4}, 2)}, 1e-5);
}

// The solve's hardest case: every token writes where the last one wrote. The terms that sum to the decays' gradient
// then nearly cancel: over 20 seeds its error was 2e-5 to 2e-4 of its largest value, and those of all else at most
// 2e-6.
TEST_P(OpsTest, DeltaRuleOfRepeatedKeys) {
  const Tensor k = l2_norm(torch::ones({T_, 1, 16}) + 0.01 * random({T_, 1, 16}), 1);
  const auto with = [&](const auto& rule) {
    return [&](const Tensors& x) {
      return Tensors{rule(x[0], x[1], x[2], -0.001 * torch::sigmoid(x[3]), torch::sigmoid(x[4]), bounds_)};
    };
  };
  expect_agrees(with(delta_rule), with(slow::delta_rule),
                {k.clone(), k, random({T_, 1, 16}), random({T_, 1}), random({T_, 1}) + 4}, 1e-5,
                Looser{.input = 3, .tolerance = 5e-4});
}

TEST_P(OpsTest, Attention) {
  expect_agrees([&](const Tensors& x) { return Tensors{attention(x[0], x[1], x[2], bounds_)}; },
                [&](const Tensors& x) { return Tensors{slow::attention(x[0], x[1], x[2], bounds_)}; },
                {random({T_, 6, 16}, 2), random({T_, 2, 16}, 2), random({T_, 2, 16})}, 1e-5);
}

TEST_P(OpsTest, Experts) {  // expert 3 is never chosen, and gets a gradient of zeros
  Tensor chosen = torch::randint(0, 3, {T_, 2});
  chosen.select(1, 1) += 4;
  expect_agrees([&](const Tensors& x) { return Tensors{experts(x[0], chosen, x[1], x[2], x[3])}; },
                [&](const Tensors& x) { return Tensors{slow::experts(x[0], chosen, x[1], x[2], x[3])}; },
                {random({T_, 20}), random({T_, 2}), random({7, 24, 20}, 0.3), random({7, 20, 12}, 0.3)}, 1e-5);
}

TEST_P(OpsTest, ExpertsOfOneRank) {  // several: tests/e2e/test_train.py
  Tensor chosen = torch::randint(0, 3, {T_, 2});
  chosen.select(1, 1) += 4;
  const Ranks alone;
  expect_agrees([&](const Tensors& x) { return Tensors{experts_of_ranks(x[0], chosen, x[1], x[2], x[3], alone)}; },
                [&](const Tensors& x) { return Tensors{slow::experts(x[0], chosen, x[1], x[2], x[3])}; },
                {random({T_, 20}), random({T_, 2}), random({7, 24, 20}, 0.3), random({7, 20, 12}, 0.3)}, 1e-5);
}

TEST_P(OpsTest, HeadLoss) {
  const std::int64_t T = 700;  // more than one block of logits
  const Tensor labels = torch::randint(0, 90, {T}), weights = torch::rand({T}).gt(0.3).to(torch::kFloat32);
  expect_agrees(
      [&](const Tensors& x) { return Tensors{head_loss(x[0], x[1], labels, weights).sum}; },
      [&](const Tensors& x) { return Tensors{slow::head_loss(x[0], x[1], labels, weights.to(torch::kFloat64))}; },
      {random({T, 20}), random({90, 20})}, 1e-5);
  const Tensor h = random({T, 20}), w = random({90, 20});
  const Tensor right = torch::mm(h, w.t()).argmax(1).eq(labels).logical_and(weights.gt(0));
  EXPECT_TRUE(torch::equal(head_loss(h, w, labels, weights).correct, right));
}

INSTANTIATE_TEST_SUITE_P(Threads, OpsTest, testing::Values(1, 2, 3));

// The delta rule's backward by central differences, which share no code with autograd.
TEST(DeltaRuleTest, GradientsByFiniteDifferences) {
  torch::manual_seed(5);
  const Bounds bounds = {0, 3, 70};
  Tensors inputs = {l2_norm(random({70, 1, 4}), 0.5), l2_norm(random({70, 1, 4}), 1), random({70, 1, 3}),
                    -torch::rand({70, 1}), torch::rand({70, 1})};
  const auto loss = [&](const Tensors& x) {  // the recurrence in float64
    return mixed({slow::delta_rule(x[0], x[1], x[2], x[3], x[4], bounds)}).item<double>();
  };
  Tensors singles, doubles;
  for (const Tensor& input : inputs) {
    singles.push_back(input.clone().requires_grad_(true));
    doubles.push_back(input.to(torch::kFloat64));
  }
  const Tensors found = torch::autograd::grad(
      {mixed({delta_rule(singles[0], singles[1], singles[2], singles[3], singles[4], bounds)})}, singles);
  for (std::size_t i = 0; i < doubles.size(); ++i) {
    Tensor expected = torch::empty_like(doubles[i]);
    for (std::int64_t element = 0; element < doubles[i].numel(); ++element) {
      const double step = 1e-5;
      double& value = doubles[i].data_ptr<double>()[element];
      const double before = value;
      value = before + step;
      const double above = loss(doubles);
      value = before - step;
      const double below = loss(doubles);
      value = before;
      expected.view({-1})[element] = (above - below) / (2 * step);
    }
    expect_near(found[i], expected, 1e-5, "gradient of input " + std::to_string(i));
  }
}

// Training must not depend on the machine's number of threads.
TEST(OpsThreadsTest, BitsAreTheSame) {
  torch::manual_seed(3);
  const Bounds bounds = {0, 100, 300};
  const Tensors inputs = {l2_norm(random({300, 2, 16}), 0.25),
                          l2_norm(random({300, 2, 16}), 1),
                          random({300, 4, 24}),
                          -torch::rand({300, 4}),
                          torch::rand({300, 4}),
                          random({40, 96}, 0.1)};
  const auto gradients = [&](std::size_t threads) {
    set_num_threads(threads);
    Tensors x;
    for (const Tensor& input : inputs) x.push_back(input.clone().requires_grad_(true));
    const Tensor rule = delta_rule(x[0], x[1], x[2], x[3], x[4], bounds).reshape({300, 96});
    return torch::autograd::grad({mixed({project(rule, x[5])})}, x);
  };
  const Tensors one = gradients(1), three = gradients(3);
  for (std::size_t i = 0; i < one.size(); ++i) EXPECT_TRUE(torch::equal(one[i], three[i])) << i;
}

}  // namespace
}  // namespace qnext::train
