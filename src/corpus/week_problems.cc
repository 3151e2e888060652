#include "corpus/week_problems.h"

#include <algorithm>
#include <array>

#include "corpus/english.h"
#include "corpus/problem_text.h"
#include "corpus/sums.h"

namespace qnext::corpus {
namespace {

using Numbers = std::vector<std::int64_t>;

constexpr int kMaxNumberDraws = 400;

struct Week {
  std::array<std::int64_t, 3> half_hours;  // a unit
  std::array<std::int64_t, 3> counts;      // units a week
  std::int64_t days, hours_a_day;

  std::int64_t type_hours(std::size_t type) const { return half_hours[type] * counts[type] / 2; }
  std::int64_t total_hours() const { return type_hours(0) + type_hours(1) + type_hours(2); }
};

struct WeekShop {
  const Week& week;
  Expander& expander;
  Random& random;

  std::string tag(std::size_t type) const { return expander.text_of("tag" + std::to_string(type + 1)); }
};

std::string half_text(std::int64_t halves) {
  return number_text(halves / 2) + (halves % 2 == 0 ? "" : ".5");
}

// "300 x 1.5 = 300 x 1 + 300 x 0.5 = 300 + 150 = 450".
std::string half_product_line(std::int64_t count, std::int64_t halves) {
  const std::int64_t whole = halves / 2;
  if (halves % 2 == 0) return product_line(count, whole);
  std::string out = fmt::format("{} x {} = ", number_text(count), half_text(halves));
  if (whole == 0) return out + number_text(count * halves / 2);
  Numbers terms = places_of(count);
  for (std::int64_t& place : terms) place *= whole;
  terms.push_back(count / 2);
  return out + fmt::format("{0} x {1} + {0} x 0.5 = ", number_text(count), whole) + sum_line(terms);
}

void add_type_steps(Worked& worked, const WeekShop& shop) {
  const Week& week = shop.week;
  for (std::size_t type = 0; type < 3; ++type) {
    worked.steps.push_back(
        fmt::format("{}: {} hours.", shop.tag(type), half_product_line(week.counts[type], week.half_hours[type])));
  }
}

std::string total_step(const WeekShop& shop) {
  const Week& week = shop.week;
  return fmt::format("total: {} hours.", sum_line(Numbers{week.type_hours(0), week.type_hours(1), week.type_hours(2)}));
}

std::optional<Worked> open_hours(WeekShop& shop) {
  const std::int64_t hours = shop.week.days * shop.week.hours_a_day;
  return Worked{{},
                {hours},
                {fmt::format("{} x {} = {} hours.", shop.week.days, shop.week.hours_a_day, hours)},
                hours_text(hours)};
}

std::optional<Worked> per_type(WeekShop& shop) {
  const Week& week = shop.week;
  Worked worked{{}, {week.type_hours(0), week.type_hours(1), week.type_hours(2), week.total_hours()}, {}, ""};
  add_type_steps(worked, shop);
  worked.steps.push_back(total_step(shop));
  for (std::size_t type = 0; type < 3; ++type) {
    worked.answer += fmt::format("{}: {}, ", shop.tag(type), hours_text(week.type_hours(type)));
  }
  worked.answer += "in all " + hours_text(week.total_hours());
  return worked;
}

std::optional<Worked> total(WeekShop& shop) {
  Worked worked{{}, {shop.week.total_hours()}, {}, hours_text(shop.week.total_hours())};
  add_type_steps(worked, shop);
  worked.steps.push_back(total_step(shop));
  return worked;
}

std::optional<Worked> increase(WeekShop& shop, bool adds) {
  static constexpr std::int64_t kPercents[] = {5, 10, 20, 25, 30, 40, 50, 60};
  const std::size_t type = shop.random.below(3);
  const std::int64_t percent = kPercents[shop.random.below(std::size(kPercents))];
  const std::int64_t count = shop.week.counts[type], product = count * percent;
  if (product % 100 != 0) return std::nullopt;
  const std::int64_t more = product / 100;
  shop.expander.set("which", shop.tag(type));
  shop.expander.set("percent", std::to_string(percent));
  Worked worked{{static_cast<std::int64_t>(type), percent}, {adds ? count + more : more}, {}, ""};
  worked.steps.push_back(fmt::format("{}: {} units.", shop.tag(type), number_text(count)));
  worked.steps.push_back(fmt::format("{}% of {}: {}, {} / 100 = {}.", percent, number_text(count),
                                     product_line(count, percent), number_text(product), number_text(more)));
  if (adds) worked.steps.push_back(fmt::format("new output: {}.", sum_line(Numbers{count, more})));
  worked.answer = number_text(worked.values[0]) + (worked.values[0] == 1 ? " unit" : " units");
  return worked;
}

std::optional<Worked> more(WeekShop& shop) {
  return increase(shop, false);
}

std::optional<Worked> new_output(WeekShop& shop) {
  return increase(shop, true);
}

std::optional<Worked> units(WeekShop& shop) {
  const auto& c = shop.week.counts;
  const std::int64_t all = c[0] + c[1] + c[2];
  return Worked{
      {}, {all}, {fmt::format("units: {}.", sum_line(Numbers{c[0], c[1], c[2]}))}, number_text(all) + " units"};
}

struct WeekQuestion {
  std::string_view name, heading;
  std::optional<Worked> (*work)(WeekShop& shop);
};

constexpr WeekQuestion kQuestions[] = {
    {"open", "hours of operation", open_hours},   {"per_type", "hours of each type", per_type},
    {"more", "additional units", more},           {"total", "hours in all", total},
    {"new_output", "the new output", new_output}, {"units", "units in all", units},
};

std::vector<const WeekQuestion*> draw_questions(Random& random) {
  if (random.one_in(3)) return {&kQuestions[0], &kQuestions[1], &kQuestions[2]};
  if (random.one_in(2)) return {&kQuestions[random.below(std::size(kQuestions))]};
  std::vector<const WeekQuestion*> chosen;
  const auto wanted = static_cast<std::size_t>(random.between(2, 4));
  while (chosen.size() < wanted) {
    const WeekQuestion& question = kQuestions[random.below(std::size(kQuestions))];
    if (std::ranges::find(chosen, &question) == chosen.end()) chosen.push_back(&question);
  }
  return chosen;
}

Week draw_week(Random& random) {
  Week week{};
  for (std::size_t type = 0; type < 3; ++type) {
    week.half_hours[type] = random.one_in(2) ? 2 * random.between(1, 6) : random.between(1, 9);
    week.counts[type] = random.one_in(2) ? 100 * random.between(1, 6) : 20 * random.between(1, 25);
  }
  week.days = random.between(4, 7);
  week.hours_a_day = random.one_in(2) ? 8 : random.between(6, 16);
  return week;
}

std::optional<std::vector<Worked>> work_all(const std::vector<const WeekQuestion*>& questions, const Week& week,
                                            Expander& expander, Random random, std::vector<std::string>* texts) {
  WeekShop shop{week, expander, random};
  std::vector<Worked> all;
  for (const WeekQuestion* question : questions) {
    std::optional<Worked> worked = question->work(shop);
    if (!worked) return std::nullopt;
    all.push_back(*std::move(worked));
    if (texts != nullptr) {
      texts->push_back(
          capitalised(tidied(expander.expand(fmt::format("{{question_lead}} {{week_ask_{}}}", question->name)))));
    }
  }
  return all;
}

std::string given_text(const Week& week, const Expander& expander) {
  const auto hours = [&](std::size_t type) { return half_text(week.half_hours[type]); };
  const auto units = [&](std::size_t type) { return number_text(week.counts[type]); };
  return fmt::format("Given:\n{} days, {} hours a day.\n", week.days, week.hours_a_day) +
         given_line("Hours each", expander, hours) + given_line("Units", expander, units);
}

}  // namespace

std::optional<Document> make_week_problem(const Draw& draw, Patterns patterns, bool thinking) {
  const std::vector<const WeekQuestion*> questions = draw_questions(draw.random);
  Expander expander(corpus_grammar(), draw.random, patterns);
  expander.expand("{week_naming}");
  expander.set("comma", draw.random.one_in(2) ? "," : "");
  for (int attempt = 0; attempt < kMaxNumberDraws; ++attempt) {
    const Week week = draw_week(draw.random);
    Numbers numbers(week.half_hours.begin(), week.half_hours.end());
    numbers.insert(numbers.end(), week.counts.begin(), week.counts.end());
    if (!draw.takes(numbers)) continue;
    const Random parts(draw.random.next(), "parts", 0);
    if (!work_all(questions, week, expander, parts, nullptr)) continue;
    for (std::size_t type = 0; type < 3; ++type) {
      expander.set("h" + std::to_string(type + 1), half_text(week.half_hours[type]));
      expander.set("c" + std::to_string(type + 1), number_text(week.counts[type]));
    }
    expander.set("open_days", std::to_string(week.days));
    expander.set("open_hours", std::to_string(week.hours_a_day));
    ProblemText text;
    text.setting = expander.expand("{week_setting}");
    text.worked = *work_all(questions, week, expander, parts, &text.questions);
    for (const WeekQuestion* question : questions) text.headings.push_back(std::string(question->heading) + ":");
    text.given = given_text(week, expander);
    Document document;
    document.careless = write_carelessly(text, expander, draw);
    document.messages = problem_messages(text, expander, draw.random, thinking);
    if (patterns == Patterns::kHeldOut && !expander.used_held_out()) return std::nullopt;
    document.patterns = expander.used_patterns();
    document.numbers = {numbers};
    document.answer = {{"unit_half_hours", {week.half_hours.begin(), week.half_hours.end()}},
                       {"counts", {week.counts.begin(), week.counts.end()}},
                       {"open", {week.days, week.hours_a_day}}};
    for (std::size_t part = 0; part < questions.size(); ++part) {
      add_question(document, "week_" + std::string(questions[part]->name), part, text.worked[part]);
    }
    return document;
  }
  return std::nullopt;
}

}  // namespace qnext::corpus
