#include "corpus/corpus.h"

#include <algorithm>
#include <array>

#include "base/check.h"
#include "corpus/english.h"
#include "corpus/makers.h"

namespace qnext::corpus {
namespace {

constexpr std::array<std::string_view, 8> kKindNames = {
    "stories", "descriptions", "dialogues", "facts", "arithmetic", "problems", "problems-thinking", "instructions"};
constexpr int kMaxDocumentDraws = 2000;  // a maker that refuses so often never gives a document
constexpr std::uint64_t kHeldOutNumbers = 10;
constexpr std::size_t kMinStoryWords = 80;
constexpr std::size_t kMaxStoryWords = 250;

std::size_t count_words(std::string_view text) {
  std::size_t words = 0;
  bool in_word = false;
  for (char c : text) {
    const bool space = c == ' ' || c == '\n';
    if (!space && !in_word) ++words;
    in_word = !space;
  }
  return words;
}

std::optional<Document> make(Kind kind, const Draw& draw) {
  switch (kind) {
    case Kind::kStories:
      return make_story(draw);
    case Kind::kDescriptions:
      return make_text(draw, "description");
    case Kind::kDialogues:
      return make_text(draw, "dialogue");
    case Kind::kFacts:
      return make_text(draw, "facts");
    case Kind::kArithmetic:
      return make_arithmetic(draw);
    case Kind::kProblems:
      return make_problem(draw, /*thinking=*/false);
    case Kind::kProblemsThinking:
      return make_problem(draw, /*thinking=*/true);
    case Kind::kInstructions:
      return make_instruction(draw);
  }
  return std::nullopt;
}

}  // namespace

std::span<const std::string_view> kind_names() {
  return kKindNames;
}

std::optional<Kind> kind_named(std::string_view name) {
  const auto found = std::ranges::find(kKindNames, name);
  if (found == kKindNames.end()) return std::nullopt;
  return static_cast<Kind>(found - kKindNames.begin());
}

bool numbers_held_out(std::span<const std::int64_t> numbers) {
  std::uint64_t sum = numbers.size();  // of hashes, so that 23 x 47 and 47 x 23 are on one side
  for (std::int64_t number : numbers) sum += mixed(static_cast<std::uint64_t>(number) + 1);
  return mixed(sum) % kHeldOutNumbers == 0;
}

Document make_document(Kind kind, std::uint64_t seed, std::uint64_t index, Split split) {
  const std::string stream =
      std::string(kKindNames[static_cast<std::size_t>(kind)]) + (split == Split::kTrain ? "" : " held-out");
  Random random(seed, stream, index);
  for (int attempt = 0; attempt < kMaxDocumentDraws; ++attempt) {
    if (std::optional<Document> document = make(kind, {random, split, index})) return *std::move(document);
  }
  QN_CHECK(false, "no document of kind {} after {} draws", stream, kMaxDocumentDraws);
  return {};
}

std::optional<std::string> told_story(Expander& expander) {
  std::string text = tidied(expander.expand("{story}"));
  const std::size_t words = count_words(text);
  if (words < kMinStoryWords || words > kMaxStoryWords) return std::nullopt;
  return text;
}

std::optional<Document> make_story(const Draw& draw) {
  Expander expander(corpus_grammar(), draw.random, draw.patterns());
  std::optional<std::string> text = told_story(expander);
  if (!text || (draw.split == Split::kHeldOut && !expander.used_held_out())) return std::nullopt;
  Document document;
  document.text = *std::move(text);
  document.patterns = expander.used_patterns();
  return document;
}

std::optional<Document> make_text(const Draw& draw, std::string_view rule) {
  Expander expander(corpus_grammar(), draw.random, draw.patterns());
  Document document;
  document.text = tidied(expander.expand("{" + std::string(rule) + "}"));
  if (draw.split == Split::kHeldOut && !expander.used_held_out()) return std::nullopt;
  document.patterns = expander.used_patterns();
  return document;
}

std::string story_pattern(std::uint64_t seed, std::uint64_t index) {
  Random random(seed, "story patterns", index);
  Expander expander(corpus_grammar(), random, Patterns::kKnown);
  expander.show_slots();
  return tidied(expander.expand("{story}"));
}

}  // namespace qnext::corpus
