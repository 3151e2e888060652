// What a step's loss is made of: the MTP block's depths beside a computation of their own, and micro-batches that add
// up.
#include <gtest/gtest.h>

#include <cmath>

#include "tensor/file_test_util.h"
#include "train/compute.h"
#include "train/network_files.h"
#include "train/test_support.h"
#include "train/trainer.h"

namespace qnext::train {
namespace {

const ShardTokenizer kVocabulary{.vocab_size = 40, .hash = "0123456789abcdef"};
constexpr std::int64_t kContext = 32, kBatch = 256;

// Documents as long as the context, so that no micro-batch cuts one; of every third a part is not learned.
class TrainerLosses : public ::testing::Test {
 protected:
  void SetUp() override {
    set_num_threads(2);
    std::vector<TokenDocument> documents;
    for (int d = 0; d < 40; ++d) {
      TokenDocument document;
      for (int i = 0; i + 1 < kContext; ++i) document.tokens.push_back((d * d + 3 * i + i * i % 5) % 39);
      document.tokens.push_back(39);
      if (d % 3 == 0) {
        for (int i = 0; i < kContext; ++i) document.learned.push_back(i > 5 + d % 20 ? 1 : 0);
      }
      documents.push_back(document);
    }
    ASSERT_TRUE(write_token_shard(folder_.path() / "data.safetensors", documents, kVocabulary).ok());
  }

  Recipe recipe(const std::string& fields) const {
    const std::string text = std::string("{") + kTestModel +
                             R"(, "tokenizer": "t.json", "data": ["data.safetensors"], "steps": 4, "batch_tokens": 256,
      "context_tokens": 32, "seed": 3, "schedule": {"learning_rate": 0.01}, "balance": {"weight": 0}, )" +
                             fields + "}";
    auto parsed = parse_recipe(text, "recipe.json", folder_.path());
    EXPECT_TRUE(parsed.ok()) << (parsed.ok() ? "" : parsed.message());
    return *parsed;
  }

  // The gradients of a first step, which stay where they are until the next.
  static std::vector<NamedWeight> step(Trainer& trainer, StepReport& report) {
    auto stepped = trainer.step();
    EXPECT_TRUE(stepped.ok());
    report = *stepped;
    return named_weights(trainer.network().weights());
  }

  qnext::test::TempFolder folder_;
};

void expect_same_gradients(const std::vector<NamedWeight>& found, const std::vector<NamedWeight>& expected,
                           double tolerance) {
  ASSERT_EQ(found.size(), expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    const torch::Tensor a = found[i].value.grad(), b = expected[i].value.grad();
    ASSERT_EQ(a.defined(), b.defined()) << found[i].name;
    if (!a.defined()) continue;
    const double largest = b.abs().max().item<double>();
    EXPECT_LE((a - b).abs().max().item<double>(), tolerance * largest + 1e-9) << found[i].name;
  }
}

TEST_F(TrainerLosses, MicroBatchesAddUp) {
  auto whole = Trainer::begin(recipe(R"("mtp": {"steps": 2})"), kVocabulary);
  auto parts = Trainer::begin(recipe(R"("mtp": {"steps": 2}, "micro_batch_tokens": 64)"), kVocabulary);
  ASSERT_TRUE(whole.ok() && parts.ok());
  StepReport one, four;
  const auto expected = step(*whole, one), found = step(*parts, four);
  EXPECT_NEAR(four.loss, one.loss, 1e-5);
  EXPECT_NEAR(four.accuracy, one.accuracy, 1e-6);
  EXPECT_NEAR(four.mtp_losses[1], one.mtp_losses[1], 1e-5);
  EXPECT_NEAR(four.gradient_norm, one.gradient_norm, 1e-5 * one.gradient_norm);
  expect_same_gradients(found, expected, 1e-5);
}

// Each document alone: depth k reads its own output at depth k - 1 beside the token k + 1 places on, and says the one
// after that.
TEST_F(TrainerLosses, MtpIsTheChainOfItsDepths) {
  constexpr std::size_t kDepths = 3;
  constexpr double kWeight = 0.4, kDecay = 0.7;
  const Recipe with_mtp = recipe(R"("mtp": {"steps": 3, "weight": 0.4, "decay": 0.7})");
  auto trainer = Trainer::begin(with_mtp, kVocabulary);
  ASSERT_TRUE(trainer.ok());
  const auto twin = Network::make(with_mtp.model, init_weights(with_mtp.model, {.seed = with_mtp.seed}));
  ASSERT_TRUE(twin.ok());
  auto shard = TokenShard::open(folder_.path() / "data.safetensors", kVocabulary);
  ASSERT_TRUE(shard.ok());
  std::vector<TokenShard> shards;
  shards.push_back(std::move(*shard));
  const Batch batch = BatchStream(std::move(shards), kContext, with_mtp.seed).next(kBatch);
  const auto predicted = static_cast<double>(batch.predicted_tokens());

  const torch::Tensor& head = twin->weights().lm_head;
  // Minus the log-probabilities of the learned tokens that are `by` places on.
  const auto loss_of = [&](const torch::Tensor& hidden, std::int64_t begin, std::int64_t end, std::int64_t by) {
    torch::Tensor sum = torch::zeros({});
    const torch::Tensor logprobs = torch::matmul(hidden, head.t()).log_softmax(-1);
    for (std::int64_t t = begin; t + by < end; ++t) {
      if (batch.learned[t + by].item<float>() == 0) continue;
      sum = sum - logprobs[t - begin][batch.tokens[t + by].item<std::int64_t>()];
    }
    return sum;
  };
  std::vector<double> sums(1 + kDepths);
  torch::Tensor total = torch::zeros({});
  for (std::size_t d = 0; d + 1 < batch.bounds.size(); ++d) {
    const std::int64_t begin = batch.bounds[d], end = batch.bounds[d + 1], length = end - begin;
    torch::Tensor m = twin->trunk(batch.tokens.slice(0, begin, end), {0, length}, {}).hidden;
    const torch::Tensor own = loss_of(m, begin, end, 1);
    sums[0] += own.item<double>();
    total = total + own;
    for (std::size_t depth = 0; depth < kDepths; ++depth) {
      const auto by = static_cast<std::int64_t>(depth) + 1;
      const torch::Tensor next =
          torch::cat({batch.tokens.slice(0, begin + by, end), torch::full({by}, 7, torch::kInt64)});  // 7: seen by none
      RouterLoad load;
      m = twin->mtp_step(next, m, {0, length}, {}, load);
      const torch::Tensor loss = loss_of(m, begin, end, by + 1);
      sums[depth + 1] += loss.item<double>();
      total = total + loss * (kWeight * std::pow(kDecay, depth) / (1 + kDecay + kDecay * kDecay));
    }
  }
  (total / predicted).backward();

  StepReport report;
  const auto found = step(*trainer, report);
  EXPECT_NEAR(report.loss, sums[0] / predicted, 1e-5);
  for (std::size_t depth = 0; depth < kDepths; ++depth) {
    EXPECT_NEAR(report.mtp_losses[depth], sums[depth + 1] / predicted, 1e-5) << depth;
  }
  expect_same_gradients(found, named_weights(twin->weights()), 1e-4);
}

}  // namespace
}  // namespace qnext::train
