#pragma once
// The corpus that the project's own small model learns from: documents as pure functions of a seed, a kind, a split and
// an index. What the kinds are and how to add to them: docs/corpus.md.
//
// Splits. Training and held-out documents share no (pattern, numbers):
//   patterns   one in eight of the alternatives of rules marked ! (grammar.h), by their hash: no training document uses
//              one, every held-out story, description, dialogue, text of facts and instruction without sums uses one at
//              least;
//   numbers    the numbers that a sum or a problem is made of, by a hash (numbers_held_out): one tuple in ten. Training
//              documents have none of those, held-out documents no others.
// Held-out problems: new numbers always; every second one (odd indices) in words of which some are held out, the others
// in words that training has.

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace qnext::corpus {

enum class Kind {
  kStories,
  kDescriptions,
  kDialogues,
  kFacts,
  kArithmetic,
  kProblems,
  kProblemsThinking,
  kInstructions
};
enum class Split { kTrain, kHeldOut };

// In the order of Kind; as the command line and the files name them.
std::span<const std::string_view> kind_names();
std::optional<Kind> kind_named(std::string_view name);

struct Message {
  std::string role;  // "user" or "assistant", in turns; the last is the assistant's
  std::string content;
};

struct Document {
  std::string text;               // the whole of it, or
  std::vector<Message> messages;  // a conversation
  // Of problems: what was given and what comes out, by name. See problems.h.
  std::vector<std::pair<std::string, std::vector<std::int64_t>>> answer;
  std::vector<std::string> questions;              // of problems: the types of what is asked, in order
  bool careless = false;                           // the user's words lack some (problem_text.h)
  std::vector<std::uint64_t> patterns;             // of rules marked !, that it was made of (grammar.h: pattern_id)
  std::vector<std::vector<std::int64_t>> numbers;  // the tuples that decide its split
};

// Document `index` of a seed: the same bytes on every machine; cost below a millisecond. All texts are ASCII.
Document make_document(Kind kind, std::uint64_t seed, std::uint64_t index, Split split);

// Whether these numbers, in whatever order, are for held-out documents only.
bool numbers_held_out(std::span<const std::int64_t> numbers);

// A story as its pattern: <list> in place of words. For counting how many different sentences there are.
std::string story_pattern(std::uint64_t seed, std::uint64_t index);

}  // namespace qnext::corpus
