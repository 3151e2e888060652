#pragma once
// Problems of a working week: units a week and hours a unit of three types, halves of an hour too, days and hours that
// the factory is open, and a part in a hundred more of one type.

#include "corpus/makers.h"

namespace qnext::corpus {

// Document::answer: "unit_half_hours" [3], "counts" [3], "open" [2] (days a week, hours a day), and for question k from
// 1 on "given_k" and "values_k".
std::optional<Document> make_week_problem(const Draw& draw, Patterns patterns, bool thinking);

}  // namespace qnext::corpus
