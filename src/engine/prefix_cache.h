#pragma once
// PrefixCache: beginnings of sequences, whose K/V pages and recurrent state are kept so that a prompt that begins alike
// goes on from there. A recurrent state cannot be cut back, so a prefix is of use as a whole or not at all, and there
// are only as many as there are slots for states: a few dozen, which a plain list of token ids serves (decision 7).

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/function_ref.h"
#include "base/units.h"
#include "engine/kv_cache.h"
#include "engine/state_cache.h"

namespace qnext {

// Since the start; their difference is what is there.
struct PrefixCounts {
  std::uint64_t num_kept = 0;
  std::uint64_t num_given_up = 0;
};

class PrefixCache {
 public:
  struct Prefix {
    std::vector<TokenId> tokens;
    KvSequence kv;  // of just these tokens
    StateSlotId slot;
    bool lasting = false;  // it ends where a later prompt is likely to go on, or one did
    std::uint64_t last_use = 0;
  };

  // Holds pages of `kv` and at most max_prefixes slots of `states`; both must outlive it.
  PrefixCache(KvCache& kv, StateCache& states, std::size_t max_prefixes);

  std::size_t max_prefixes() const { return max_prefixes_; }
  std::size_t num_prefixes() const { return prefixes_.size(); }
  const PrefixCounts& counts() const { return counts_; }
  std::span<const Prefix> prefixes() const { return prefixes_; }

  // Tokens of the longest prefix that `tokens` begin with and go on after; 0: there is none.
  // Cost: compares with each prefix up to where they part.
  std::size_t match(std::span<const TokenId> tokens) const;

  // Requires match(tokens) > 0: `kv`, which must be empty, shares that prefix' pages, and `slot` gets a copy of its
  // state. Such a prefix has proven its worth: it lasts. Returns match(tokens).
  std::size_t resume(std::span<const TokenId> tokens, KvSequence& kv, StateSlotId slot);

  // A slot for the state of a prefix that this step will keep(). Where all are taken, gives up the least recently used
  // prefix that does not last, or, where no more than a quarter are of that kind, that lasts: prompts that part midway
  // find something in a full cache, too. Nothing when there is none to give up.
  std::optional<StateSlotId> try_claim_slot(bool lasting);

  // Keeps the prefix in the slot that try_claim_slot gave, or in one that a sequence gives up: then there is always
  // room. Requires max_prefixes() > 0. One that is there already is only used once more.
  void keep(std::span<const TokenId> tokens, KvSequence kv, StateSlotId slot, bool lasting);
  void keep_claimed(std::span<const TokenId> tokens, KvSequence kv, StateSlotId slot, bool lasting);

  // Gives prefixes up, the least recently used first, until num_pages pages are free or no prefix has a page of its
  // own.
  void free_pages(std::size_t num_pages);

  // Gives one up whatever pages it has. False: there is none.
  bool give_up_one();

  // For the integrity checks of both caches: appends what is held here.
  void append_holders(std::vector<const KvSequence*>& holders, std::vector<StateSlotId>& slots) const;

 private:
  const Prefix* find(std::span<const TokenId> tokens) const;
  // Room for one more, which may take one away; false: there is none to take.
  bool make_room(bool lasting);
  // The one to give up first, of those that may go.
  std::optional<std::size_t> choose(FunctionRef<bool(const Prefix&)> may_go) const;
  void give_up(std::size_t index);

  KvCache& kv_;
  StateCache& states_;
  std::size_t max_prefixes_;
  std::size_t num_claimed_ = 0;
  std::vector<Prefix> prefixes_;
  PrefixCounts counts_;
  std::uint64_t num_uses_ = 0;
};

}  // namespace qnext
