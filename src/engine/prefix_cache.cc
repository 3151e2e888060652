#include "engine/prefix_cache.h"

#include <algorithm>
#include <tuple>

namespace qnext {
namespace {

constexpr std::size_t kPassingShare = 4;  // one slot in so many is for prefixes that do not last

bool begins_with(std::span<const TokenId> tokens, std::span<const TokenId> prefix) {
  return tokens.size() >= prefix.size() && std::equal(prefix.begin(), prefix.end(), tokens.begin());
}

}  // namespace

PrefixCache::PrefixCache(KvCache& kv, StateCache& states, std::size_t max_prefixes)
    : kv_(kv), states_(states), max_prefixes_(max_prefixes) {
  prefixes_.reserve(max_prefixes);
}

const PrefixCache::Prefix* PrefixCache::find(std::span<const TokenId> tokens) const {
  const Prefix* longest = nullptr;
  for (const Prefix& prefix : prefixes_) {
    const std::size_t at_least = longest == nullptr ? 0 : longest->tokens.size();
    if (prefix.tokens.size() > at_least && begins_with(tokens, prefix.tokens)) longest = &prefix;
  }
  return longest;
}

std::size_t PrefixCache::match(std::span<const TokenId> tokens) const {
  if (tokens.empty()) return 0;
  const Prefix* found = find(tokens.first(tokens.size() - 1));  // the last token has to run: its logits are wanted
  return found == nullptr ? 0 : found->tokens.size();
}

std::size_t PrefixCache::resume(std::span<const TokenId> tokens, KvSequence& kv, StateSlotId slot) {
  const Prefix* found = find(tokens.first(tokens.size() - 1));
  QN_CHECK(found != nullptr && kv.pages.empty(), "nothing to resume, or {} pages already", kv.pages.size());
  Prefix& prefix = prefixes_[static_cast<std::size_t>(found - prefixes_.data())];
  kv = kv_.fork(prefix.kv, prefix.tokens.size());
  states_.restore(slot, prefix.slot);
  prefix.lasting = true;
  prefix.last_use = ++num_uses_;
  return prefix.tokens.size();
}

// A quarter of the slots is for prefixes that do not last: neither kind crowds the other out.
bool PrefixCache::make_room(bool lasting) {
  if (prefixes_.size() + num_claimed_ < max_prefixes_) return true;
  const auto num_passing = static_cast<std::size_t>(std::ranges::count(prefixes_, false, &Prefix::lasting));
  const bool from_passing = num_passing + (lasting ? 0 : 1) > max_prefixes_ / kPassingShare;
  auto chosen = choose([&](const Prefix& prefix) { return prefix.lasting != from_passing; });
  if (!chosen && lasting) chosen = choose([](const Prefix&) { return true; });
  if (chosen) give_up(*chosen);
  return chosen.has_value();
}

std::optional<StateSlotId> PrefixCache::try_claim_slot(bool lasting) {
  if (max_prefixes_ == num_claimed_ || !make_room(lasting)) return std::nullopt;
  ++num_claimed_;
  return states_.take();
}

void PrefixCache::keep_claimed(std::span<const TokenId> tokens, KvSequence kv, StateSlotId slot, bool lasting) {
  --num_claimed_;
  keep(tokens, std::move(kv), slot, lasting);
}

void PrefixCache::keep(std::span<const TokenId> tokens, KvSequence kv, StateSlotId slot, bool lasting) {
  QN_CHECK(max_prefixes_ > num_claimed_ && kv.num_tokens == tokens.size(), "{} tokens, {} of them in pages",
           tokens.size(), kv.num_tokens);
  const Prefix* found = find(tokens);
  if (found != nullptr && found->tokens.size() == tokens.size()) {
    Prefix& prefix = prefixes_[static_cast<std::size_t>(found - prefixes_.data())];
    prefix.lasting = prefix.lasting || lasting;
    prefix.last_use = ++num_uses_;
    kv_.release(kv);
    states_.release(slot);
    return;
  }
  if (!make_room(lasting)) give_up_one();
  prefixes_.push_back({.tokens = {tokens.begin(), tokens.end()},
                       .kv = std::move(kv),
                       .slot = slot,
                       .lasting = lasting,
                       .last_use = ++num_uses_});
  ++counts_.num_kept;
}

void PrefixCache::free_pages(std::size_t num_pages) {
  const auto has_own_page = [&](const Prefix& prefix) {
    return std::ranges::any_of(prefix.kv.pages, [&](PageId page) { return !kv_.is_shared(page); });
  };
  while (kv_.num_free_pages() < num_pages) {
    const auto chosen = choose(has_own_page);
    if (!chosen) return;
    give_up(*chosen);
  }
}

bool PrefixCache::give_up_one() {
  const auto chosen = choose([](const Prefix&) { return true; });
  if (chosen) give_up(*chosen);
  return chosen.has_value();
}

std::optional<std::size_t> PrefixCache::choose(FunctionRef<bool(const Prefix&)> may_go) const {
  std::optional<std::size_t> out;
  const auto worth = [&](std::size_t i) { return std::tuple(prefixes_[i].lasting, prefixes_[i].last_use); };
  for (std::size_t i = 0; i < prefixes_.size(); ++i) {
    if (may_go(prefixes_[i]) && (!out || worth(i) < worth(*out))) out = i;
  }
  return out;
}

void PrefixCache::give_up(std::size_t index) {
  kv_.release(prefixes_[index].kv);
  states_.release(prefixes_[index].slot);
  prefixes_.erase(prefixes_.begin() + static_cast<std::ptrdiff_t>(index));
  ++counts_.num_given_up;
}

void PrefixCache::append_holders(std::vector<const KvSequence*>& holders, std::vector<StateSlotId>& slots) const {
  for (const Prefix& prefix : prefixes_) {
    holders.push_back(&prefix.kv);
    slots.push_back(prefix.slot);
  }
}

}  // namespace qnext
