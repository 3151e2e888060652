// Steps of training: what the losses are, that nothing leaks between documents, that a stopped run goes on bit for bit.
#include "train/trainer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "model/test_support.h"
#include "tensor/file_test_util.h"
#include "train/compute.h"
#include "train/network_files.h"
#include "train/slow_twin.h"
#include "train/test_support.h"

namespace qnext::train {
namespace {

using ::testing::HasSubstr;

const ShardTokenizer kTokenizer{.vocab_size = 40, .hash = "0123456789abcdef"};

class TrainerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    set_num_threads(2);
    std::vector<TokenDocument> documents;
    for (int d = 0; d < 60; ++d) {  // counting up from somewhere: what comes next can be learned
      TokenDocument document;
      for (int i = 0; i < 5 + d % 37; ++i) document.tokens.push_back((d + i) % 39);
      document.tokens.push_back(39);
      documents.push_back(document);
    }
    ASSERT_TRUE(write_token_shard(folder_.path() / "data.safetensors", documents, kTokenizer).ok());
  }

  Recipe recipe(const std::string& fields = "") const {
    const std::string text = std::string("{") + kTestModel +
                             R"(, "tokenizer": "t.json", "data": ["data.safetensors"], "steps": 40,
      "batch_tokens": 256, "context_tokens": 64, "seed": 3, "schedule": {"learning_rate": 0.01, "warmup_steps": 5})" +
                             (fields.empty() ? "" : ", " + fields) + "}";
    auto parsed = parse_recipe(text, "recipe.json", folder_.path());
    EXPECT_TRUE(parsed.ok()) << (parsed.ok() ? "" : parsed.message());
    return *parsed;
  }

  static Trainer begin(const Recipe& recipe) {
    auto trainer = Trainer::begin(recipe, kTokenizer);
    EXPECT_TRUE(trainer.ok()) << (trainer.ok() ? "" : trainer.message());
    return std::move(*trainer);
  }

  std::filesystem::path checkpoint() const { return folder_.path() / "checkpoint.safetensors"; }

  qnext::test::TempFolder folder_;
};

std::vector<NamedWeight> weights_of(const Trainer& trainer) {
  return named_weights(trainer.network().weights());
}

double largest_difference(const Trainer& a, const Trainer& b) {
  torch::NoGradGuard no_gradients;
  double largest = 0;
  const auto first = weights_of(a), second = weights_of(b);
  for (std::size_t i = 0; i < first.size(); ++i) {
    largest = std::max(largest, (first[i].value - second[i].value).abs().max().item<double>());
  }
  return largest;
}

TEST_F(TrainerTest, LearnsToCount) {
  Trainer trainer = begin(recipe());
  const double before = trainer.step()->loss;
  EXPECT_NEAR(before, std::log(40.0), 0.1);  // small random weights know nothing
  StepReport last;
  while (trainer.steps_done() < 40) last = *trainer.step();
  EXPECT_LT(last.loss, 1.5);
  EXPECT_LT(last.mtp_losses[0], 2.2);
  EXPECT_GT(last.accuracy, 0.5);
  EXPECT_GE(last.balance, 0.99);  // 1 is even
}

TEST_F(TrainerTest, GoesOnBitForBit) {
  Trainer straight = begin(recipe());
  Trainer stopped = begin(recipe());
  for (int i = 0; i < 7; ++i) ASSERT_TRUE(straight.step().ok());
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(stopped.step().ok());
  ASSERT_TRUE(stopped.save(checkpoint()).ok());
  auto resumed = Trainer::resume(recipe(), kTokenizer, checkpoint());
  ASSERT_TRUE(resumed.ok()) << resumed.message();
  EXPECT_EQ(resumed->steps_done(), 3);
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(resumed->step().ok());
  EXPECT_EQ(largest_difference(straight, *resumed), 0);
}

// The recipe that a run goes on with decides, not the one that its checkpoint keeps.
TEST_F(TrainerTest, GoesOnWithAnEditedRecipe) {
  Trainer trainer = begin(recipe());
  ASSERT_TRUE(trainer.step().ok());
  ASSERT_TRUE(trainer.save(checkpoint()).ok());
  Recipe edited = recipe();
  edited.text += " ";
  edited.schedule.peak = 0.5;
  auto resumed = Trainer::resume(edited, kTokenizer, checkpoint());
  ASSERT_TRUE(resumed.ok()) << resumed.message();
  EXPECT_DOUBLE_EQ(resumed->step()->learning_rate, 0.5 * 2 / 5);  // of five steps of warm-up
}

TEST_F(TrainerTest, ThreadsChangeNoBit) {
  Trainer two = begin(recipe());
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(two.step().ok());
  set_num_threads(1);
  Trainer one = begin(recipe());
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(one.step().ok());
  EXPECT_EQ(largest_difference(one, two), 0);
}

TEST_F(TrainerTest, RecomputedLayersChangeNoBit) {
  Trainer kept = begin(recipe());
  Trainer recomputed = begin(recipe(R"("recompute": true)"));
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(kept.step().ok());
    ASSERT_TRUE(recomputed.step().ok());
  }
  EXPECT_EQ(largest_difference(kept, recomputed), 0);
}

// Every weight's gradient of a loss on all of `tokens`, trunk and MTP block; each document's last token is followed by
// its first, so that documents of one token count too.
std::vector<Tensor> gradients(const Network& network, const Tensor& tokens, const Bounds& bounds) {
  for (const NamedWeight& weight : named_weights(network.weights())) weight.value.mutable_grad() = Tensor();
  std::vector<Tensor> rolled;
  for (std::size_t i = 0; i + 1 < bounds.size(); ++i)
    rolled.push_back(tokens.slice(0, bounds[i], bounds[i + 1]).roll(-1, 0));
  const Tensor next = torch::cat(rolled), ones = torch::ones({tokens.size(0)});
  const TrunkOutput out = network.trunk(tokens, bounds, {});
  RouterLoad router;
  const Tensor mtp = network.mtp_step(next, out.hidden, bounds, {}, router);
  (head_loss(out.hidden, network.weights().lm_head, next, ones).sum +
   head_loss(mtp, network.weights().lm_head, tokens, ones).sum)
      .backward();
  std::vector<Tensor> result;
  for (const NamedWeight& weight : named_weights(network.weights())) result.push_back(weight.value.grad().clone());
  return result;
}

TEST_F(TrainerTest, PackedGradientsAreTheSumOfSeparateOnes) {
  const auto network = Network::make(recipe().model, init_weights(recipe().model, {.seed = 2}));
  ASSERT_TRUE(network.ok());
  const Bounds bounds = {0, 1, 2, 70, 75, 140};
  torch::manual_seed(1);
  const Tensor tokens = torch::randint(0, 40, {140});
  std::vector<Tensor> sums;
  for (std::size_t i = 0; i + 1 < bounds.size(); ++i) {
    const auto alone = gradients(*network, tokens.slice(0, bounds[i], bounds[i + 1]), {0, bounds[i + 1] - bounds[i]});
    for (std::size_t w = 0; w < alone.size(); ++w) {
      if (i == 0) sums.push_back(torch::zeros_like(alone[w]));
      sums[w] += alone[w];
    }
  }
  const auto packed = gradients(*network, tokens, bounds);
  const auto named = named_weights(network->weights());
  for (std::size_t w = 0; w < named.size(); ++w) {
    const double scale = sums[w].abs().max().item<double>();
    EXPECT_LE((packed[w] - sums[w]).abs().max().item<double>(), 2e-5 * scale + 1e-9) << named[w].name;
  }
}

TEST_F(TrainerTest, TheScopeOfBalancingReachesTheRouters) {
  const auto balance = [&](const std::string& scope, const std::string& more = "") {
    Trainer trainer = begin(recipe(R"("micro_batch_tokens": 128, "balance": {"scope": ")" + scope + "\"}" + more));
    return trainer.step()->balance;
  };
  const double micro = balance("micro_batch"), sequence = balance("sequence");
  EXPECT_GT(sequence, micro + 1e-3);  // few tokens never lie as evenly as many
  EXPECT_NE(balance("global_batch"), micro);
  EXPECT_EQ(balance("sequence", R"(, "recompute": true)"), sequence);
}

TEST_F(TrainerTest, DivergenceStopsAndKeepsTheWeights) {
  Trainer trainer = begin(recipe());
  ASSERT_TRUE(trainer.step().ok());
  ASSERT_TRUE(trainer.save(checkpoint()).ok());
  const Tensor norm = const_cast<Network&>(trainer.network()).weights().norm.detach(), kept = norm.clone();
  norm.fill_(NAN);
  const auto failed = trainer.step();
  ASSERT_TRUE(failed.ok());
  EXPECT_THAT(failed->divergence.value_or(""), HasSubstr("nan and the gradient"));
  EXPECT_EQ(trainer.steps_done(), 1);
  norm.copy_(kept);
  const auto saved = Trainer::resume(recipe(), kTokenizer, checkpoint());
  ASSERT_TRUE(saved.ok()) << saved.message();
  EXPECT_EQ(largest_difference(trainer, *saved), 0);
}

TEST_F(TrainerTest, ALeapOfTheLossRollsBackAndReadsOn) {
  Trainer trainer = begin(recipe(R"("spike": 1.0)"));
  while (trainer.steps_done() < 10) ASSERT_FALSE(trainer.step()->divergence);
  ASSERT_TRUE(trainer.save(checkpoint()).ok());
  const auto saved =
      named_weights(Trainer::resume(recipe(R"("spike": 1.0)"), kTokenizer, checkpoint())->network().weights());
  ASSERT_FALSE(trainer.step()->divergence);
  const_cast<Network&>(trainer.network()).weights().lm_head.detach().mul_(-10);
  const StepReport leap = *trainer.step();
  EXPECT_THAT(leap.divergence.value_or(""), HasSubstr("above its mean, more than spike 1"));
  EXPECT_EQ(trainer.steps_done(), 11);
  ASSERT_TRUE(trainer.roll_back(checkpoint()).ok());
  EXPECT_EQ(trainer.steps_done(), 10);
  EXPECT_EQ(trainer.rollbacks(), 1);
  const auto found = weights_of(trainer);
  for (std::size_t i = 0; i < saved.size(); ++i) EXPECT_TRUE(torch::equal(found[i].value, saved[i].value));
  const StepReport next = *trainer.step();
  EXPECT_FALSE(next.divergence);
  EXPECT_EQ(next.step, 11);
  EXPECT_NE(next.loss,
            Trainer::resume(recipe(R"("spike": 1.0)"), kTokenizer, checkpoint())->step()->loss);  // other data
}

TEST_F(TrainerTest, ExportedModelIsTheSame) {
  Trainer trainer = begin(recipe());
  ASSERT_TRUE(trainer.step().ok());
  const auto out = folder_.path() / "model";
  std::filesystem::create_directory(out);
  ASSERT_TRUE(export_weights(trainer.network().weights(), DType::kF32, out).ok());
  std::ofstream(out / "config.json") << recipe().model_json;
  const auto loaded = load_network(out);
  ASSERT_TRUE(loaded.ok()) << loaded.message();
  const auto expected = weights_of(trainer), found = named_weights(loaded->weights());
  ASSERT_EQ(found.size(), expected.size());
  for (std::size_t i = 0; i < found.size(); ++i)
    EXPECT_TRUE(torch::equal(found[i].value, expected[i].value)) << found[i].name;
}

// Greedy tokens of the trainer's network and of the engine's, on 100 prompts.
TEST_F(TrainerTest, TheEngineSaysTheSame) {
  torch::NoGradGuard no_gradients;
  Trainer trainer = begin(recipe());
  {
    torch::AutoGradMode gradients(true);
    while (trainer.steps_done() < 40) ASSERT_TRUE(trainer.step().ok());
  }
  const auto out = folder_.path() / "model";
  std::filesystem::create_directory(out);
  ASSERT_TRUE(export_weights(trainer.network().weights(), DType::kF32, out).ok());
  std::ofstream(out / "config.json") << recipe().model_json;
  const KernelTable& table = available_tables().back();
  const auto model = qnext::test::load_for(table, out.string());
  qnext::test::Runner runner(*model, table);
  for (int prompt = 0; prompt < 100; ++prompt) {
    std::vector<std::int64_t> ids;
    for (int i = 0; i <= prompt % 7; ++i) ids.push_back((prompt * (i + 1) + i * i) % 39);
    std::vector<TokenId> next(ids.begin(), ids.end());
    qnext::test::SequenceMemory memory(model->config(), 32);
    std::vector<TokenId> said, trained;
    while (said.size() < 12) {
      const std::vector<float> logits = runner.logits(memory, next, 32);
      next = {qnext::test::argmax(std::span(logits).last(40))};
      said.push_back(next[0]);
      const auto T = std::ssize(ids);
      const Tensor hidden = trainer.network().trunk(torch::tensor(ids), {0, T}, {}).hidden;
      const Tensor last = torch::matmul(trainer.network().weights().lm_head, hidden[T - 1]);
      trained.push_back(static_cast<TokenId>(last.argmax().item<std::int64_t>()));
      ids.push_back(trained.back());
    }
    EXPECT_EQ(said, trained) << "prompt " << prompt;
  }
}

TEST_F(TrainerTest, GoesOnFromACheckpointsWeights) {
  Trainer first = begin(recipe(R"("mtp": {"steps": 0})"));
  ASSERT_TRUE(first.step().ok());
  const auto out = folder_.path() / "model";
  std::filesystem::create_directory(out);
  ASSERT_TRUE(export_weights(first.network().weights(), DType::kF32, out).ok());
  const Trainer second = begin(recipe(R"("init_from": "model")"));  // with an MTP block that begins here
  const auto expected = weights_of(first), found = weights_of(second);
  ASSERT_GT(found.size(), expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i)
    EXPECT_TRUE(torch::equal(found[i].value, expected[i].value)) << found[i].name;
  Recipe other = recipe(R"("init_from": "model")");
  other.model.E = 4;
  EXPECT_THAT(Trainer::begin(other, kTokenizer).message(), HasSubstr("mlp.gate.weight"));
}

TEST_F(TrainerTest, RefusesWhatIsNotItsCheckpoint) {
  Trainer trainer = begin(recipe());
  ASSERT_TRUE(trainer.save(checkpoint()).ok());
  const auto cut = folder_.path() / "cut.safetensors";
  std::filesystem::copy_file(checkpoint(), cut);
  std::filesystem::resize_file(cut, std::filesystem::file_size(cut) - 4);
  EXPECT_FALSE(Trainer::resume(recipe(), kTokenizer, cut).ok());
  EXPECT_THAT(Trainer::resume(recipe(), kTokenizer, folder_.path() / "data.safetensors").message(),
              HasSubstr("not a checkpoint"));
  Recipe fewer = recipe();
  fewer.model.layers.pop_back();
  EXPECT_THAT(Trainer::resume(fewer, kTokenizer, checkpoint()).message(), HasSubstr("model is another one"));
  Recipe more = recipe();
  more.model.layers.push_back(more.model.layers.back());
  EXPECT_THAT(Trainer::resume(more, kTokenizer, checkpoint()).message(), HasSubstr("model is another one"));
  Recipe without = recipe(), with = recipe();
  without.mtp_steps = 0;
  with.mtp_steps = 2;
  ASSERT_TRUE(begin(without).save(checkpoint()).ok());
  EXPECT_THAT(Trainer::resume(with, kTokenizer, checkpoint()).message(), HasSubstr("it has no MTP block"));
  const ShardTokenizer other{.vocab_size = 40, .hash = "ffff"};
  EXPECT_THAT(Trainer::begin(recipe(), other).message(), HasSubstr("another tokenizer"));
}

TEST(BalanceTest, Loads) {
  const Tensor counts = torch::tensor({{3.0f, 1.0f, 0.0f, 0.0f}, {5.0f, 5.0f, 5.0f, 5.0f}});
  EXPECT_EQ(max_load(counts), 3);
  EXPECT_EQ(expert_load(counts), (std::vector<std::vector<double>>{{3, 1, 0, 0}, {1, 1, 1, 1}}));
  const double uneven = -(0.75 * std::log(0.75) + 0.25 * std::log(0.25)) / std::log(4);
  EXPECT_NEAR(load_entropy(counts), (uneven + 1) / 2, 1e-6);
  EXPECT_NEAR(load_entropy(torch::tensor({{0.0f, 9.0f}})), 0, 1e-6);
}

TEST(ScheduleTest, RisesStaysAndFalls) {
  const Schedule wsd{.steps = 100, .warmup_steps = 10, .peak = 1, .final_share = 0.1, .decay_share = 0.2};
  EXPECT_DOUBLE_EQ(wsd.learning_rate(1), 0.1);
  EXPECT_DOUBLE_EQ(wsd.learning_rate(10), 1);
  EXPECT_DOUBLE_EQ(wsd.learning_rate(80), 1);
  EXPECT_DOUBLE_EQ(wsd.learning_rate(90), 0.55);
  EXPECT_DOUBLE_EQ(wsd.learning_rate(100), 0.1);
  const Schedule cosine{.kind = ScheduleKind::kCosine, .steps = 100, .warmup_steps = 0, .peak = 1, .final_share = 0};
  EXPECT_NEAR(cosine.learning_rate(50), 0.5, 1e-12);
  EXPECT_NEAR(cosine.learning_rate(100), 0, 1e-12);
}

struct BadRecipe {
  std::string from, to, problem;
};

TEST_F(TrainerTest, BadRecipesSayWhere) {
  const std::string good = recipe().text;
  const std::vector<BadRecipe> cases = {
      {R"("steps": 40)", R"("steps": 0)", "recipe.json: steps: expected 1 to"},
      {R"("steps": 40)", R"("steps": "many")", "steps: expected an integer, found \"many\""},
      {R"("steps": 40)", R"("stepz": 40)", "field \"steps\" is missing"},
      {R"("seed": 3)", R"("sead": 3)", "unknown field \"sead\""},
      {R"("warmup_steps": 5)", R"("warm_up": 5)", "schedule: unknown field \"warm_up\""},
      {R"("learning_rate": 0.01)", R"("learning_rate": -1)", "schedule: learning_rate: expected 0 to 10"},
      {R"("data": ["data.safetensors"])", R"("data": [])", "data: expected a list"},
      {R"("batch_tokens": 256)", R"("batch_tokens": 256, "micro_batch_tokens": 100)",
       "expected a divisor of batch_tokens"},
      {R"("seed": 3)", R"("balance": {"scope": "batch"})",
       "balance: scope: expected one of global_batch, micro_batch, sequence, found \"batch\""},
      {R"("hidden_size": 32)", R"("hidden_size": 0)", "recipe.json: model"},
  };
  for (const BadRecipe& bad : cases) {
    std::string text = good;
    const auto at = text.find(bad.from);
    ASSERT_NE(at, std::string::npos) << bad.from;
    text.replace(at, bad.from.size(), bad.to);
    const auto parsed = parse_recipe(text, "recipe.json", "");
    ASSERT_FALSE(parsed.ok()) << bad.to;
    EXPECT_THAT(parsed.message(), HasSubstr(bad.problem));
  }
  EXPECT_THAT(parse_recipe("[]", "recipe.json", "").message(), HasSubstr("expected a recipe"));
}

}  // namespace
}  // namespace qnext::train
