// Any bytes as a GGUF model: a short error that names the file, or a network that runs on this machine's best table,
// whatever its weights are.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/arena.h"
#include "base/check.h"
#include "base/thread_pool.h"
#include "kernels/dispatch.h"
#include "kernels/ops.h"
#include "model/model.h"
#include "tensor/gguf.h"

namespace {

constexpr std::size_t kNumTokens = 3;
constexpr std::size_t kMostBytes = std::size_t{32} << 20;  // of a sequence's memory, and of a step's scratch: or skip

bool is_small(const qnext::ModelConfig& config) {
  const std::size_t widest = std::max({config.V, config.D, config.dense_width, config.C(), 2 * config.Hq * config.Dh,
                                       config.A * std::max(config.F, config.D), config.shared_expert_width, config.E});
  return config.state_bytes() < kMostBytes && config.kv_bytes_per_token(qnext::DType::kF32) * kNumTokens < kMostBytes &&
         widest * kNumTokens * sizeof(float) < kMostBytes / 16;
}

void run(const qnext::Qwen3Next& model) {
  static qnext::ThreadPool pool(1);
  static const qnext::Ops ops(qnext::available_tables().back(), pool);
  const qnext::ModelConfig& config = model.config();
  qnext::Caches caches;
  caches.kv = qnext::KvStore::shape_for(config, qnext::DType::kBF16, kNumTokens);
  caches.state = qnext::StateStore::shape_for(config);
  std::vector<std::byte> pages(caches.kv.page_bytes());
  std::vector<float> state(caches.state.slot_floats());
  caches.kv.data = pages.data();
  caches.state.data = state.data();

  const std::array<qnext::TokenId, kNumTokens> tokens = {0, static_cast<qnext::TokenId>(config.V - 1), 0};
  const qnext::PageId page{0};
  qnext::SequenceSpan span{
      .rows = {0, kNumTokens}, .first_position = 0, .kv_pages = {&page, 1}, .state_slot = {0}, .window_slots = {}};
  qnext::Arena scratch;
  const auto hidden = model.forward(ops, scratch, {.token_ids = tokens, .spans = {&span, 1}}, caches);
  QN_CHECK(model.logits(ops, scratch, hidden).num_elements() == kNumTokens * config.V, "V {}", config.V);
  if (config.has_mtp) (void)model.forward_mtp(ops, scratch, {.token_ids = tokens, .spans = {&span, 1}}, hidden, caches);
}

void expect_usable(const std::string& message) {
  constexpr std::size_t kMostMessageBytes = 1500;
  QN_CHECK(message.starts_with("fuzz.gguf: "), "{}", message);
  QN_CHECK(message.size() < kMostMessageBytes, "an error of {} bytes", message.size());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t num_bytes) {
  auto gguf = qnext::Gguf::parse(std::as_bytes(std::span(data, num_bytes)), "fuzz.gguf");
  if (!gguf.ok()) return 0;  // fuzz_gguf's matter
  auto config = qnext::parse_config_gguf(*gguf);
  if (!config.ok()) return expect_usable(config.message()), 0;
  auto weights = qnext::load_gguf_weights(std::move(*config), std::move(*gguf));
  if (!weights.ok()) return expect_usable(weights.message()), 0;
  if (is_small(weights->config)) run(qnext::Qwen3Next(std::move(*weights)));
  return 0;
}
