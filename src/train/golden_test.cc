// The network's loss, gradients and MTP block against Hugging Face transformers in float32 (tests/data/golden).
#include <gtest/gtest.h>

#include "train/compute.h"
#include "train/network.h"
#include "train/network_files.h"

namespace qnext::train {
namespace {

const std::string kGolden = std::string(QNEXT_SOURCE_DIR) + "/tests/data/golden/next-tiny/";

class GoldenTest : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    set_num_threads(2);
    auto file = Safetensors::open(kGolden + "golden.safetensors");
    ASSERT_TRUE(file.ok()) << file.message();
    golden_.emplace(std::move(*file));
    auto network = load_network(kGolden);
    ASSERT_TRUE(network.ok()) << network.message();
    network_.emplace(std::move(*network));
  }

  Tensor golden(const std::string& name) const {
    const TensorEntry* entry = golden_->find(name);
    EXPECT_NE(entry, nullptr) << name;
    const std::vector<std::int64_t> shape(entry->shape.begin(), entry->shape.end());
    if (entry->type != DType::kF32) {
      const Tensor ids = torch::empty(shape, entry->type == DType::kI64 ? torch::kInt64 : torch::kInt32);
      std::memcpy(ids.data_ptr(), entry->data, entry->bytes);
      return ids.to(torch::kInt64);
    }
    Tensor out = torch::empty(shape);
    std::memcpy(out.data_ptr(), entry->data, entry->bytes);
    return out;
  }

  std::optional<Safetensors> golden_;
  std::optional<Network> network_;
};

double relative_difference(const Tensor& found, const Tensor& expected) {
  return ((found - expected).norm() / expected.norm()).item<double>();
}

// Without and with layers run again in backward.
TEST_P(GoldenTest, LossAndGradients) {
  const Tensor tokens = golden("input_ids");
  const std::int64_t T = tokens.size(0);
  const TrunkOutput out = network_->trunk(tokens, {0, T}, {.recompute = GetParam()});
  const Tensor labels = torch::cat({tokens.slice(0, 1), torch::zeros({1}, torch::kInt64)});
  Tensor weights = torch::full({T}, 1.0 / static_cast<double>(T - 1));
  weights[T - 1] = 0;
  const Tensor loss = head_loss(out.hidden, network_->weights().lm_head, labels, weights).sum;
  EXPECT_NEAR(loss.item<double>(), golden("train.ce_loss").item<double>(), 1e-5 * loss.item<double>());
  loss.backward();

  double squares = 0;
  int num_compared = 0;
  for (const NamedWeight& weight : named_weights(network_->weights())) {
    if (weight.name.starts_with("mtp.")) continue;
    squares += weight.value.grad().to(torch::kFloat64).square().sum().item<double>();
    if (golden_->find("grad." + weight.name) != nullptr) {
      EXPECT_LE(relative_difference(weight.value.grad(), golden("grad." + weight.name)), 1e-4) << weight.name;
      ++num_compared;
      continue;
    }
    for (const ReleasedTensor& part : released_tensors({weight.name, weight.value.grad()})) {
      if (golden_->find("grad." + part.name) == nullptr) continue;
      EXPECT_LE(relative_difference(part.view, golden("grad." + part.name)), 1e-4) << part.name;
      ++num_compared;
    }
  }
  EXPECT_EQ(num_compared, 32);
  const double norm = golden("train.grad_norm").item<double>();
  EXPECT_NEAR(std::sqrt(squares), norm, 1e-4 * norm);
}

TEST_P(GoldenTest, HiddenStates) {
  torch::NoGradGuard no_gradients;
  const Tensor tokens = golden("input_ids");
  const TrunkOutput out = network_->trunk(tokens, {0, tokens.size(0)}, {});
  EXPECT_LE(relative_difference(out.hidden, golden("hidden.8")), 1e-5);
  EXPECT_LE(relative_difference(project(out.hidden, network_->weights().lm_head), golden("logits")), 1e-5);
}

TEST_P(GoldenTest, MtpBlock) {
  torch::NoGradGuard no_gradients;
  const Tensor tokens = golden("input_ids");
  const std::int64_t T = tokens.size(0);
  const TrunkOutput out = network_->trunk(tokens, {0, T}, {});
  RouterLoad router;
  const Tensor hidden = network_->mtp_step(tokens.slice(0, 1), out.hidden.slice(0, 0, T - 1), {0, T - 1}, {}, router);
  EXPECT_LE(relative_difference(hidden, golden("mtp.hidden")), 1e-5);
}

INSTANTIATE_TEST_SUITE_P(Recompute, GoldenTest, testing::Bool());

}  // namespace
}  // namespace qnext::train
