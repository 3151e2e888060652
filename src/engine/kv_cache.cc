#include "engine/kv_cache.h"

#include <cstring>

namespace qnext {

Result<KvCache> KvCache::make(KvStore shape, std::size_t num_pages) {
  QN_CHECK(shape.page_tokens > 0 && num_pages <= UINT32_MAX, "{} pages of {} tokens", num_pages, shape.page_tokens);
  QN_TRY(CacheMemory memory, CacheMemory::make(num_pages * shape.page_bytes(), "K/V cache"));
  shape.data = memory.data();
  return KvCache(shape, std::move(memory), num_pages);
}

KvCache::KvCache(KvStore store, CacheMemory memory, std::size_t num_pages)
    : store_(store), memory_(std::move(memory)), num_holders_(num_pages, 0) {
  free_pages_.reserve(num_pages);
  for (std::size_t i = num_pages; i-- > 0;) free_pages_.push_back({static_cast<std::uint32_t>(i)});
}

PageId KvCache::take_page() {
  const PageId page = free_pages_.back();
  free_pages_.pop_back();
  QN_CHECK(num_holders_[page.value] == 0, "free page {} has {} holders", page.value, num_holders_[page.value]);
  num_holders_[page.value] = 1;
  return page;
}

void KvCache::give_up(PageId page) {
  QN_CHECK(page.value < num_pages() && num_holders_[page.value] > 0, "page {} of {} has no holder", page.value,
           num_pages());
  if (--num_holders_[page.value] > 0) return;
  if (kPoison && store_.page_bytes() > 0) std::memset(page_data(page), 0xFF, store_.page_bytes());
  free_pages_.push_back(page);
}

bool KvCache::must_copy_last_page(const KvSequence& sequence) const {
  if (sequence.num_tokens % store_.page_tokens == 0) return false;
  return is_shared(sequence.pages[sequence.num_tokens / store_.page_tokens]);
}

std::size_t KvCache::num_pages_missing(const KvSequence& sequence, std::size_t num_tokens) const {
  if (num_tokens <= sequence.num_tokens) return 0;
  const std::size_t num_needed = pages_for(num_tokens);
  const std::size_t num_new = num_needed > sequence.pages.size() ? num_needed - sequence.pages.size() : 0;
  return num_new + (must_copy_last_page(sequence) ? 1 : 0);
}

bool KvCache::try_reserve(KvSequence& sequence, std::size_t num_tokens) {
  const std::size_t num_missing = num_pages_missing(sequence, num_tokens);
  if (num_missing > free_pages_.size()) return false;
  if (num_missing == 0) return true;
  if (must_copy_last_page(sequence)) {
    PageId& shared = sequence.pages[sequence.num_tokens / store_.page_tokens];
    const PageId own = take_page();
    if (store_.page_bytes() > 0) std::memcpy(page_data(own), page_data(shared), store_.page_bytes());
    give_up(shared);
    shared = own;
  }
  while (sequence.pages.size() < pages_for(num_tokens)) sequence.pages.push_back(take_page());
  return true;
}

KvSequence KvCache::fork(const KvSequence& sequence, std::size_t num_tokens) {
  QN_CHECK(num_tokens <= sequence.num_tokens, "a fork of {} of {} tokens", num_tokens, sequence.num_tokens);
  return share(std::span(sequence.pages).first(pages_for(num_tokens)), num_tokens);
}

KvSequence KvCache::share(std::span<const PageId> pages, std::size_t num_tokens) {
  QN_CHECK(pages.size() == pages_for(num_tokens), "{} pages for {} tokens", pages.size(), num_tokens);
  for (PageId page : pages) {
    QN_CHECK(num_holders_[page.value] > 0, "page {} is free", page.value);
    ++num_holders_[page.value];
  }
  return {.pages = {pages.begin(), pages.end()}, .num_tokens = num_tokens};
}

void KvCache::rollback(KvSequence& sequence, std::size_t num_tokens) {
  QN_CHECK(num_tokens <= sequence.num_tokens, "rollback to {} of {} tokens", num_tokens, sequence.num_tokens);
  sequence.num_tokens = num_tokens;
  while (sequence.pages.size() > pages_for(num_tokens)) {
    give_up(sequence.pages.back());
    sequence.pages.pop_back();
  }
}

void KvCache::release(KvSequence& sequence) {
  rollback(sequence, 0);
}

void KvCache::check_integrity(std::span<const KvSequence* const> holders) const {
  std::vector<std::uint32_t> num_found(num_pages(), 0);
  for (const KvSequence* sequence : holders) {
    QN_CHECK(pages_for(sequence->num_tokens) <= sequence->pages.size(), "{} tokens in {} pages", sequence->num_tokens,
             sequence->pages.size());
    for (PageId page : sequence->pages) {
      QN_CHECK(page.value < num_pages(), "page {} of {}", page.value, num_pages());
      ++num_found[page.value];
    }
  }
  std::size_t num_held = 0;
  for (std::size_t i = 0; i < num_pages(); ++i) {
    QN_CHECK(num_found[i] == num_holders_[i], "page {}: {} holders, counted {}", i, num_found[i], num_holders_[i]);
    num_held += num_found[i] > 0 ? 1 : 0;
  }
  std::vector<bool> listed(num_pages(), false);
  for (PageId page : free_pages_) {
    QN_CHECK(page.value < num_pages() && !listed[page.value], "page {} is listed as free twice", page.value);
    QN_CHECK(num_holders_[page.value] == 0, "free page {} has {} holders", page.value, num_holders_[page.value]);
    listed[page.value] = true;
  }
  QN_CHECK(num_held + free_pages_.size() == num_pages(), "{} pages held, {} free, {} in all", num_held,
           free_pages_.size(), num_pages());
}

}  // namespace qnext
