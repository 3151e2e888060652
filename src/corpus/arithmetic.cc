#include "corpus/arithmetic.h"

#include <algorithm>

#include "corpus/english.h"
#include "corpus/sums.h"

namespace qnext::corpus {
namespace {

using Numbers = std::vector<std::int64_t>;

// A number of one to four digits, each length as often, every third one round.
std::int64_t any_number(Random& random) {
  static constexpr std::int64_t kLimits[] = {9, 99, 999, 4999};
  const std::size_t digits = random.below(4);
  const std::int64_t number = random.between(digits == 0 ? 1 : kLimits[digits - 1] + 1, kLimits[digits]);
  const std::int64_t unit = digits == 0 ? 1 : digits == 3 ? 100 : 10;
  return random.one_in(3) ? std::max(unit, number / unit * unit) : number;
}

Sum plus(const Draw& draw) {
  const Numbers n = numbers_of_split(draw, [&] { return Numbers{any_number(draw.random), any_number(draw.random)}; });
  return {"plus", n, placed_sum_line(n[0], n[1]), number_text(n[0] + n[1])};
}

Sum plus3(const Draw& draw) {
  const Numbers n = numbers_of_split(draw, [&] {
    return Numbers{any_number(draw.random), any_number(draw.random), any_number(draw.random)};
  });
  return {"plus3", n, sum_line(n), number_text(n[0] + n[1] + n[2])};
}

Sum minus(const Draw& draw) {
  const Numbers n = numbers_of_split(draw, [&] {
    const std::int64_t b = any_number(draw.random);
    return Numbers{b + any_number(draw.random), b};
  });
  return {"minus", n, difference_line(n[0], n[1]), number_text(n[0] - n[1])};
}

Sum times(const Draw& draw) {
  const Numbers n = numbers_of_split(draw, [&] {
    switch (draw.random.below(3)) {
      case 0:
        return Numbers{draw.random.between(2, 12), draw.random.between(2, 12)};
      case 1:
        return Numbers{draw.random.between(2, 99), draw.random.between(2, 99)};
      default:
        return Numbers{draw.random.between(2, 40), 10 * draw.random.between(1, 20)};
    }
  });
  return {"times", n, product_line(n[0], n[1]), number_text(n[0] * n[1])};
}

Sum over(const Draw& draw) {
  const Numbers n = numbers_of_split(draw, [&] {
    const std::int64_t b = draw.random.between(2, draw.random.one_in(2) ? 12 : 50);
    return Numbers{b * draw.random.between(2, draw.random.one_in(2) ? 12 : 120), b};
  });
  return {"over", n, quotient_line(n[0], n[1]), number_text(n[0] / n[1])};
}

Sum compare(const Draw& draw) {
  const Numbers n = numbers_of_split(draw, [&] {
    for (;;) {
      const std::int64_t a = any_number(draw.random);
      const std::int64_t b = draw.random.one_in(3) ? a + draw.random.between(1, 9) : any_number(draw.random);
      if (a != b) return draw.random.one_in(2) ? Numbers{a, b} : Numbers{b, a};
    }
  });
  return {n[0] > n[1] ? "more" : "less", n, difference_line(std::max(n[0], n[1]), std::min(n[0], n[1])),
          number_text(std::max(n[0], n[1]))};
}

struct Unit {
  std::string_view name;
  std::int64_t factor;
};

Sum convert(const Draw& draw) {
  static constexpr Unit kUnits[] = {{"days_hours", 24},          {"hours_minutes", 60}, {"minutes_seconds", 60},
                                    {"weeks_days", 7},           {"years_months", 12},  {"weeks_hours", 40},
                                    {"metres_centimetres", 100}, {"kilos_grams", 1000}, {"dozens", 12}};
  Unit unit{};
  const Numbers n = numbers_of_split(draw, [&] {
    unit = kUnits[draw.random.below(std::size(kUnits))];  // again each time: one unit's held-out numbers may be none
    return Numbers{draw.random.between(2, 20), unit.factor};
  });
  return {unit.name, n, product_line(n[0], n[1]), number_text(n[0] * n[1])};
}

// What the clock says some whole hours later.
Sum clock(const Draw& draw) {
  const Numbers n = numbers_of_split(draw, [&] {
    return Numbers{draw.random.between(1, 12), draw.random.between(1, 11), 12};
  });
  const std::int64_t sum = n[0] + n[1];
  std::string expression = sum_line(Numbers{n[0], n[1]});
  if (sum > 12) expression += ", and " + difference_line(sum, 12);
  return {"clock", n, expression, number_text(sum > 12 ? sum - 12 : sum)};
}

// Numbers at equal distances, and the one that follows.
Sum row(const Draw& draw) {
  static constexpr std::int64_t kSteps[] = {1, 2, 3, 4, 5, 10, 20, 25, 50, 100};
  const Numbers n = numbers_of_split(draw, [&] {
    const std::int64_t unit = draw.random.one_in(2) ? 10 : 1;
    return Numbers{unit * draw.random.between(0, 60), kSteps[draw.random.below(std::size(kSteps))], 0};
  });
  std::string terms;
  for (std::int64_t i = 0; i < 5; ++i) terms += (i == 0 ? "" : ", ") + number_text(n[0] + i * n[1]);
  return {"row", n, terms, number_text(n[0] + 5 * n[1])};
}

}  // namespace

Sum draw_sum(const Draw& draw) {
  static constexpr Sum (*kMakers[])(const Draw&) = {plus, plus, plus3,   minus,   minus, times, times,
                                                    over, over, compare, convert, clock, row};
  return kMakers[draw.random.below(std::size(kMakers))](draw);
}

void set_sum(Expander& expander, const Sum& sum) {
  for (std::size_t i = 0; i < sum.numbers.size(); ++i)
    expander.set("n" + std::to_string(i + 1), number_text(sum.numbers[i]));
  expander.set("expression", sum.expression);
  expander.set("amount", sum.amount);
}

std::optional<Document> make_arithmetic(const Draw& draw) {
  Document document;
  const std::int64_t count = draw.random.between(2, 7);
  for (std::int64_t i = 0; i < count; ++i) {
    const Sum sum = draw_sum(draw);
    Expander expander(corpus_grammar(), draw.random, draw.patterns());
    set_sum(expander, sum);
    const std::string text = tidied(expander.expand(fmt::format("{{says_{}}}", sum.name)));
    document.text += (document.text.empty() ? "" : "\n") + text;
    document.numbers.push_back(sum.numbers);
    document.patterns.insert(document.patterns.end(), expander.used_patterns().begin(), expander.used_patterns().end());
  }
  return document;
}

}  // namespace qnext::corpus
