#pragma once
// How a problem with one question or several is asked and answered, whatever it is about.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/function_ref.h"
#include "corpus/corpus.h"
#include "corpus/grammar.h"
#include "corpus/makers.h"
#include "corpus/random.h"

namespace qnext::corpus {

// One question's worked answer.
struct Worked {
  std::vector<std::int64_t> given;
  std::vector<std::int64_t> values;
  std::vector<std::string> steps;  // a line each
  std::string answer;              // "1,850 hours"
};

struct ProblemText {
  std::string setting;
  std::vector<std::string> questions;  // as sentences
  std::vector<std::string> headings;   // of the answer's parts: "hours in all:"
  std::vector<Worked> worked;          // by question
  std::string given;                   // what an answer writes down first, lines
};

// Every second text of the training split loses a word in ten of its setting and of its questions, though no number and
// no word that names a type: a reader that needs every single word of a question does not understand it when it comes
// in new ones (word dropout, Iyyer et al. 2015). Returns whether it did.
bool write_carelessly(ProblemText& text, const Expander& expander, const Draw& draw);

// The question, its parts labelled in one of three styles, in a line or in lines; and the answer: what is given, and
// below each part's heading its steps and "Answer: **1,850 hours**". Thinking thinks all that, and says headings and
// answers.
std::vector<Message> problem_messages(const ProblemText& text, Expander& expander, Random& random, bool thinking);

// A line of what is given, of each of three types: "Units: A 300, B 200, C 120."
std::string given_line(std::string_view what, const Expander& expander,
                       FunctionRef<std::string(std::size_t type)> value_of);

// Adds to the document what a checker wants of question `part`: its name, "given_1" and "values_1".
void add_question(Document& document, std::string name, std::size_t part, const Worked& worked);

}  // namespace qnext::corpus
