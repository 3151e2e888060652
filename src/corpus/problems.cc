// make_problem: a production, one question or several, and the worked answer; or a small problem of one or two steps.
#include "corpus/problems.h"

#include <algorithm>

#include "base/check.h"
#include "corpus/english.h"
#include "corpus/makers.h"
#include "corpus/small_problems.h"
#include "corpus/week_problems.h"

namespace qnext::corpus {
namespace {

constexpr int kMaxNumberDraws = 400;
constexpr std::int64_t kMostHours = 9999;

std::int64_t draw_hours(Random& random) {
  switch (random.below(4)) {
    case 0:
      return 5 * random.between(1, 8);
    case 1:
      return random.between(2, 25);
    default:
      return random.between(2, 12);
  }
}

std::int64_t draw_count(Random& random) {
  switch (random.below(4)) {
    case 0:
      return 5 * random.between(1, 24);
    case 1:
      return random.between(2, 60);
    default:
      return 10 * random.between(1, 20);
  }
}

Production draw_production(Random& random) {
  Production p{};
  do {
    for (std::size_t type = 0; type < 3; ++type) {
      p.hours[type] = draw_hours(random);
      p.counts[type] = draw_count(random);
    }
  } while (p.total_hours() > kMostHours || (p.hours[0] == p.hours[1] && p.hours[1] == p.hours[2]));
  return p;
}

std::vector<std::int64_t> stated_numbers(const Production& p, bool counts) {
  std::vector<std::int64_t> numbers(p.hours.begin(), p.hours.end());
  if (counts) numbers.insert(numbers.end(), p.counts.begin(), p.counts.end());
  return numbers;
}

// One type, or a list of different ones that the same setting serves.
std::vector<const QuestionType*> draw_questions(Random& random) {
  const std::span<const QuestionType> types = question_types();
  if (random.one_in(2)) return {&types[random.below(types.size())]};
  std::vector<const QuestionType*> chosen;
  if (!random.one_in(3)) chosen = {&types[0], &types[1]};  // hours by type, then all of them: what is asked most
  const std::size_t wanted = static_cast<std::size_t>(random.between(2, 4));
  while (chosen.size() < wanted) {
    const QuestionType& type = types[random.below(types.size())];
    const bool fits = type.name != "third_count" && type.name != "relation";  // those hide what the setting says
    if (fits && std::ranges::find(chosen, &type) == chosen.end()) chosen.push_back(&type);
  }
  return chosen;
}

void set_numbers(Expander& expander, const Production& p) {
  for (std::size_t type = 0; type < 3; ++type) {
    expander.set("h" + std::to_string(type + 1), number_text(p.hours[type]));
    expander.set("c" + std::to_string(type + 1), number_text(p.counts[type]));
  }
}

// Works out all questions, or nothing when one of them does not suit the numbers. `random` by value: numbers that are
// tried first and then worked out are to draw the same.
std::optional<std::vector<Worked>> work_all(const std::vector<const QuestionType*>& types, const Production& production,
                                            Expander& expander, Random random, std::vector<std::string>* questions) {
  Workshop shop{production, expander, random};
  std::vector<Worked> all;
  for (const QuestionType* type : types) {
    std::optional<Worked> worked = type->work(shop);
    if (!worked) return std::nullopt;
    const bool whole =
        type->name == "total" || type->name == "weeks" || type->name == "doubled" || type->name == "cost";
    shop.type_hours_known = shop.type_hours_known || type->name == "per_type" || whole;
    shop.total_known = shop.total_known || whole;
    // What another part has worked out already is said again.
    if (worked->steps.empty()) worked->steps.push_back("see above: " + worked->answer + ".");
    all.push_back(*std::move(worked));
    if (questions != nullptr) {
      questions->push_back(
          capitalised(tidied(expander.expand(fmt::format("{{question_lead}} {{ask_{}}}", type->name)))));
    }
  }
  return all;
}

// All hours, then all units: the order in which nearly every setting says them.
std::string given_text(const Production& p, const Expander& expander, bool counts) {
  const auto hours = [&](std::size_t type) { return number_text(p.hours[type]); };
  const auto units = [&](std::size_t type) { return number_text(p.counts[type]); };
  return "Given:\n" + given_line("Hours each", expander, hours) + (counts ? given_line("Units", expander, units) : "");
}

void add_numbers(Document& document, const Production& p, const std::vector<const QuestionType*>& types,
                 const std::vector<Worked>& worked) {
  document.answer.emplace_back("unit_hours", std::vector<std::int64_t>(p.hours.begin(), p.hours.end()));
  document.answer.emplace_back("counts", std::vector<std::int64_t>(p.counts.begin(), p.counts.end()));
  for (std::size_t part = 0; part < worked.size(); ++part) {
    add_question(document, std::string(types[part]->name), part, worked[part]);
  }
}

std::optional<Document> make_production(const Draw& draw, Patterns patterns, bool thinking) {
  const std::vector<const QuestionType*> types = draw_questions(draw.random);
  const bool full = types.size() > 1 || types[0]->setting == Setting::kFull;
  const bool counts = full || types[0]->uses_counts;
  Expander expander(corpus_grammar(), draw.random, patterns);
  expander.expand("{naming}");
  expander.set("comma", draw.random.one_in(2) ? "," : "");  // before the last "and" of a list: both ways are met
  for (int attempt = 0; attempt < kMaxNumberDraws; ++attempt) {
    const Production p = draw_production(draw.random);
    const std::vector<std::int64_t> numbers = stated_numbers(p, counts);
    if (!draw.takes(numbers)) continue;
    set_numbers(expander, p);
    const Random parts(draw.random.next(), "parts", 0);
    if (!work_all(types, p, expander, parts, nullptr)) continue;
    ProblemText text;
    text.setting = expander.expand(full ? "{setting_full}" : "{setting_hours}");
    text.worked = *work_all(types, p, expander, parts, &text.questions);
    for (const QuestionType* type : types) text.headings.push_back(std::string(type->heading) + ":");
    text.given = given_text(p, expander, full);
    Document document;
    document.careless = write_carelessly(text, expander, draw);
    document.messages = problem_messages(text, expander, draw.random, thinking);
    if (patterns == Patterns::kHeldOut && !expander.used_held_out()) return std::nullopt;
    document.patterns = expander.used_patterns();
    document.numbers = {numbers};
    add_numbers(document, p, types, text.worked);
    return document;
  }
  return std::nullopt;
}

}  // namespace

std::optional<Document> make_problem(const Draw& draw, bool thinking) {
  // Held-out documents with even indices: known words, new numbers (corpus.h).
  const bool known_words = draw.split == Split::kTrain || draw.index % 2 == 0;
  const Patterns patterns = known_words ? Patterns::kKnown : Patterns::kHeldOut;
  if (draw.random.one_in(8)) return make_week_problem(draw, patterns, thinking);
  return draw.random.one_in(4) ? make_small_problem(draw, patterns, thinking)
                               : make_production(draw, patterns, thinking);
}

}  // namespace qnext::corpus
