#include "eval/trace.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/thread_pool.h"
#include "kernels/dispatch.h"
#include "tensor/file_test_util.h"

namespace qnext {
namespace {

using ::testing::HasSubstr;

std::string golden_path(const std::string& relative) {
  return std::string(QNEXT_SOURCE_DIR) + "/tests/data/golden/" + relative;
}

const KernelTable& best_table() {
  return *find_table("").value();
}

struct LoadedModel {
  explicit LoadedModel(const std::string& name) : model(Qwen3Next::load(golden_path(name)).value()) {}

  std::unique_ptr<DirectRunner> runner(std::size_t max_tokens) {
    return DirectRunner::make(*model, ops, {.max_tokens = max_tokens}).value();
  }

  std::unique_ptr<const Qwen3Next> model;
  ThreadPool pool{2};
  Ops ops{best_table(), pool};
};

constexpr auto kKeepGoing = [](std::size_t) { return true; };

TEST(Compare, AModelMeetsItsGoldenFile) {
  for (const char* name : {"next-tiny", "next-rawtopk", "moe-tiny", "dense-tiny"}) {
    SCOPED_TRACE(name);
    LoadedModel loaded(name);
    const GoldenFile golden = load_golden_file(golden_path(std::string(name) + "/golden.safetensors")).value();
    EXPECT_EQ(golden.greedy.size(), 48u);
    const auto runner = loaded.runner(golden.input_ids.size());
    const Comparison out = compare_with_golden(*runner, golden, kKeepGoing).value();
    EXPECT_EQ(out.logits.positions.size(), golden.input_ids.size());
    EXPECT_LE(out.logits.mean_kl, 1e-6);  // design/model.md, section 4
    EXPECT_LE(out.logits.max_logit_difference_over_std, 2e-3);
    EXPECT_EQ(out.logits.top1_agreement, 1);
    ASSERT_EQ(out.layers.size(), loaded.model->config().num_layers() + 1);
    for (const LayerDifference& layer : out.layers) {
      EXPECT_FALSE(layer.hidden.empty);
      EXPECT_LE(layer.hidden.relative(), 2e-3);
      EXPECT_EQ(layer.routing.agreement(), 1);
    }
    const bool has_routers = loaded.model->config().E > 0;
    EXPECT_EQ(out.layers[0].routing.num_tokens, has_routers ? golden.input_ids.size() : 0);
  }
}

TEST(Compare, AGgufMeetsItsDequantisedWeights) {
  LoadedModel loaded("next-gguf/next-Q4_K_M.gguf");
  const GoldenFile golden = load_golden_file(golden_path("next-gguf/next-Q4_K_M.golden.safetensors")).value();
  EXPECT_THAT(golden.greedy, ::testing::IsEmpty());
  const auto runner = loaded.runner(golden.input_ids.size());
  const Comparison out = compare_with_golden(*runner, golden, kKeepGoing).value();
  EXPECT_LE(out.logits.mean_kl, 1e-6);
  EXPECT_THAT(out.layers, ::testing::IsEmpty());  // the file has logits only
}

TEST(Compare, AChangedLogitAndAChangedLayerShow) {
  LoadedModel loaded("next-tiny");
  GoldenFile golden = load_golden_file(golden_path("next-tiny/golden.safetensors")).value();
  golden.trace.logits[3 * golden.trace.V + 7] += 10;
  golden.trace.layers[5].hidden[0] += 10;
  golden.trace.layers[2].experts[0] += 1000;
  const auto runner = loaded.runner(golden.input_ids.size());
  const Comparison out = compare_with_golden(*runner, golden, kKeepGoing).value();
  EXPECT_GT(out.logits.positions[3].kl, 1e-3);
  EXPECT_NEAR(out.logits.max_logit_difference, 10, 0.1);
  EXPECT_NEAR(out.layers[5].hidden.max_difference, 10, 0.1);
  EXPECT_LT(out.layers[2].routing.agreement(), 1);
}

TEST(Compare, TwoModelsOfOneVocabulary) {
  LoadedModel a("next-tiny");
  LoadedModel b("next-rawtopk");
  const std::vector<TokenId> token_ids(200, 17);
  const auto self = compare_models(*a.runner(200), *a.runner(200), token_ids, kKeepGoing).value();
  EXPECT_EQ(self.logits.max_logit_difference, 0);
  EXPECT_EQ(self.layers.size(), a.model->config().num_layers() + 1);
  const auto other = compare_models(*a.runner(200), *b.runner(200), token_ids, kKeepGoing).value();
  EXPECT_GT(other.logits.mean_kl, 1e-3);
}

TEST(Compare, RefusesWhatDoesNotFit) {
  LoadedModel loaded("next-tiny");
  GoldenFile golden = load_golden_file(golden_path("next-gguf/next-Q4_K_M.golden.safetensors")).value();
  EXPECT_THAT(compare_with_golden(*loaded.runner(200), golden, kKeepGoing).message(),
              HasSubstr("2048 columns, the model's vocabulary 512"));
  const std::vector<TokenId> beyond = {1, 512};
  EXPECT_THAT(compare_models(*loaded.runner(2), *loaded.runner(2), beyond, kKeepGoing).message(),
              HasSubstr("token id 512: expected one below 512"));
  EXPECT_FALSE(compare_models(*loaded.runner(2), *loaded.runner(2), {}, kKeepGoing).ok());
  const std::vector<TokenId> ids = {1, 2};
  const auto stop = [](std::size_t) { return false; };
  EXPECT_THAT(compare_models(*loaded.runner(2), *loaded.runner(2), ids, stop).message(), HasSubstr("stopped after 2"));
}

TEST(GoldenFile, SaysWhatIsWrong) {
  const test::TempFolder folder;
  const auto write_golden = [&](const std::string& header, std::size_t num_data_bytes) {
    return folder.write("golden.safetensors", test::u64(header.size()) + header + std::string(num_data_bytes, '\0'));
  };
  EXPECT_THAT(load_golden_file("/nonexistent.safetensors").message(), HasSubstr("/nonexistent.safetensors"));
  EXPECT_THAT(load_golden_file(write_golden(R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4)).message(),
              HasSubstr("expected a tensor logits, found none"));
  const std::string logits = R"({"logits":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]})";
  EXPECT_THAT(load_golden_file(write_golden(logits + "}", 24)).message(), HasSubstr("input_ids"));
  EXPECT_THAT(
      load_golden_file(write_golden(logits + R"(,"input_ids":{"dtype":"I32","shape":[3],"data_offsets":[24,36]}})", 36))
          .message(),
      HasSubstr("input_ids: expected 2 ids, one a row of logits, found 3"));
  EXPECT_THAT(
      load_golden_file(write_golden(logits + R"(,"input_ids":{"dtype":"F32","shape":[2],"data_offsets":[24,32]}})", 32))
          .message(),
      HasSubstr("input_ids: expected i32 or i64, found f32"));
  EXPECT_THAT(
      load_golden_file(write_golden(R"({"logits":{"dtype":"F32","shape":[6],"data_offsets":[0,24]}})", 24)).message(),
      HasSubstr("logits: expected 2 axes"));
  EXPECT_TRUE(
      load_golden_file(write_golden(logits + R"(,"input_ids":{"dtype":"I64","shape":[2],"data_offsets":[24,40]}})", 40))
          .ok());
}

TEST(DirectRunner, StepsAreChunksAndSequencesAreApart) {
  LoadedModel loaded("next-tiny");
  const std::size_t V = loaded.model->config().V;
  const std::vector<TokenId> both = {5, 6, 7, 300, 301, 302};  // two sequences of three
  const auto pair = DirectRunner::make(*loaded.model, loaded.ops, {.num_sequences = 2, .max_tokens = 3}).value();
  const View<float> pair_logits = pair->logits(pair->step(both));
  for (std::size_t sequence_idx = 0; sequence_idx < 2; ++sequence_idx) {
    const auto alone = loaded.runner(3);
    for (std::size_t t = 0; t < 3; ++t) {
      const View<float> logits = alone->logits(alone->step(std::span(both).subspan(sequence_idx * 3 + t, 1)));
      EXPECT_TRUE(std::equal(logits.data(), logits.data() + V, pair_logits.row(sequence_idx * 3 + t)));
    }
  }
}

TEST(DirectRunner, ResetForgetsAndSyntheticDepthDoesNot) {
  LoadedModel loaded("next-tiny");
  const auto runner = loaded.runner(400);
  const std::vector<TokenId> token = {9};
  const auto logits_of_step = [&] {
    const View<float> logits = runner->logits(runner->step(token));
    return std::vector<float>(logits.data(), logits.data() + logits.num_elements());
  };
  const std::vector<float> first = logits_of_step();
  runner->fill_synthetic(300, 1);
  EXPECT_EQ(runner->position(), 300u);
  const std::vector<float> deep = logits_of_step();
  EXPECT_EQ(runner->position(), 301u);
  EXPECT_NE(deep, first);
  for (float logit : deep) ASSERT_TRUE(std::isfinite(logit));
  runner->reset();
  EXPECT_EQ(logits_of_step(), first);
}

TEST(DirectRunner, RefusesWhatMemoryCannotHold) {
  LoadedModel loaded("next-tiny");
  const auto out = DirectRunner::make(*loaded.model, loaded.ops, {.num_sequences = 1000, .max_tokens = 1u << 30});
  EXPECT_THAT(out.message(), HasSubstr("MiB are free"));
}

}  // namespace
}  // namespace qnext
