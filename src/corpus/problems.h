#pragma once
// Word problems of a production: three types of a product, hours a unit of each, units of each; and what one may ask.
//
// A question type computes its values from the production and from what it gives besides; docs/corpus.md has the list.
// Document::answer holds "unit_hours" [3], "counts" [3], and for question k from 1 on "given_k" and "values_k".
// Types are counted from 0 in given and values.

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "corpus/grammar.h"
#include "corpus/problem_text.h"
#include "corpus/random.h"

namespace qnext::corpus {

struct Production {
  std::array<std::int64_t, 3> hours;   // a unit
  std::array<std::int64_t, 3> counts;  // units

  std::int64_t type_hours(std::size_t type) const { return hours[type] * counts[type]; }
  std::int64_t total_hours() const { return type_hours(0) + type_hours(1) + type_hours(2); }
};

struct Workshop {
  Production production;
  Expander& expander;  // tag1.. hold the types' names; a question sets its own variables
  Random& random;
  bool type_hours_known = false;  // an earlier part has worked them out
  bool total_known = false;

  std::string tag(std::size_t type) const;
};

enum class Setting {
  kFull,   // hours and counts
  kHours,  // hours alone; counts, where it needs some, are in the question
};

struct QuestionType {
  std::string_view name;     // asked by the rule ask_NAME
  std::string_view heading;  // of its part of the answer
  Setting setting;
  bool uses_counts;  // what is asked depends on the counts
  // Nothing when these numbers don't allow it: a rest, a tie.
  std::optional<Worked> (*work)(Workshop& workshop);
};

std::span<const QuestionType> question_types();

}  // namespace qnext::corpus
