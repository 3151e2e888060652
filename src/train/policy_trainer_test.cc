// Steps of GSPO on a small network: what the gradient is, that it makes rewarded answers likelier, that it goes on.
#include "train/policy_trainer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tensor/file_test_util.h"
#include "train/compute.h"
#include "train/network_files.h"
#include "train/test_support.h"

namespace qnext::train {
namespace {

using ::testing::HasSubstr;

class PolicyTrainerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    set_num_threads(2);
    std::filesystem::create_directory(folder_.path() / "begin");
    ASSERT_TRUE(export_weights(init_weights(recipe().model, {.seed = 5}), DType::kF32, folder_.path() / "begin").ok());
  }

  Recipe recipe(const std::string& gspo = R"("updates": 1)", const std::string& fields = "") const {
    const std::string text = std::string("{") + kTestModel +
                             R"(, "tokenizer": "t.json", "data": ["prompts.jsonl"], "init_from": "begin", "steps": 20,
      "context_tokens": 64, "balance": {"weight": 0}, "schedule": {"learning_rate": 0.003}, "gspo": {)" +
                             gspo + "}" + fields + "}";
    auto parsed = parse_recipe(text, "recipe.json", folder_.path());
    EXPECT_TRUE(parsed.ok()) << (parsed.ok() ? "" : parsed.message());
    return *parsed;
  }

  static PolicyTrainer begin(const Recipe& recipe) {
    auto trainer = PolicyTrainer::begin(recipe);
    EXPECT_TRUE(trainer.ok()) << (trainer.ok() ? "" : trainer.message());
    return std::move(*trainer);
  }

  qnext::test::TempFolder folder_;
};

Rollout answer(std::vector<TokenId> prompt, const std::vector<TokenId>& said, double reward, double advantage) {
  Rollout out;
  out.num_prompt_tokens = std::ssize(prompt);
  out.tokens = std::move(prompt);
  out.tokens.insert(out.tokens.end(), said.begin(), said.end());
  out.reward = reward;
  out.advantage = advantage;
  return out;
}

std::vector<Rollout> some_answers() {
  return {answer({1, 2, 3}, {5, 39}, 1, 1.5), answer({1, 2, 3}, {6, 7, 8, 39}, 0, -0.75),
          answer({4}, {9, 9, 39}, 1, 0.5), answer({4}, {1, 39}, 0, 0)};
}

// Summed over the answer's tokens, by ATen's log_softmax.
Tensor logprob_of(const Network& network, const Rollout& rollout) {
  const std::vector<std::int64_t> ids(rollout.tokens.begin(), rollout.tokens.end());
  const Tensor tokens = torch::tensor(ids);
  const Tensor hidden = network.trunk(tokens, {0, std::ssize(ids)}, {}).hidden;
  const Tensor logprobs = torch::matmul(hidden, network.weights().lm_head.t()).log_softmax(-1);
  Tensor sum = torch::zeros({});
  for (auto t = static_cast<std::size_t>(rollout.num_prompt_tokens); t < ids.size(); ++t) {
    sum = sum + logprobs[static_cast<std::int64_t>(t) - 1][ids[t]];
  }
  return sum;
}

TEST_F(PolicyTrainerTest, TheFirstGradientIsTheLengthNormalisedPolicyGradient) {
  PolicyTrainer trainer = begin(recipe(R"("updates": 1)", R"(, "micro_batch_tokens": 8)"));
  auto twin = Network::make(recipe().model, *load_weights(folder_.path() / "begin", recipe().model));
  const std::vector<Rollout> rollouts = some_answers();
  Tensor loss = torch::zeros({});
  for (const Rollout& rollout : rollouts) {
    const auto length = static_cast<double>(rollout.num_answer_tokens());
    loss = loss - logprob_of(*twin, rollout) * (rollout.advantage / length / 3);  // three have an advantage
  }
  loss.backward();
  ASSERT_TRUE(trainer.step(rollouts).ok());
  const auto expected = named_weights(twin->weights()), found = named_weights(trainer.network().weights());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    if (expected[i].name.starts_with("mtp.")) continue;
    const Tensor want = expected[i].value.grad(), got = found[i].value.grad();
    ASSERT_TRUE(got.defined()) << expected[i].name;
    EXPECT_LE((got - want).abs().max().item<double>(), 1e-4 * want.abs().max().item<double>() + 1e-7)
        << expected[i].name;
  }
}

TEST_F(PolicyTrainerTest, WhatIsRewardedBecomesLikelier) {
  PolicyTrainer trainer = begin(recipe(R"("updates": 2)"));
  const std::vector<Rollout> rollouts = some_answers();
  const auto likely = [&](std::size_t i) { return logprob_of(trainer.network(), rollouts[i]).item<double>(); };
  const double right = likely(0), wrong = likely(1);
  PolicyReport report;
  for (int i = 0; i < 5; ++i) report = *trainer.step(rollouts);
  EXPECT_GT(likely(0), right + 0.5);
  EXPECT_LT(likely(1), wrong - 0.5);
  EXPECT_EQ(report.step, 5);
  EXPECT_DOUBLE_EQ(report.reward, 0.5);
  EXPECT_DOUBLE_EQ(report.tokens, 11.0 / 4);
}

TEST_F(PolicyTrainerTest, ALateUpdateLeavesOutWhatHasMovedTooFar) {
  PolicyTrainer trainer = begin(recipe(R"("updates": 2, "clip_low": 1e-6, "clip_high": 1e-6)"));
  std::vector<Rollout> rollouts = {some_answers()[0], some_answers()[0]};  // the second is likelier after the first
  EXPECT_DOUBLE_EQ(trainer.step(rollouts)->clipped, 0.5);
}

TEST_F(PolicyTrainerTest, ComparesWithTheEnginesLogProbabilities) {
  PolicyTrainer trainer = begin(recipe());
  std::vector<Rollout> rollouts = {answer({4}, {9, 39}, 1, 1)};
  const double own = logprob_of(trainer.network(), answer({4}, {9}, 1, 1)).item<double>();
  rollouts[0].logprobs = {static_cast<float>(own) - 0.25f};
  EXPECT_NEAR(trainer.step(rollouts)->mismatch, 0.25, 1e-4);
}

TEST_F(PolicyTrainerTest, NothingToLearnFromGroupsThatAreAlike) {
  PolicyTrainer trainer = begin(recipe());
  const double before = trainer.network().weights().norm.sum().item<double>();
  const auto report = trainer.step(std::vector<Rollout>{answer({4}, {9, 39}, 1, 0)});
  ASSERT_TRUE(report.ok());
  EXPECT_EQ(report->gradient_norm, 0);
  EXPECT_EQ(trainer.network().weights().norm.sum().item<double>(), before);
  EXPECT_EQ(trainer.steps_done(), 1);
}

TEST_F(PolicyTrainerTest, GoesOnBitForBit) {
  const Recipe r = recipe(R"("updates": 2)");
  PolicyTrainer straight = begin(r), stopped = begin(r);
  ASSERT_TRUE(straight.step(some_answers()).ok());
  ASSERT_TRUE(stopped.step(some_answers()).ok());
  const auto checkpoint = folder_.path() / "checkpoint.safetensors";
  ASSERT_TRUE(stopped.save(checkpoint).ok());
  auto resumed = PolicyTrainer::resume(r, checkpoint);
  ASSERT_TRUE(resumed.ok()) << resumed.message();
  ASSERT_TRUE(straight.step(some_answers()).ok());
  ASSERT_TRUE(resumed->step(some_answers()).ok());
  const auto expected = named_weights(straight.network().weights()),
             found = named_weights(resumed->network().weights());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_TRUE(torch::equal(found[i].value, expected[i].value)) << found[i].name;
  }
}

TEST_F(PolicyTrainerTest, BadRecipesSayWhere) {
  const auto problem = [&](const std::string& from, const std::string& to) {
    std::string text = recipe().text;
    text.replace(text.find(from), from.size(), to);
    return parse_recipe(text, "recipe.json", folder_.path()).message();
  };
  EXPECT_THAT(problem(R"("updates": 1)", R"("group": 1)"), HasSubstr("recipe.json: gspo: group: expected 2 to"));
  EXPECT_THAT(problem(R"("updates": 1)", R"("clip": 1)"), HasSubstr("gspo: unknown field \"clip\""));
  EXPECT_THAT(problem(R"("init_from": "begin", )", ""), HasSubstr("init_from is missing"));
}

}  // namespace
}  // namespace qnext::train
