// One result whoever shares the batch and however the prompt is cut: design/model.md section 4.
#include "kernels/compare.h"
#include "model/test_support.h"

namespace qnext::test {
namespace {

// Of the largest logit. What differs between chunkings in f32's last bits may round the other way to 16-bit codes.
double max_relative_difference(const KernelTable& table, DType kv_type) {
  return table.packed == nullptr && kv_type == DType::kF32 ? 1e-5 : 1e-3;
}

// ref is slow, and no part of it looks at a model's size: it runs the smallest models only.
bool worth_running(const KernelTable& table, const ModelConfig& cfg) {
  return table.name != "ref" || cfg.D <= 64;
}

class InvarianceTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    auto model = Qwen3Next::load(data_path("golden/" + GetParam()));
    ASSERT_TRUE(model.ok()) << model.message();
    model_ = std::move(model).value();
    if (check_kv_type(model_->config(), DType::kI16).ok()) kv_types_.push_back(DType::kI16);
    for (std::size_t i = 0; i < 150; ++i) {
      prompt_.push_back(static_cast<TokenId>((i * i * 31 + i * 17 + 5) % model_->config().V));
    }
  }

  static double tolerance(const KernelTable& table, DType kv_type, std::span<const float> logits) {
    double largest = 0;
    for (float value : logits) largest = std::max(largest, std::abs(static_cast<double>(value)));
    return max_relative_difference(table, kv_type) * largest;
  }

  // 16 greedy tokens after what `memory` holds.
  std::vector<TokenId> continuation(Runner& runner, SequenceMemory& memory, std::span<const float> logits) const {
    const std::size_t V = model_->config().V;
    std::vector<TokenId> out;
    std::vector<float> last(logits.end() - static_cast<std::ptrdiff_t>(V), logits.end());
    for (int i = 0; i < 16; ++i) {
      const TokenId token = argmax(last);
      out.push_back(token);
      last = runner.logits(memory, {&token, 1}, 1);
    }
    return out;
  }

  std::unique_ptr<const Qwen3Next> model_;
  std::vector<TokenId> prompt_;
  std::vector<DType> kv_types_ = {DType::kF32};  // and kI16, where the model's heads fit
};

TEST_P(InvarianceTest, AnyChunking) {
  for (const KernelTable& table : available_tables()) {
    if (!worth_running(table, model_->config())) continue;
    SCOPED_TRACE(table.name);
    const auto model = load_for(table, data_path("golden/" + GetParam()));
    Runner runner(*model, table);
    for (const DType kv_type : kv_types_) {
      SCOPED_TRACE(dtype_info(kv_type).name);
      SequenceMemory whole(model_->config(), 200, kv_type);
      const std::vector<float> expected = runner.logits(whole, prompt_, prompt_.size());
      const std::vector<TokenId> expected_tokens = continuation(runner, whole, expected);
      for (std::size_t chunk_tokens : {1u, 7u, 64u, 65u}) {
        SCOPED_TRACE(chunk_tokens);
        SequenceMemory memory(model_->config(), 200, kv_type);
        const std::vector<float> actual = runner.logits(memory, prompt_, chunk_tokens);
        EXPECT_TRUE(is_close(actual, expected, tolerance(table, kv_type, expected)));
        EXPECT_EQ(continuation(runner, memory, actual), expected_tokens);
      }
    }
  }
}

TEST_P(InvarianceTest, AnyNumberOfThreadsBitForBit) {
  for (const KernelTable& table : available_tables()) {
    if (!worth_running(table, model_->config())) continue;
    SCOPED_TRACE(table.name);
    const auto model = load_for(table, data_path("golden/" + GetParam()));
    Runner one(*model, table, 1);
    SequenceMemory memory_of_one(model_->config(), 200);
    const std::vector<float> expected = one.logits(memory_of_one, prompt_, 70);
    for (std::size_t num_threads : {2u, 3u, 8u}) {
      Runner many(*model, table, num_threads);
      SequenceMemory memory(model_->config(), 200);
      EXPECT_EQ(many.logits(memory, prompt_, 70), expected) << num_threads << " threads";
    }
  }
}

// Eight sequences in one K/V store and one state store.
class EightSequences {
 public:
  static constexpr std::size_t kCount = 8;
  static constexpr std::size_t kPageTokens = 16;
  static constexpr std::size_t kPagesEach = 13;

  EightSequences(const ModelConfig& cfg, DType kv_type)
      : caches_{KvStore::shape_for(cfg, kv_type, kPageTokens), StateStore::shape_for(cfg)},
        kv_bytes_(kCount * kPagesEach * caches_.kv.page_bytes()),
        state_(kCount * caches_.state.slot_floats()),
        pages_(kCount),
        positions_(kCount, 0) {
    caches_.kv.data = kv_bytes_.data();
    caches_.state.data = state_.data();
    for (std::size_t i = 0; i < kPagesEach * kCount; ++i) {
      pages_[i % kCount].push_back(PageId{static_cast<std::uint32_t>(i)});
    }
  }

  const Caches& caches() const { return caches_; }
  SequenceSpan advance(std::size_t sequence_idx, Range rows) {
    const std::size_t first_position = positions_[sequence_idx];
    positions_[sequence_idx] += rows.count();
    return {.rows = rows,
            .first_position = first_position,
            .kv_pages = pages_[sequence_idx],
            .state_slot = StateSlotId{static_cast<std::uint32_t>(sequence_idx)},
            .window_slots = {},
            .checkpoint = {}};
  }
  std::size_t position(std::size_t sequence_idx) const { return positions_[sequence_idx]; }

 private:
  Caches caches_;
  std::vector<std::byte> kv_bytes_;
  std::vector<float> state_;
  std::vector<std::vector<PageId>> pages_;
  std::vector<std::size_t> positions_;
};

// How each sequence's 150 tokens are cut into steps: prefill chunks beside single tokens.
const std::vector<std::size_t> kCuts[EightSequences::kCount] = {
    {150}, {1, 149}, {7, 7, 7, 7, 7, 7, 7, 101}, {64, 86}, {65, 85}, {100, 1, 1, 1, 47}, {3, 147}, {75, 75}};

// The logits of all eight, each sequence's rows in order.
std::vector<std::vector<float>> run_together(const Qwen3Next& model, Runner& runner,
                                             const std::vector<std::vector<TokenId>>& prompts, DType kv_type) {
  const std::size_t V = model.config().V;
  EightSequences sequences(model.config(), kv_type);
  std::vector<std::vector<float>> out(EightSequences::kCount);
  for (std::size_t round = 0; round < 8; ++round) {
    std::vector<TokenId> tokens;
    std::vector<SequenceSpan> spans;
    std::vector<std::size_t> owners;
    for (std::size_t i = 0; i < EightSequences::kCount; ++i) {
      if (round >= kCuts[i].size()) continue;
      const auto chunk = std::span(prompts[i]).subspan(sequences.position(i), kCuts[i][round]);
      spans.push_back(sequences.advance(i, {tokens.size(), tokens.size() + chunk.size()}));
      tokens.insert(tokens.end(), chunk.begin(), chunk.end());
      owners.push_back(i);
    }
    const Arena::Scope scope(runner.arena());
    const Batch batch{.token_ids = tokens, .spans = spans};
    const View<float> hidden = model.forward(runner.ops(), runner.arena(), batch, sequences.caches());
    const View<float> logits = model.logits(runner.ops(), runner.arena(), hidden);
    for (std::size_t s = 0; s < spans.size(); ++s) {
      out[owners[s]].insert(out[owners[s]].end(), logits.row(spans[s].rows.begin),
                            logits.row(spans[s].rows.begin) + spans[s].rows.count() * V);
    }
  }
  return out;
}

// Each must get, bit for bit, what it gets alone when cut in the same places.
TEST_P(InvarianceTest, BatchOfEightBitForBit) {
  std::vector<std::vector<TokenId>> prompts(EightSequences::kCount, prompt_);
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    std::rotate(prompts[i].begin(), prompts[i].begin() + static_cast<std::ptrdiff_t>(i), prompts[i].end());
  }
  for (const KernelTable& table : available_tables()) {
    if (!worth_running(table, model_->config())) continue;
    SCOPED_TRACE(table.name);
    const auto model = load_for(table, data_path("golden/" + GetParam()));
    Runner runner(*model, table);
    for (const DType kv_type : kv_types_) {
      const std::vector<std::vector<float>> together = run_together(*model, runner, prompts, kv_type);
      for (std::size_t i = 0; i < prompts.size(); ++i) {
        SequenceMemory memory(model_->config(), 200, kv_type);
        std::vector<float> alone;
        std::size_t begin = 0;
        for (std::size_t cut : kCuts[i]) {
          const auto logits = runner.logits(memory, std::span(prompts[i]).subspan(begin, cut), cut);
          alone.insert(alone.end(), logits.begin(), logits.end());
          begin += cut;
        }
        EXPECT_EQ(together[i], alone) << "sequence " << i << " " << dtype_info(kv_type).name;
      }
    }
  }
}

// A draft window keeps the state after each row: going back to row i and on from there is as if nothing had followed.
TEST_P(InvarianceTest, DraftWindowRollsBackBitForBit) {
  const ModelConfig& cfg = model_->config();
  for (const KernelTable& table : available_tables()) {
    if (!worth_running(table, model_->config())) continue;
    SCOPED_TRACE(table.name);
    const auto model = load_for(table, data_path("golden/" + GetParam()));
    Runner runner(*model, table);
    SequenceMemory plain(cfg, 200);
    (void)runner.logits(plain, std::span(prompt_).first(100), 100);
    const std::vector<float> expected = runner.logits(plain, std::span(prompt_).subspan(100, 10), 1);

    SequenceMemory drafted(cfg, 200);
    (void)runner.logits(drafted, std::span(prompt_).first(100), 100);
    const std::vector<TokenId> draft = {prompt_[100], prompt_[101], 0, 1};  // the last two are wrong guesses
    const std::vector<StateSlotId> window = {StateSlotId{1}, StateSlotId{2}, StateSlotId{3}};
    SequenceSpan span = drafted.span(draft.size());
    span.window_slots = window;
    {
      const Arena::Scope scope(runner.arena());
      (void)model->forward(runner.ops(), runner.arena(), {.token_ids = draft, .spans = {&span, 1}}, drafted.caches());
    }
    const StateStore& states = drafted.caches().state;
    for (std::size_t i = 0; i < states.num_delta_layers; ++i) states.copy_layer(StateSlotId{0}, StateSlotId{2}, i);
    drafted.num_tokens = 102;
    const std::vector<float> actual = runner.logits(drafted, std::span(prompt_).subspan(102, 8), 1);
    EXPECT_EQ(actual, std::vector<float>(expected.begin() + static_cast<std::ptrdiff_t>(2 * cfg.V), expected.end()));
  }
}

INSTANTIATE_TEST_SUITE_P(Models, InvarianceTest,
                         testing::Values("next-tiny", "next-rawtopk", "moe-tiny", "dense-tiny",
                                         "next-gguf/next-Q4_K_M.gguf"),
                         [](const testing::TestParamInfo<std::string>& info) {
                           std::string name = info.param;
                           std::erase_if(name, [](char c) { return !std::isalnum(static_cast<unsigned char>(c)); });
                           return name;
                         });

}  // namespace
}  // namespace qnext::test
