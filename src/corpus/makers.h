#pragma once
// The kinds of documents, as corpus.cc calls them. A maker may return a document that does not fit (too long, of the
// other split): nothing then, and it is called again with the numbers that follow.

#include <optional>

#include "corpus/corpus.h"
#include "corpus/grammar.h"
#include "corpus/random.h"

namespace qnext::corpus {

struct Draw {
  Random& random;
  Split split;
  std::uint64_t index;

  Patterns patterns() const { return split == Split::kTrain ? Patterns::kKnown : Patterns::kHeldOut; }
  // Numbers of this split?
  bool takes(std::span<const std::int64_t> numbers) const {
    return numbers_held_out(numbers) == (split == Split::kHeldOut);
  }
};

std::optional<Document> make_story(const Draw& draw);
std::optional<Document> make_text(const Draw& draw, std::string_view rule);  // an alternative of the rule, tidied
std::optional<Document> make_arithmetic(const Draw& draw);
std::optional<Document> make_problem(const Draw& draw, bool thinking);
std::optional<Document> make_instruction(const Draw& draw);

// A story, and the variables that it was told with. Between 80 and 250 words, or nothing.
std::optional<std::string> told_story(Expander& expander);

// Numbers of the draw's split: calls make() until it gives some.
template <class Make>
std::vector<std::int64_t> numbers_of_split(const Draw& draw, Make make) {
  for (;;) {
    std::vector<std::int64_t> numbers = make();
    if (draw.takes(numbers)) return numbers;
  }
}

}  // namespace qnext::corpus
