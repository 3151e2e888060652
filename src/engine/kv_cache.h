#pragma once
// KvCache: the pages of K/V, who holds them, and what happens when a page has several holders.
// A page is shared by reference count: writing to one that others hold as well copies it first (only a partly filled
// last page can need that). All memory is reserved at start; nothing here allocates page memory later.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "base/units.h"
#include "engine/cache_memory.h"
#include "model/caches.h"

namespace qnext {

// One sequence's pages: page i holds positions [i * page_tokens, (i+1) * page_tokens). Positions [0, num_tokens) are
// filled; the pages may reach further. Changed through KvCache only, but for num_tokens, which grows as tokens are run.
struct KvSequence {
  std::vector<PageId> pages;
  std::size_t num_tokens = 0;
};

class KvCache {
 public:
  // Memory for num_pages pages of this shape (KvStore::shape_for). Error: the system refuses.
  static Result<KvCache> make(KvStore shape, std::size_t num_pages);

  const KvStore& store() const { return store_; }
  std::size_t num_pages() const { return num_holders_.size(); }
  std::size_t num_free_pages() const { return free_pages_.size(); }
  std::size_t pages_for(std::size_t num_tokens) const { return ceil_div(num_tokens, store_.page_tokens); }

  // How many free pages try_reserve(sequence, num_tokens) would take.
  std::size_t num_pages_missing(const KvSequence& sequence, std::size_t num_tokens) const;

  // Makes positions [sequence.num_tokens, num_tokens) writable: pages that are missing are taken, a page that others
  // hold as well is copied. To be called before every write. False, and nothing done, when too few pages are free.
  bool try_reserve(KvSequence& sequence, std::size_t num_tokens);

  // A second holder of the first num_tokens positions, all of them filled. Cost: one count a page.
  KvSequence fork(const KvSequence& sequence, std::size_t num_tokens);

  // A second holder of these pages, which hold num_tokens filled positions in this order; others hold them already.
  KvSequence share(std::span<const PageId> pages, std::size_t num_tokens);

  // Whether another sequence holds the page as well.
  bool is_shared(PageId page) const { return num_holders_[page.value] > 1; }

  // Forgets positions from num_tokens on; pages past the end are given up. Requires num_tokens <= sequence.num_tokens.
  void rollback(KvSequence& sequence, std::size_t num_tokens);

  void release(KvSequence& sequence);

  // Checks, against the sequences that hold pages, all of them: each page's count is its number of holders, free pages
  // have none, are listed once, and free + held is all. Aborts when not.
  void check_integrity(std::span<const KvSequence* const> holders) const;

 private:
  KvCache(KvStore store, CacheMemory memory, std::size_t num_pages);

  PageId take_page();
  void give_up(PageId page);
  std::byte* page_data(PageId page) const { return store_.data + page.value * store_.page_bytes(); }
  // The page in which the next position lies, when it is filled in part and someone else holds it too.
  bool must_copy_last_page(const KvSequence& sequence) const;

  KvStore store_;
  CacheMemory memory_;
  std::vector<std::uint32_t> num_holders_;  // by page
  std::vector<PageId> free_pages_;          // the last one is taken next
};

}  // namespace qnext
