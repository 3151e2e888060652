#include "engine/engine_config.h"

#include <cstdint>
#include <limits>
#include <string_view>

#include "engine/kv_cache.h"
#include "engine/state_cache.h"

namespace qnext {
namespace {

// Beyond every use; they keep products of sizes far from overflow.
constexpr std::size_t kMaxContextTokens = std::size_t{1} << 27;
constexpr std::size_t kMaxSequences = std::size_t{1} << 16;
constexpr std::size_t kMaxPageTokens = std::size_t{1} << 16;
constexpr std::size_t kMaxPrefillChunkTokens = std::size_t{1} << 16;
constexpr std::size_t kMaxKeptPrefixes = std::size_t{1} << 12;

Status check_range(std::string_view field, std::size_t value, Range allowed) {
  if (value >= allowed.begin && value < allowed.end) return success();
  return error("{}: found {}, expected {} to {}", field, value, allowed.begin, allowed.end - 1);
}

std::size_t pages_a_sequence(const EngineConfig& config) {
  return ceil_div(config.context_tokens, config.page_tokens);
}

}  // namespace

std::size_t num_state_slots(const EngineConfig& config) {
  return config.num_sequences * (1 + config.max_drafts) + config.num_kept_prefixes;
}

std::size_t num_kv_pages(const EngineConfig& config) {
  return config.num_pages.value_or(config.num_sequences * pages_a_sequence(config));
}

Status check_engine_config(const ModelConfig& model, const EngineConfig& config) {
  QN_RETURN_IF_ERROR(check_range("context_tokens", config.context_tokens, {2, kMaxContextTokens + 1}));
  QN_RETURN_IF_ERROR(check_range("num_sequences", config.num_sequences, {1, kMaxSequences + 1}));
  QN_RETURN_IF_ERROR(check_range("page_tokens", config.page_tokens, {1, kMaxPageTokens + 1}));
  QN_RETURN_IF_ERROR(check_range("prefill_chunk_tokens", config.prefill_chunk_tokens, {1, kMaxPrefillChunkTokens + 1}));
  QN_RETURN_IF_ERROR(check_range("max_drafts", config.max_drafts, {0, kMaxDrafts + 1}));
  if (config.max_drafts > 0 && !model.has_mtp) {
    return error("max_drafts: found {}, but the model has no MTP block to draft with", config.max_drafts);
  }
  QN_RETURN_IF_ERROR(check_range("num_kept_prefixes", config.num_kept_prefixes, {0, kMaxKeptPrefixes + 1}));
  // Every request waits for the step that admits it.
  if (config.max_waiting == 0) return error("max_waiting: found 0, expected at least 1");
  if (config.context_tokens > model.max_context_tokens) {
    return error("context_tokens: found {}, but the model was made for {} tokens; ask for at most that",
                 config.context_tokens, model.max_context_tokens);
  }
  QN_RETURN_IF_ERROR(check_kv_type(model, config.kv_type));
  // A sequence that runs alone can then always fill its context.
  return check_range("num_pages", num_kv_pages(config),
                     {pages_a_sequence(config), std::size_t{std::numeric_limits<std::uint32_t>::max()} + 1});
}

std::size_t engine_memory_bytes(const ModelConfig& model, const EngineConfig& config) {
  const KvStore kv = KvStore::shape_for(model, config.kv_type, config.page_tokens);
  const double num_bytes = static_cast<double>(num_kv_pages(config)) * static_cast<double>(kv.page_bytes()) +
                           static_cast<double>(num_state_slots(config)) * static_cast<double>(model.state_bytes());
  return num_bytes < 0x1p62 ? static_cast<std::size_t>(num_bytes) : SIZE_MAX;
}

}  // namespace qnext
