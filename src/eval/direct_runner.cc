#include "eval/direct_runner.h"

#include <algorithm>
#include <random>

#include "base/cpu.h"

namespace qnext {
namespace {

constexpr std::size_t kPageTokens = 64;
constexpr std::size_t kFillRows = 256;  // K/V rows drawn at once

}  // namespace

Result<std::unique_ptr<DirectRunner>> DirectRunner::make(const Qwen3Next& model, const Ops& ops,
                                                         const DirectRunnerConfig& config) {
  QN_CHECK(config.num_sequences > 0 && config.max_tokens > 0, "{} sequences of {} tokens", config.num_sequences,
           config.max_tokens);
  QN_RETURN_IF_ERROR(check_kv_type(model.config(), config.kv_type));
  const KvStore kv = KvStore::shape_for(model.config(), config.kv_type, kPageTokens);
  const std::size_t sequence_bytes = ceil_div(config.max_tokens, kPageTokens) * kv.page_bytes() +
                                     StateStore::shape_for(model.config()).slot_floats() * sizeof(float);
  const std::size_t free_bytes = available_memory_bytes();
  if (sequence_bytes > free_bytes / config.num_sequences) {
    return error(
        "{} sequences of {} tokens need {} MiB each for K/V and states, and {} MiB are free in all; ask for fewer or "
        "shorter ones, or for --kv-type bf16 or q8_0",
        config.num_sequences, config.max_tokens, sequence_bytes >> 20, free_bytes >> 20);
  }
  return std::unique_ptr<DirectRunner>(new DirectRunner(model, ops, config));
}

DirectRunner::DirectRunner(const Qwen3Next& model, const Ops& ops, const DirectRunnerConfig& config)
    : model_(model), ops_(ops), config_(config), pages_per_sequence_(ceil_div(config.max_tokens, kPageTokens)) {
  const std::size_t num_pages = config.num_sequences * pages_per_sequence_;
  for (std::size_t page_idx = 0; page_idx < num_pages; ++page_idx) {
    pages_.push_back(PageId{static_cast<std::uint32_t>(page_idx)});
  }
  caches_.kv = KvStore::shape_for(model.config(), config.kv_type, kPageTokens);
  caches_.kv.data = memory_.allocate<std::byte>(num_pages * caches_.kv.page_bytes());
  caches_.state = StateStore::shape_for(model.config());
  caches_.state.data = memory_.allocate<float>(config.num_sequences * caches_.state.slot_floats());
  reset();
}

void DirectRunner::reset() {
  position_ = 0;
  std::fill_n(caches_.state.data, config_.num_sequences * caches_.state.slot_floats(), 0.0f);
}

View<float> DirectRunner::step(std::span<const TokenId> token_ids, const Probe* probe) {
  QN_CHECK(token_ids.size() % config_.num_sequences == 0, "{} tokens for {} sequences", token_ids.size(),
           config_.num_sequences);
  const std::size_t num_tokens = token_ids.size() / config_.num_sequences;
  QN_CHECK(position_ + num_tokens <= config_.max_tokens, "{} + {} tokens of {}", position_, num_tokens,
           config_.max_tokens);
  step_scope_.reset();
  step_scope_.emplace(scratch_);
  std::vector<SequenceSpan> spans;
  for (std::size_t sequence_idx = 0; sequence_idx < config_.num_sequences; ++sequence_idx) {
    spans.push_back({.rows = {sequence_idx * num_tokens, (sequence_idx + 1) * num_tokens},
                     .first_position = position_,
                     .kv_pages = std::span(pages_).subspan(sequence_idx * pages_per_sequence_, pages_per_sequence_),
                     .state_slot = StateSlotId{static_cast<std::uint32_t>(sequence_idx)},
                     .window_slots = {},
                     .checkpoint = {}});
  }
  position_ += num_tokens;
  return model_.forward(ops_, scratch_, {.token_ids = token_ids, .spans = spans}, caches_, probe);
}

View<float> DirectRunner::logits(View<const float> hidden) {
  return model_.logits(ops_, scratch_, hidden);
}

void DirectRunner::fill_synthetic(std::size_t position, std::uint64_t seed) {
  QN_CHECK(position <= config_.max_tokens, "position {} of {}", position, config_.max_tokens);
  std::minstd_rand random(static_cast<std::uint32_t>(seed));
  const auto draw = [&random] { return static_cast<float>(random() & 0xFFFF) / 65536.0f - 0.5f; };
  const KvStore& kv = caches_.kv;
  std::vector<float> rows(kFillRows * kv.Hkv * kv.Dh);
  std::generate(rows.begin(), rows.end(), draw);
  for (std::size_t sequence_idx = 0; sequence_idx < config_.num_sequences; ++sequence_idx) {
    const auto pages = std::span(pages_).subspan(sequence_idx * pages_per_sequence_, pages_per_sequence_);
    for (std::size_t kv_layer_idx = 0; kv_layer_idx < kv.num_kv_layers; ++kv_layer_idx) {
      for (std::size_t begin = 0; begin < position; begin += kFillRows) {
        const View<const float> values(rows.data(), {std::min(kFillRows, position - begin), kv.Hkv, kv.Dh});
        ops_.table().store_kv(kv.layer(kv_layer_idx, pages), values, values, begin);
      }
    }
  }
  std::generate_n(caches_.state.data, config_.num_sequences * caches_.state.slot_floats(), draw);
  position_ = position;
}

}  // namespace qnext
