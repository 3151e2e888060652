#pragma once
// Sums with their worked steps, for texts and for instructions.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "corpus/grammar.h"
#include "corpus/makers.h"

namespace qnext::corpus {

struct Sum {
  std::string_view name;  // "plus", ...: the rules says_NAME (a text) and ask_NAME (a question)
  std::vector<std::int64_t> numbers;
  std::string expression;  // worked: "23 x 47 = 23 x 40 + 23 x 7 = 800 + 120 + 140 + 21 = 920 + 161 = 1,081"
  std::string amount;      // the result as text
};

// Of the draw's split.
Sum draw_sum(const Draw& draw);

// n1, n2, ..., expression and amount, for the rules of the sum.
void set_sum(Expander& expander, const Sum& sum);

}  // namespace qnext::corpus
