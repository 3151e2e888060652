#pragma once
// Word problems of one or two steps with two or three numbers: apples, coins, pages.

#include "corpus/makers.h"

namespace qnext::corpus {

// Document::answer: "numbers" (as the text has them) and "values" [1]; questions: the operation, see small_problems.cc.
std::optional<Document> make_small_problem(const Draw& draw, Patterns patterns, bool thinking);

}  // namespace qnext::corpus
