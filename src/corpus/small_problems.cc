#include "corpus/small_problems.h"

#include "base/check.h"
#include "corpus/english.h"
#include "corpus/sums.h"

namespace qnext::corpus {
namespace {

using Numbers = std::vector<std::int64_t>;

struct Operation {
  std::string_view name;  // its texts: the rule small_NAME, which binds `unit`, what the answer is counted in
  Numbers (*draw)(Random& random);
  std::vector<std::string> (*steps)(const Numbers& n);
  std::int64_t (*value)(const Numbers& n);
};

std::int64_t some(Random& random) {
  switch (random.below(3)) {
    case 0:
      return 10 * random.between(1, 40);
    case 1:
      return random.between(2, 200);
    default:
      return random.between(2, 30);
  }
}

std::string line(const Numbers& terms) {
  return sum_line(terms) + ".";
}
std::string minus(std::int64_t a, std::int64_t b) {
  return difference_line(a, b) + ".";
}

const Operation kOperations[] = {
    {"add",
     [](Random& r) {
       return Numbers{some(r), some(r)};
     },
     [](const Numbers& n) { return std::vector<std::string>{line(n)}; }, [](const Numbers& n) { return n[0] + n[1]; }},
    {"add3",
     [](Random& r) {
       return Numbers{some(r), some(r), some(r)};
     },
     [](const Numbers& n) { return std::vector<std::string>{line(n)}; },
     [](const Numbers& n) { return n[0] + n[1] + n[2]; }},
    {"take",
     [](Random& r) {
       const std::int64_t b = some(r);
       return Numbers{b + r.between(2, 200), b};
     },
     [](const Numbers& n) { return std::vector<std::string>{minus(n[0], n[1])}; },
     [](const Numbers& n) { return n[0] - n[1]; }},
    {"times",
     [](Random& r) {
       return Numbers{r.between(2, 60), r.between(2, 40)};
     },
     [](const Numbers& n) { return std::vector<std::string>{product_line(n[0], n[1]) + "."}; },
     [](const Numbers& n) { return n[0] * n[1]; }},
    {"share",
     [](Random& r) {
       const std::int64_t b = r.between(2, 25);
       return Numbers{b * r.between(2, 60), b};
     },
     [](const Numbers& n) { return std::vector<std::string>{quotient_line(n[0], n[1]) + "."}; },
     [](const Numbers& n) { return n[0] / n[1]; }},
    {"times_add",
     [](Random& r) {
       return Numbers{r.between(2, 40), r.between(2, 20), r.between(2, 90)};
     },
     [](const Numbers& n) {
       return std::vector<std::string>{product_line(n[0], n[1]) + ".", line({n[0] * n[1], n[2]})};
     },
     [](const Numbers& n) { return n[0] * n[1] + n[2]; }},
    {"times_take",
     [](Random& r) {
       const std::int64_t a = r.between(2, 40);
       const std::int64_t b = r.between(2, 20);
       return Numbers{a, b, r.between(1, a * b - 2)};
     },
     [](const Numbers& n) {
       return std::vector<std::string>{product_line(n[0], n[1]) + ".", minus(n[0] * n[1], n[2])};
     },
     [](const Numbers& n) { return n[0] * n[1] - n[2]; }},
    {"add_take",
     [](Random& r) {
       const std::int64_t a = some(r);
       const std::int64_t b = some(r);
       return Numbers{a, b, r.between(1, a + b - 2)};
     },
     [](const Numbers& n) {
       return std::vector<std::string>{line({n[0], n[1]}), minus(n[0] + n[1], n[2])};
     },
     [](const Numbers& n) { return n[0] + n[1] - n[2]; }},
};

}  // namespace

std::optional<Document> make_small_problem(const Draw& draw, Patterns patterns, bool thinking) {
  const Operation& operation = kOperations[draw.random.below(std::size(kOperations))];
  const Numbers numbers = numbers_of_split(draw, [&] { return operation.draw(draw.random); });
  Expander expander(corpus_grammar(), draw.random, patterns);
  for (std::size_t i = 0; i < numbers.size(); ++i) expander.set("n" + std::to_string(i + 1), number_text(numbers[i]));
  const std::string text = tidied(expander.expand(fmt::format("{{small_{}}}", operation.name)));
  if (patterns == Patterns::kHeldOut && !expander.used_held_out()) return std::nullopt;
  const std::int64_t value = operation.value(numbers);
  expander.set("amount", number_text(value));
  std::string steps;
  for (const std::string& step : operation.steps(numbers)) steps += capitalised(step) + "\n";
  const std::string answer = "Answer: **" + tidied(expander.expand("{#amount unit}")) + "**";
  Document document;
  document.messages = {{"user", text},
                       {"assistant", thinking ? "<think>\n" + steps + "</think>\n\n" + answer : steps + answer}};
  document.answer = {{"numbers", numbers}, {"values", {value}}};
  document.questions = {std::string(operation.name)};
  document.patterns = expander.used_patterns();
  document.numbers = {numbers};
  return document;
}

}  // namespace qnext::corpus
