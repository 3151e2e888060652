#include "corpus/problem_text.h"

#include <fmt/format.h>

#include <cctype>
#include <set>

#include "corpus/english.h"

namespace qnext::corpus {
namespace {

constexpr std::uint64_t kCarelessOneIn = 10;

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

using Words = std::set<std::string, std::less<>>;

bool is_letter(char c) {
  return std::isalpha(static_cast<unsigned char>(c)) != 0;
}

bool is_joint(char c) {
  return c == '-' || c == '\'';
}

// Calls use(word, begin) for every word of two letters or more, in lower case; not for parts of "40-hour" and "don't".
void for_each_word(std::string_view text, FunctionRef<void(const std::string& word, std::size_t begin)> use) {
  for (std::size_t begin = 0, end = 0; begin < text.size(); begin = end + 1) {
    std::string word;
    for (end = begin; end < text.size() && is_letter(text[end]); ++end) {
      word += static_cast<char>(std::tolower(static_cast<unsigned char>(text[end])));
    }
    const bool joined = (begin > 0 && is_joint(text[begin - 1])) || (end < text.size() && is_joint(text[end]));
    if (word.size() >= 2 && !joined) use(word, begin);
  }
}

std::string with_words_left_out(std::string_view text, const Words& kept, Random& random) {
  std::string out;
  std::size_t copied = 0;
  for_each_word(text, [&](const std::string& word, std::size_t begin) {
    if (kept.contains(word) || !random.one_in(kCarelessOneIn)) return;
    const bool space_before = begin > 0 && text[begin - 1] == ' ';
    out += text.substr(copied, begin - (space_before ? 1 : 0) - copied);
    copied = begin + word.size();
    if (!space_before && copied < text.size() && text[copied] == ' ') ++copied;
  });
  return capitalised(out.append(text.substr(copied)));
}

// Each part below its heading, which says what the part is about before it is worked out: its steps, and its answer at
// once, so that nothing has to be looked up again at the end.
std::string parts_text(const ProblemText& text, std::size_t style, bool steps) {
  std::string out;
  for (std::size_t part = 0; part < text.worked.size(); ++part) {
    const Worked& worked = text.worked[part];
    if (part > 0) out += "\n";
    if (text.worked.size() > 1) out += label(style, part) + " ";
    out += capitalised(text.headings[part]) + "\n";
    if (steps) {
      for (const std::string& step : worked.steps) out += capitalised(step) + "\n";
    }
    out += "Answer: **" + capitalised(worked.answer) + "**";
  }
  return out;
}

}  // namespace

bool write_carelessly(ProblemText& text, const Expander& expander, const Draw& draw) {
  if (draw.split != Split::kTrain || !draw.random.one_in(2)) return false;
  Words kept;
  for (const char* name : {"tag1", "tag2", "tag3", "one1", "one2", "one3", "many1", "many2", "many3"}) {
    if (!expander.has(name)) continue;
    for_each_word(expander.text_of(name), [&](const std::string& word, std::size_t) { kept.insert(word); });
  }
  text.setting = with_words_left_out(text.setting, kept, draw.random);
  for (std::string& question : text.questions) question = with_words_left_out(question, kept, draw.random);
  return true;
}

std::vector<Message> problem_messages(const ProblemText& text, Expander& expander, Random& random, bool thinking) {
  const std::size_t style = random.below(3);
  std::string reply = text.given + parts_text(text, style, /*steps=*/true);
  if (thinking) reply = "<think>\n" + reply + "\n</think>\n\n" + parts_text(text, style, /*steps=*/false);
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
