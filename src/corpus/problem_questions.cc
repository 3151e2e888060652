// What is asked of a production, and how it is worked out (problems.h).
#include <algorithm>
#include <array>

#include "base/check.h"
#include "corpus/english.h"
#include "corpus/problems.h"
#include "corpus/sums.h"

namespace qnext::corpus {
namespace {

using Numbers = std::vector<std::int64_t>;

constexpr std::int64_t kHoursAWeek = 40;
constexpr std::int64_t kHoursADay = 8;
constexpr std::int64_t kLargest = 20000;  // numbers that a small model can be asked to handle

std::string counted(std::int64_t count, std::string_view noun) {
  return fmt::format("{} {}{}", number_text(count), noun, count == 1 ? "" : "s");
}

// What is known already, or looked up, is said before it is used: a small model finds a number more surely than it
// finds and uses it.
void add_type_step(Worked& worked, const Workshop& shop, std::size_t type) {
  const Production& p = shop.production;
  worked.steps.push_back(fmt::format(
      "{}: {} hours.", shop.tag(type),
      shop.type_hours_known ? number_text(p.type_hours(type)) : product_line(p.counts[type], p.hours[type])));
}

void add_unit_step(Worked& worked, const Workshop& shop, std::size_t type) {
  worked.steps.push_back(fmt::format("{}: {} each.", shop.tag(type), hours_text(shop.production.hours[type])));
}

void add_total_steps(Worked& worked, const Workshop& shop) {
  if (shop.total_known) return;
  const Production& p = shop.production;
  if (!shop.type_hours_known) {
    for (std::size_t type = 0; type < 3; ++type) add_type_step(worked, shop, type);
  }
  worked.steps.push_back("total: " + sum_line(Numbers{p.type_hours(0), p.type_hours(1), p.type_hours(2)}) + " hours.");
}

std::size_t choose_type(Workshop& shop) {
  const std::size_t type = shop.random.below(3);
  const std::string number = std::to_string(type + 1);
  shop.expander.set("which", shop.tag(type));
  shop.expander.set("which_one", shop.expander.text_of("one" + number));
  shop.expander.set("which_many", shop.expander.text_of("many" + number));
  return type;
}

std::size_t choose_other_type(Workshop& shop, std::size_t type) {
  const std::size_t other = (type + 1 + shop.random.below(2)) % 3;
  shop.expander.set("other", shop.tag(other));
  shop.expander.set("other_many", shop.expander.text_of("many" + std::to_string(other + 1)));
  return other;
}

std::string many(const Workshop& shop, std::size_t type) {
  return shop.expander.text_of("many" + std::to_string(type + 1));
}

std::optional<Worked> per_type(Workshop& shop) {
  const Production& p = shop.production;
  Worked worked{{}, {p.type_hours(0), p.type_hours(1), p.type_hours(2)}, {}, ""};
  for (std::size_t type = 0; type < 3; ++type) {
    add_type_step(worked, shop, type);
    worked.answer += fmt::format("{}{}: {}", type == 0 ? "" : ", ", shop.tag(type), hours_text(p.type_hours(type)));
  }
  return worked;
}

std::optional<Worked> total(Workshop& shop) {
  Worked worked{{}, {shop.production.total_hours()}, {}, hours_text(shop.production.total_hours())};
  add_total_steps(worked, shop);
  return worked;
}

std::optional<Worked> one_type(Workshop& shop) {
  const std::size_t type = choose_type(shop);
  const std::int64_t hours = shop.production.type_hours(type);
  Worked worked{{static_cast<std::int64_t>(type)}, {hours}, {}, hours_text(hours)};
  add_type_step(worked, shop, type);
  return worked;
}

std::optional<Worked> one_of_each(Workshop& shop) {
  const auto& h = shop.production.hours;
  Worked worked{{}, {h[0] + h[1] + h[2]}, {}, hours_text(h[0] + h[1] + h[2])};
  worked.steps.push_back("one of each: " + sum_line(Numbers{h[0], h[1], h[2]}) + " hours.");
  return worked;
}

// Two are compared, then the larger of them and the third, and whose it is is said each time.
std::optional<Worked> longest(Workshop& shop) {
  const Production& p = shop.production;
  const std::array<std::int64_t, 3> hours = {p.type_hours(0), p.type_hours(1), p.type_hours(2)};
  const auto most = std::ranges::max_element(hours);
  if (hours[0] == hours[1] || std::ranges::count(hours, *most) > 1) return std::nullopt;
  const auto best = static_cast<std::size_t>(most - hours.begin());
  Worked worked{{}, {static_cast<std::int64_t>(best)}, {}, ""};
  for (std::size_t type = 0; type < 3; ++type) add_type_step(worked, shop, type);
  const auto larger_of = [&](std::size_t a, std::size_t b) {
    const std::size_t larger = hours[a] > hours[b] ? a : b;
    worked.steps.push_back(fmt::format("{} {}, {} {}: more for {}.", shop.tag(a), number_text(hours[a]), shop.tag(b),
                                       number_text(hours[b]), shop.tag(larger)));
    return larger;
  };
  larger_of(larger_of(0, 1), 2);
  worked.answer = fmt::format("{} ({})", shop.tag(best), hours_text(*most));
  return worked;
}

std::optional<Worked> how_many_in(Workshop& shop) {
  const std::size_t type = choose_type(shop);
  const std::int64_t each = shop.production.hours[type];
  const std::int64_t count = shop.random.one_in(2) ? 10 * shop.random.between(1, 20) : shop.random.between(2, 100);
  const std::int64_t hours = each * count;
  shop.expander.set("amount", number_text(hours));
  Worked worked{{static_cast<std::int64_t>(type), hours}, {count}, {}, number_text(count) + " " + many(shop, type)};
  add_unit_step(worked, shop, type);
  worked.steps.push_back(quotient_line(hours, each) + ".");
  return worked;
}

std::optional<Worked> sets_in(Workshop& shop) {
  const auto& h = shop.production.hours;
  const std::int64_t one_set = h[0] + h[1] + h[2];
  const std::int64_t count = shop.random.one_in(2) ? 10 * shop.random.between(1, 10) : shop.random.between(2, 50);
  shop.expander.set("amount", number_text(one_set * count));
  Worked worked{{one_set * count}, {count}, {}, fmt::format("{} of each type", number_text(count))};
  worked.steps.push_back("one of each: " + sum_line(Numbers{h[0], h[1], h[2]}) + " hours.");
  worked.steps.push_back(quotient_line(one_set * count, one_set) + ".");
  return worked;
}

std::optional<Worked> weeks(Workshop& shop) {
  const std::int64_t hours = shop.production.total_hours();
  if (hours % kHoursAWeek != 0 || hours == kHoursAWeek) return std::nullopt;
  Worked worked{{kHoursAWeek}, {hours / kHoursAWeek}, {}, counted(hours / kHoursAWeek, "week")};
  add_total_steps(worked, shop);
  worked.steps.push_back("weeks: " + quotient_line(hours, kHoursAWeek) + ".");
  return worked;
}

std::optional<Worked> workers(Workshop& shop) {
  const std::int64_t num_weeks = shop.random.between(1, 5);
  const std::int64_t hours = shop.production.total_hours();
  const std::int64_t each = kHoursAWeek * num_weeks;
  if (hours % each != 0 || hours / each < 2) return std::nullopt;
  shop.expander.set("amount", counted(num_weeks, "week"));
  Worked worked{{kHoursAWeek, num_weeks}, {hours / each}, {}, counted(hours / each, "worker")};
  add_total_steps(worked, shop);
  worked.steps.push_back(fmt::format("one worker: {} x {} = {} hours.", num_weeks, kHoursAWeek, number_text(each)));
  worked.steps.push_back("workers: " + quotient_line(hours, each) + ".");
  return worked;
}

std::optional<Worked> days(Workshop& shop) {
  const std::int64_t machines = shop.random.between(2, 6);
  const std::int64_t hours = shop.production.total_hours();
  const std::int64_t a_day = kHoursADay * machines;
  if (hours % a_day != 0 || hours / a_day < 2) return std::nullopt;
  shop.expander.set("amount", counted(machines, "machine"));
  Worked worked{{kHoursADay, machines}, {hours / a_day}, {}, counted(hours / a_day, "day")};
  add_total_steps(worked, shop);
  worked.steps.push_back(fmt::format("hours a day: {} x {} = {}.", machines, kHoursADay, number_text(a_day)));
  worked.steps.push_back("days: " + quotient_line(hours, a_day) + ".");
  return worked;
}

std::optional<Worked> difference(Workshop& shop) {
  const std::size_t type = choose_type(shop);
  const std::size_t other = choose_other_type(shop, type);
  const Production& p = shop.production;
  const std::int64_t more = p.type_hours(type) - p.type_hours(other);
  if (more <= 0) return std::nullopt;
  Worked worked{{static_cast<std::int64_t>(type), static_cast<std::int64_t>(other)}, {more}, {}, hours_text(more)};
  add_type_step(worked, shop, type);
  add_type_step(worked, shop, other);
  worked.steps.push_back(difference_line(p.type_hours(type), p.type_hours(other)) + " hours.");
  return worked;
}

std::optional<Worked> extra_units(Workshop& shop) {
  const std::size_t type = choose_type(shop);
  const Production& p = shop.production;
  const std::int64_t extra = shop.random.one_in(2) ? 10 * shop.random.between(1, 5) : shop.random.between(2, 20);
  shop.expander.set("extra", number_text(extra));
  const std::int64_t more = extra * p.hours[type];
  const std::int64_t hours = p.total_hours() + more;
  Worked worked{{static_cast<std::int64_t>(type), extra}, {hours}, {}, hours_text(hours)};
  add_total_steps(worked, shop);
  add_unit_step(worked, shop, type);
  worked.steps.push_back(fmt::format("more {}: {} hours.", many(shop, type), product_line(extra, p.hours[type])));
  worked.steps.push_back("new total: " + sum_line(Numbers{p.total_hours(), more}) + " hours.");
  return worked;
}

std::optional<Worked> total_units(Workshop& shop) {
  const auto& c = shop.production.counts;
  const std::int64_t all = c[0] + c[1] + c[2];
  Worked worked{{}, {all}, {}, fmt::format("{} units", number_text(all))};
  worked.steps.push_back("units: " + sum_line(Numbers{c[0], c[1], c[2]}) + ".");
  return worked;
}

std::optional<Worked> doubled(Workshop& shop) {
  const std::int64_t hours = shop.production.total_hours();
  Worked worked{{}, {2 * hours}, {}, hours_text(2 * hours)};
  add_total_steps(worked, shop);
  worked.steps.push_back(fmt::format("twice as many: {} hours.", product_line(hours, 2)));
  return worked;
}

std::optional<Worked> faster(Workshop& shop) {
  const std::size_t type = choose_type(shop);
  const Production& p = shop.production;
  if (p.hours[type] < 2) return std::nullopt;
  const std::int64_t less = shop.random.between(1, std::min<std::int64_t>(p.hours[type] - 1, 6));
  shop.expander.set("extra", hours_text(p.hours[type] - less));
  const std::int64_t saved = less * p.counts[type];
  Worked worked{{static_cast<std::int64_t>(type), p.hours[type] - less}, {saved}, {}, hours_text(saved)};
  add_unit_step(worked, shop, type);
  worked.steps.push_back(
      fmt::format("saved on each: {} - {} = {}.", p.hours[type], p.hours[type] - less, hours_text(less)));
  worked.steps.push_back(fmt::format("saved in all: {} hours.", product_line(p.counts[type], less)));
  return worked;
}

std::optional<Worked> left_over(Workshop& shop) {
  const std::int64_t hours = shop.production.total_hours();
  const std::int64_t left = 10 * shop.random.between(1, 50);
  shop.expander.set("amount", number_text(hours + left));
  Worked worked{{hours + left}, {left}, {}, hours_text(left)};
  add_total_steps(worked, shop);
  worked.steps.push_back(fmt::format("left: {} hours.", difference_line(hours + left, hours)));
  return worked;
}

std::optional<Worked> same_time(Workshop& shop) {
  const std::size_t type = choose_type(shop);
  const std::size_t other = choose_other_type(shop, type);
  const Production& p = shop.production;
  const std::int64_t hours = p.type_hours(other);
  if (hours % p.hours[type] != 0) return std::nullopt;
  const std::int64_t count = hours / p.hours[type];
  if (count < 2) return std::nullopt;
  Worked worked{{static_cast<std::int64_t>(type), static_cast<std::int64_t>(other)},
                {count},
                {},
                number_text(count) + " " + many(shop, type)};
  add_type_step(worked, shop, other);
  add_unit_step(worked, shop, type);
  worked.steps.push_back(quotient_line(hours, p.hours[type]) + ".");
  return worked;
}

std::optional<Worked> cost(Workshop& shop) {
  const std::int64_t rate = shop.random.between(2, 12);
  const std::int64_t hours = shop.production.total_hours();
  if (hours * rate > kLargest) return std::nullopt;
  shop.expander.set("rate", number_text(rate));
  Worked worked{{rate}, {hours * rate}, {}, number_text(hours * rate) + " coins"};
  add_total_steps(worked, shop);
  worked.steps.push_back(fmt::format("cost: {} coins.", product_line(hours, rate)));
  return worked;
}

// All hours and two of the counts are given.
std::optional<Worked> third_count(Workshop& shop) {
  const Production& p = shop.production;
  const std::int64_t hours = p.total_hours();
  const std::int64_t rest = p.type_hours(2);
  shop.expander.set("amount", number_text(hours));
  Worked worked{{hours}, {p.counts[2]}, {}, number_text(p.counts[2]) + " " + many(shop, 2)};
  add_type_step(worked, shop, 0);
  add_type_step(worked, shop, 1);
  const std::int64_t first_two = p.type_hours(0) + p.type_hours(1);
  worked.steps.push_back(fmt::format("{} and {}: {} hours.", shop.tag(0), shop.tag(1),
                                     sum_line(Numbers{p.type_hours(0), p.type_hours(1)})));
  worked.steps.push_back(fmt::format("left for {}: {} hours.", shop.tag(2), difference_line(hours, first_two)));
  worked.steps.push_back(fmt::format("{}: {}.", shop.tag(2), quotient_line(rest, p.hours[2])));
  return worked;
}

// The sum of the units is given, and how many more there are of the first type than of the second.
std::optional<Worked> relation(Workshop& shop) {
  const auto& c = shop.production.counts;
  const std::int64_t more = c[0] - c[1];
  if (more <= 0) return std::nullopt;
  const std::int64_t all = c[0] + c[1] + c[2];
  shop.expander.set("sum", number_text(all));
  shop.expander.set("extra", number_text(more));
  Worked worked{{all, more}, {c[0], c[1]}, {}, ""};
  worked.steps.push_back(fmt::format("{} and {} together: {}.", shop.tag(0), shop.tag(1), difference_line(all, c[2])));
  worked.steps.push_back(
      fmt::format("without the {} more: {}.", number_text(more), difference_line(c[0] + c[1], more)));
  worked.steps.push_back(fmt::format("{}: {}.", shop.tag(1), quotient_line(2 * c[1], 2)));
  worked.steps.push_back(
      fmt::format("{}: {} + {} = {}.", shop.tag(0), number_text(c[1]), number_text(more), number_text(c[0])));
  worked.answer = fmt::format("{}: {}, {}: {}", shop.tag(0), number_text(c[0]), shop.tag(1), number_text(c[1]));
  return worked;
}

constexpr std::array<QuestionType, 20> kQuestionTypes = {{
    {"per_type", "hours of each type", Setting::kFull, true, per_type},
    {"total", "hours in all", Setting::kFull, true, total},
    {"one_type", "hours of one type", Setting::kFull, true, one_type},
    {"longest", "the most hours", Setting::kFull, true, longest},
    {"weeks", "weeks", Setting::kFull, true, weeks},
    {"workers", "workers", Setting::kFull, true, workers},
    {"days", "days", Setting::kFull, true, days},
    {"difference", "the difference", Setting::kFull, true, difference},
    {"extra_units", "with the extra units", Setting::kFull, true, extra_units},
    {"total_units", "units in all", Setting::kFull, true, total_units},
    {"doubled", "twice as many", Setting::kFull, true, doubled},
    {"faster", "hours saved", Setting::kFull, true, faster},
    {"left_over", "hours left", Setting::kFull, true, left_over},
    {"same_time", "units in the same time", Setting::kFull, true, same_time},
    {"cost", "the cost", Setting::kFull, true, cost},
    {"one_of_each", "one of each", Setting::kHours, false, one_of_each},
    {"how_many_in", "units in these hours", Setting::kHours, false, how_many_in},
    {"sets_in", "sets in these hours", Setting::kHours, false, sets_in},
    {"third_count", "the third number", Setting::kHours, true, third_count},
    {"relation", "two numbers", Setting::kHours, true, relation},
}};

}  // namespace

std::string Workshop::tag(std::size_t type) const {
  return expander.text_of("tag" + std::to_string(type + 1));
}

std::span<const QuestionType> question_types() {
  return kQuestionTypes;
}

}  // namespace qnext::corpus
