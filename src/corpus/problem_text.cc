#include "corpus/problem_text.h"

#include "corpus/english.h"

namespace qnext::corpus {
namespace {

std::string label(std::size_t style, std::size_t part) {
  const std::string number = std::to_string(part + 1);
  const char letter = static_cast<char>('a' + part);
  switch (style) {
    case 0:
      return "(" + number + ")";
    case 1:
      return number + ".";
    default:
      return std::string("(") + letter + ")";
  }
}

std::string asked_text(Expander& expander, const std::string& setting, const std::vector<std::string>& questions,
                       std::size_t style, bool lines) {
  if (questions.size() == 1) return tidied(setting + " " + questions[0] + " " + expander.expand("{show_work}"));
  std::string text = setting + " " + expander.expand(lines ? "{list_intro_lines}" : "{list_intro}");
  for (std::size_t part = 0; part < questions.size(); ++part) {
    text += (lines ? "\n" : " ") + label(style, part) + " " + questions[part];
  }
  return tidied(text + (lines ? "\n" : " ") + expander.expand("{show_work}"));
}

// "Answer: **1,850 hours**", always the last line.
std::string answer_line(const std::vector<Worked>& worked, std::size_t style) {
  std::string out = "Answer: ";
  for (std::size_t part = 0; part < worked.size(); ++part) {
    if (worked.size() > 1) out += (part == 0 ? "" : "; ") + label(style, part) + " ";
    out += "**" + capitalised(worked[part].answer) + "**";
  }
  return out;
}

// Each part's steps below its heading, which says what the part is about before it is worked out; a single part needs
// none.
std::string steps_text(const std::vector<Worked>& worked, const std::vector<std::string>& headings, std::size_t style) {
  std::string out;
  for (std::size_t part = 0; part < worked.size(); ++part) {
    if (worked.size() > 1) out += label(style, part) + " " + capitalised(headings[part]) + "\n";
    for (const std::string& step : worked[part].steps) out += capitalised(step) + "\n";
  }
  return out;
}

}  // namespace

std::vector<Message> problem_messages(const ProblemText& text, Expander& expander, Random& random, bool thinking) {
  const std::size_t style = random.below(3);
  std::string reply = steps_text(thinking ? text.brief : text.worked, text.headings, style);
  reply += answer_line(text.worked, style);
  if (thinking) {
    const bool several = text.questions.size() > 1;
    const std::string thoughts = text.given + (several ? "Steps:\n" : "Question: " + text.questions[0] + "\n") +
                                 steps_text(text.worked, text.questions, style);
    reply = "<think>\n" + thoughts + "</think>\n\n" + reply;
  }
  return {{"user", asked_text(expander, text.setting, text.questions, style, random.one_in(2))}, {"assistant", reply}};
}

void add_question(Document& document, std::string name, std::size_t part, const Worked& worked) {
  document.questions.push_back(std::move(name));
  document.answer.emplace_back("given_" + std::to_string(part + 1), worked.given);
  document.answer.emplace_back("values_" + std::to_string(part + 1), worked.values);
}

}  // namespace qnext::corpus
