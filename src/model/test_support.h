#pragma once
// For tests of the network: caches that are as large as needed, and a driver that runs token lists in any cut.

#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/arena.h"
#include "base/thread_pool.h"
#include "kernels/dispatch.h"
#include "kernels/ops.h"
#include "model/model.h"
#include "tensor/safetensors.h"

namespace qnext::test {

inline std::string data_path(const std::string& relative) {
  return std::string(QNEXT_SOURCE_DIR) + "/tests/data/" + relative;
}

// A sequence's whole memory: its own pages (in a scrambled order, so that wrong paging shows) and one state slot.
class SequenceMemory {
 public:
  SequenceMemory(const ModelConfig& config, std::size_t max_tokens, DType kv_type = DType::kF32,
                 std::size_t page_tokens = 16) {
    caches_.kv = KvStore::shape_for(config, kv_type, page_tokens);
    const std::size_t num_pages = ceil_div(max_tokens, page_tokens);
    kv_bytes_.resize(num_pages * caches_.kv.page_bytes());
    caches_.kv.data = kv_bytes_.data();
    for (std::size_t i = 0; i < num_pages; ++i) {
      pages_.push_back(PageId{static_cast<std::uint32_t>((i * 7 + 3) % num_pages)});
    }
    if (num_pages % 7 == 0) {
      for (std::size_t i = 0; i < num_pages; ++i) pages_[i] = PageId{static_cast<std::uint32_t>(num_pages - 1 - i)};
    }
    caches_.state = StateStore::shape_for(config);
    state_.resize(kNumSlots * caches_.state.slot_floats());
    caches_.state.data = state_.data();
  }

  static constexpr std::size_t kNumSlots = 9;  // slot 0 is the sequence's, the others serve draft windows

  const Caches& caches() const { return caches_; }
  SequenceSpan span(std::size_t num_rows) const {
    return {.rows = {0, num_rows},
            .first_position = num_tokens,
            .kv_pages = pages_,
            .state_slot = StateSlotId{0},
            .window_slots = {},
            .checkpoint = {}};
  }
  std::span<float> state() { return state_; }

  std::size_t num_tokens = 0;  // positions filled so far

 private:
  Caches caches_;
  std::vector<std::byte> kv_bytes_;
  std::vector<PageId> pages_;
  std::vector<float> state_;
};

// The model at `path`, with its weights packed where the table packs them.
inline std::unique_ptr<const Qwen3Next> load_for(const KernelTable& table, const std::string& path) {
  ThreadPool pool(2);
  auto model = Qwen3Next::load(path, Ops(table, pool), {});
  QN_CHECK(model.ok(), "{}", model.message());
  return std::move(model).value();
}

// A model with a kernel table and threads to run it.
class Runner {
 public:
  Runner(const Qwen3Next& model, const KernelTable& table, std::size_t num_threads = 2)
      : model_(model), pool_(num_threads), ops_(table, pool_) {}

  // Feeds `tokens` in chunks of `chunk_tokens`; returns the logits of every row, [T, V].
  std::vector<float> logits(SequenceMemory& memory, std::span<const TokenId> tokens, std::size_t chunk_tokens,
                            const Probe* probe = nullptr) {
    std::vector<float> out;
    hidden_.clear();
    for (std::size_t begin = 0; begin < tokens.size(); begin += chunk_tokens) {
      const auto chunk = tokens.subspan(begin, std::min(chunk_tokens, tokens.size() - begin));
      const Arena::Scope scope(arena_);
      const SequenceSpan span = memory.span(chunk.size());
      const View<float> hidden =
          model_.forward(ops_, arena_, {.token_ids = chunk, .spans = {&span, 1}}, memory.caches(), probe);
      hidden_.insert(hidden_.end(), hidden.data(), hidden.data() + hidden.num_elements());
      const View<float> logits = model_.logits(ops_, arena_, hidden);
      out.insert(out.end(), logits.data(), logits.data() + logits.num_elements());
      memory.num_tokens += chunk.size();
    }
    return out;
  }

  const std::vector<float>& hidden() const { return hidden_; }  // of the last logits() call, [T, D]
  const Ops& ops() const { return ops_; }
  Arena& arena() { return arena_; }

 private:
  const Qwen3Next& model_;
  ThreadPool pool_;
  Ops ops_;
  Arena arena_;
  std::vector<float> hidden_;
};

inline TokenId argmax(std::span<const float> logits) {
  return static_cast<TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

// Tensors of a golden file, by name.
class Golden {
 public:
  explicit Golden(const std::string& path) : file_(Safetensors::open(path)) {
    EXPECT_TRUE(file_.ok()) << file_.message();
  }
  bool has(const std::string& name) const { return file_->find(name) != nullptr; }
  std::span<const float> floats(const std::string& name) const { return values<float>(name, DType::kF32); }
  std::vector<TokenId> tokens(const std::string& name) const {
    const auto ids = values<std::int32_t>(name, DType::kI32);
    return {ids.begin(), ids.end()};
  }
  std::vector<std::size_t> shape(const std::string& name) const { return file_->find(name)->shape; }

 private:
  template <class T>
  std::span<const T> values(const std::string& name, DType type) const {
    const TensorEntry* entry = file_->find(name);
    QN_CHECK(entry != nullptr && entry->type == type, "golden tensor {}", name);
    return {reinterpret_cast<const T*>(entry->data), entry->bytes / sizeof(T)};
  }

  Result<Safetensors> file_;
};

}  // namespace qnext::test
