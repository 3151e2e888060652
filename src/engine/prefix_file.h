#pragma once
// Kept prefixes in a file, so that an engine goes on where another one stopped. A CheckedFile (tensor/checked_file.h)
// whose tag is the model's, the caches' shape and the kernel table's; its data, all little endian:
//
//   8 bytes each      number of prefixes, number of pages
//   then each prefix  its number of tokens, whether it lasts (8 bytes each), its token ids, its pages' numbers (4 each)
//   zeros             up to a multiple of 64
//   pages             KvStore::page_bytes() each; prefixes share them
//   states            StateStore::slot_floats() * 4 bytes each, a prefix' after the other's
//
// Prefixes come in the order of their last use, the oldest first.

#include <cstdint>
#include <filesystem>

#include "base/result.h"
#include "base/thread_pool.h"
#include "engine/kv_cache.h"
#include "engine/prefix_cache.h"
#include "engine/state_cache.h"

namespace qnext {

struct PrefixFile {
  std::uint64_t num_prefixes = 0;
  std::uint64_t num_bytes = 0;
};

// Writes all prefixes to `path`, whole or not at all. Errors: CheckedFileWriter's.
Result<PrefixFile> save_prefixes(const std::filesystem::path& path, std::uint64_t tag, const PrefixCache& prefixes,
                                 const KvCache& kv, const StateCache& states);

// Keeps the file's prefixes, as many as there are slots and free pages for, the last used ones first. Requires that
// none is kept yet. Errors, after which none is: CheckedFile::open's; an index that contradicts the file's size.
Result<PrefixFile> restore_prefixes(const std::filesystem::path& path, std::uint64_t tag, PrefixCache& prefixes,
                                    KvCache& kv, StateCache& states, ThreadPool& pool);

}  // namespace qnext
