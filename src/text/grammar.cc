#include "text/grammar.h"

#include <vector>

#include "text/rust_call.h"

namespace qnext {
namespace {

static_assert(static_cast<int>(GrammarKind::kJsonSchema) == kQnGrammarJsonSchema);
static_assert(static_cast<int>(GrammarKind::kJsonObject) == kQnGrammarJsonObject);
static_assert(static_cast<int>(GrammarKind::kRegex) == kQnGrammarRegex);
static_assert(static_cast<int>(GrammarKind::kChoice) == kQnGrammarChoice);
static_assert(static_cast<int>(GrammarKind::kLark) == kQnGrammarLark);

constexpr std::string_view kWhat = "grammar";

// A negative id becomes one beyond every vocabulary, which Rust refuses.
std::vector<std::uint32_t> rust_ids(std::span<const TokenId> ids) {
  return {ids.begin(), ids.end()};
}

}  // namespace

void GrammarMatcher::Free::operator()(QnMatcher* handle) const {
  qn_matcher_free(handle);
}

GrammarMatcher::GrammarMatcher(QnMatcher* handle) : handle_(handle) {}

Status GrammarMatcher::compute_mask(std::span<std::uint32_t> mask) {
  return take_status(qn_matcher_mask(handle_.get(), mask.data(), mask.size()), kWhat);
}

Result<std::size_t> GrammarMatcher::accept(std::span<const TokenId> ids) {
  const std::vector<std::uint32_t> unsigned_ids = rust_ids(ids);
  std::size_t num_accepted = 0;
  QN_RETURN_IF_ERROR(
      take_status(qn_matcher_accept(handle_.get(), unsigned_ids.data(), unsigned_ids.size(), &num_accepted), kWhat));
  return num_accepted;
}

Status GrammarMatcher::rollback(std::size_t num_tokens) {
  return take_status(qn_matcher_rollback(handle_.get(), num_tokens), kWhat);
}

Result<bool> GrammarMatcher::is_accepting() {
  bool accepting = false;
  QN_RETURN_IF_ERROR(take_status(qn_matcher_is_accepting(handle_.get(), &accepting), kWhat));
  return accepting;
}

bool GrammarMatcher::is_stopped() const {
  return qn_matcher_is_stopped(handle_.get());
}

GrammarFactory::GrammarFactory(QnGrammarFactory* handle, std::size_t vocab_size)
    : handle_(handle, &qn_grammar_factory_free), vocab_size_(vocab_size) {}

Result<GrammarFactory> GrammarFactory::make(const Tokenizer& tokenizer, std::span<const TokenId> end_ids,
                                            std::size_t vocab_size) {
  const std::vector<std::uint32_t> unsigned_ids = rust_ids(end_ids);
  QnGrammarFactory* handle = nullptr;
  QN_RETURN_IF_ERROR(take_status(
      qn_grammar_factory_new(tokenizer.handle(), unsigned_ids.data(), unsigned_ids.size(), vocab_size, &handle),
      kWhat));
  return GrammarFactory(handle, vocab_size);
}

Result<GrammarMatcher> GrammarFactory::make_matcher(GrammarKind kind, std::string_view text) const {
  QnMatcher* handle = nullptr;
  QN_RETURN_IF_ERROR(take_status(
      qn_matcher_new(handle_.get(), static_cast<std::uint32_t>(kind), rust_text(text), text.size(), &handle), kWhat));
  return GrammarMatcher(handle);
}

}  // namespace qnext
