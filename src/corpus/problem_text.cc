#include "corpus/problem_text.h"

#include <fmt/format.h>

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

// Each part below its heading, which says what the part is about before it is worked out: its steps, and its answer at
// once, so that nothing has to be looked up again at the end. Thoughts say the question again first.
enum class Detail { kAnswers, kSteps, kQuestionsAndSteps };
std::string parts_text(const ProblemText& text, std::size_t style, Detail detail) {
  std::string out;
  for (std::size_t part = 0; part < text.worked.size(); ++part) {
    const Worked& worked = text.worked[part];
    if (part > 0) out += "\n";
    if (text.worked.size() > 1) out += label(style, part) + " ";
    if (detail == Detail::kQuestionsAndSteps) out += "Asked: " + text.questions[part] + "\n";
    out += capitalised(text.headings[part]) + "\n";
    if (detail != Detail::kAnswers) {
      for (const std::string& step : worked.steps) out += capitalised(step) + "\n";
    }
    out += "Answer: **" + capitalised(worked.answer) + "**";
  }
  return out;
}

}  // namespace

std::vector<Message> problem_messages(const ProblemText& text, Expander& expander, Random& random, bool thinking) {
  const std::size_t style = random.below(3);
  std::string reply = parts_text(text, style, thinking ? Detail::kAnswers : Detail::kSteps);
  if (thinking) {
    reply = "<think>\n" + text.given + parts_text(text, style, Detail::kQuestionsAndSteps) + "\n</think>\n\n" + reply;
  }
  return {{"user", asked_text(expander, text.setting, text.questions, style, random.one_in(2))}, {"assistant", reply}};
}

std::string given_line(std::string_view what, const Expander& expander,
                       FunctionRef<std::string(std::size_t type)> value_of) {
  std::string out = fmt::format("{}:", what);
  for (std::size_t type = 0; type < 3; ++type) {
    const std::string tag = expander.text_of("tag" + std::to_string(type + 1));
    out += fmt::format("{} {} {}", type == 0 ? "" : ",", tag, value_of(type));
  }
  return out + ".\n";
}

void add_question(Document& document, std::string name, std::size_t part, const Worked& worked) {
  document.questions.push_back(std::move(name));
  document.answer.emplace_back("given_" + std::to_string(part + 1), worked.given);
  document.answer.emplace_back("values_" + std::to_string(part + 1), worked.values);
}

}  // namespace qnext::corpus
