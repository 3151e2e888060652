#include "engine/prefix_file.h"

#include <algorithm>
#include <cstring>
#include <unordered_map>
#include <vector>

#include "tensor/checked_file.h"

namespace qnext {
namespace {

constexpr std::size_t kAlignment = 64;  // of the pages

struct FilePrefix {
  std::vector<TokenId> tokens;
  std::vector<std::uint32_t> pages;  // numbers in the file
  bool lasting = false;
};

struct Index {
  std::vector<FilePrefix> prefixes;
  std::uint64_t num_pages = 0;
  std::uint64_t num_bytes = 0;  // up to the first page
};

std::size_t state_bytes(const StateCache& states) {
  return states.store().slot_floats() * sizeof(float);
}

std::span<const std::byte> slot_bytes(const StateCache& states, StateSlotId slot) {
  const std::size_t num_floats = states.store().slot_floats();
  return std::as_bytes(std::span(states.store().data + slot.value * num_floats, num_floats));
}

std::byte* page_data(const KvCache& kv, PageId page) {
  return kv.store().data + page.value * kv.store().page_bytes();
}

template <typename T>
void append(std::vector<std::byte>& out, std::span<const T> values) {
  const std::span<const std::byte> bytes = std::as_bytes(values);
  out.insert(out.end(), bytes.begin(), bytes.end());
}

void append(std::vector<std::byte>& out, std::uint64_t value) {
  append(out, std::span<const std::uint64_t>(&value, 1));
}

// Takes values from the front of some bytes; false, and nothing taken, when there are too few.
class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes) : rest_(bytes) {}

  template <typename T>
  bool read(std::vector<T>& out, std::uint64_t count) {
    if (count > rest_.size() / sizeof(T)) return false;
    out.resize(count);
    if (count > 0) std::memcpy(out.data(), rest_.data(), count * sizeof(T));
    rest_ = rest_.subspan(count * sizeof(T));
    return true;
  }
  bool read(std::uint64_t& out) {
    std::vector<std::uint64_t> one;
    if (!read(one, 1)) return false;
    out = one[0];
    return true;
  }
  std::size_t num_left() const { return rest_.size(); }

 private:
  std::span<const std::byte> rest_;
};

// The index at the front of the file; nothing when it contradicts itself or the rest.
std::optional<Index> read_index(std::span<const std::byte> data, const KvCache& kv, const StateCache& states) {
  Index out;
  Reader reader(data);
  std::uint64_t num_prefixes = 0;
  if (!reader.read(num_prefixes) || !reader.read(out.num_pages)) return std::nullopt;
  for (std::uint64_t i = 0; i < num_prefixes; ++i) {
    FilePrefix prefix;
    std::uint64_t num_tokens = 0, lasting = 0;
    if (!reader.read(num_tokens) || !reader.read(lasting) || num_tokens == 0) return std::nullopt;
    if (!reader.read(prefix.tokens, num_tokens) || !reader.read(prefix.pages, kv.pages_for(num_tokens))) {
      return std::nullopt;
    }
    const auto is_there = [&](std::uint32_t page) { return page < out.num_pages; };
    if (!std::ranges::all_of(prefix.pages, is_there)) return std::nullopt;
    prefix.lasting = lasting != 0;
    out.prefixes.push_back(std::move(prefix));
  }
  out.num_bytes = round_up(data.size() - reader.num_left(), kAlignment);
  const std::size_t page_bytes = kv.store().page_bytes(), slot_size = state_bytes(states);
  if (page_bytes > 0 && out.num_pages > data.size() / page_bytes) return std::nullopt;
  if (out.num_bytes + out.num_pages * page_bytes + out.prefixes.size() * slot_size != data.size()) return std::nullopt;
  return out;
}

}  // namespace

Result<PrefixFile> save_prefixes(const std::filesystem::path& path, std::uint64_t tag, const PrefixCache& prefixes,
                                 const KvCache& kv, const StateCache& states) {
  std::vector<const PrefixCache::Prefix*> ordered;
  for (const PrefixCache::Prefix& prefix : prefixes.prefixes()) ordered.push_back(&prefix);
  std::ranges::sort(ordered, {}, &PrefixCache::Prefix::last_use);
  std::unordered_map<std::uint32_t, std::uint32_t> number_of_page;
  std::vector<PageId> pages;
  std::vector<std::byte> index;
  for (const auto* prefix : ordered) {
    for (PageId page : prefix->kv.pages) {
      if (number_of_page.try_emplace(page.value, static_cast<std::uint32_t>(pages.size())).second)
        pages.push_back(page);
    }
  }
  append(index, ordered.size());
  append(index, pages.size());
  for (const auto* prefix : ordered) {
    append(index, prefix->tokens.size());
    append(index, std::uint64_t{prefix->lasting});
    append(index, std::span(prefix->tokens));
    std::vector<std::uint32_t> numbers;
    for (PageId page : prefix->kv.pages) numbers.push_back(number_of_page.at(page.value));
    append(index, std::span<const std::uint32_t>(numbers));
  }
  index.resize(round_up(index.size(), kAlignment));

  const std::uint64_t num_bytes =
      index.size() + pages.size() * kv.store().page_bytes() + ordered.size() * state_bytes(states);
  remove_abandoned_temporaries(path);
  QN_TRY(CheckedFileWriter file, CheckedFileWriter::create(path, tag, num_bytes));
  QN_RETURN_IF_ERROR(file.append(index));
  for (PageId page : pages) QN_RETURN_IF_ERROR(file.append({page_data(kv, page), kv.store().page_bytes()}));
  for (const auto* prefix : ordered) QN_RETURN_IF_ERROR(file.append(slot_bytes(states, prefix->slot)));
  QN_RETURN_IF_ERROR(file.commit());
  return PrefixFile{.num_prefixes = ordered.size(), .num_bytes = num_bytes};
}

Result<PrefixFile> restore_prefixes(const std::filesystem::path& path, std::uint64_t tag, PrefixCache& prefixes,
                                    KvCache& kv, StateCache& states, ThreadPool& pool) {
  QN_CHECK(prefixes.num_prefixes() == 0, "{} prefixes are kept already", prefixes.num_prefixes());
  QN_TRY(const CheckedFile file, CheckedFile::open(path, tag, std::nullopt, CheckedFile::Check::kWhole, pool));
  const std::span<const std::byte> data = file.data();
  const std::optional<Index> index = read_index(data, kv, states);
  if (!index) return error("{}: its index contradicts its size", path.string());
  const std::byte* file_pages = data.data() + index->num_bytes;
  const std::byte* file_states = file_pages + index->num_pages * kv.store().page_bytes();

  // The last used ones that there is room for, and a page of `held` for each of theirs.
  std::vector<std::uint32_t> numbers;
  std::vector<std::size_t> place_of_number(index->num_pages, SIZE_MAX);
  std::size_t first = index->prefixes.size();
  for (; first > 0 && index->prefixes.size() - first < prefixes.max_prefixes(); --first) {
    const std::vector<std::uint32_t>& pages = index->prefixes[first - 1].pages;
    const auto is_new = [&](std::uint32_t number) { return place_of_number[number] == SIZE_MAX; };
    if (numbers.size() + static_cast<std::size_t>(std::ranges::count_if(pages, is_new)) > kv.num_free_pages()) break;
    for (const std::uint32_t number : pages) {
      if (!is_new(number)) continue;
      place_of_number[number] = numbers.size();
      numbers.push_back(number);
    }
  }
  KvSequence held;
  const bool reserved = kv.try_reserve(held, numbers.size() * kv.store().page_tokens);
  QN_CHECK(reserved, "{} pages, {} are free", numbers.size(), kv.num_free_pages());
  const std::size_t page_bytes = kv.store().page_bytes();
  for (std::size_t i = 0; i < numbers.size() && page_bytes > 0; ++i) {
    std::memcpy(page_data(kv, held.pages[i]), file_pages + numbers[i] * page_bytes, page_bytes);
  }
  for (std::size_t i = first; i < index->prefixes.size(); ++i) {
    const FilePrefix& prefix = index->prefixes[i];
    std::vector<PageId> pages;
    for (const std::uint32_t number : prefix.pages) pages.push_back(held.pages[place_of_number[number]]);
    const StateSlotId slot = *prefixes.try_claim_slot(prefix.lasting);
    if (state_bytes(states) > 0) {
      std::memcpy(states.store().data + slot.value * states.store().slot_floats(),
                  file_states + i * state_bytes(states), state_bytes(states));
    }
    prefixes.keep_claimed(prefix.tokens, kv.share(pages, prefix.tokens.size()), slot, prefix.lasting);
  }
  kv.release(held);
  return PrefixFile{.num_prefixes = index->prefixes.size() - first, .num_bytes = data.size()};
}

}  // namespace qnext
