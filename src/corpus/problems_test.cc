// Every answer computed again, from what the document says was given, in another way than the program's.
#include "corpus/problems.h"

#include <gtest/gtest-spi.h>
#include <gtest/gtest.h>

#include <map>
#include <regex>
#include <set>
#include <sstream>

#include "corpus/corpus.h"
#include "corpus/english.h"

namespace qnext::corpus {
namespace {

using Numbers = std::vector<std::int64_t>;

std::map<std::string, Numbers> answer_of(const Document& document) {
  return {document.answer.begin(), document.answer.end()};
}

struct Case {
  Numbers h, c, given;
  std::int64_t of(std::size_t i) const { return h[i] * c[i]; }
  std::size_t at(std::size_t i) const { return static_cast<std::size_t>(given[i]); }
  std::int64_t all() const {
    std::int64_t sum = 0;
    for (std::size_t i = 0; i < 3; ++i) sum += of(i);
    return sum;
  }
};

// Checks values by putting them back into the question.
bool holds(const std::string& question, const Case& p, const Numbers& v) {
  const auto whole = [](std::int64_t a, std::int64_t b) { return a % b == 0 ? a / b : -1; };
  if (question == "per_type") return v == Numbers{p.of(0), p.of(1), p.of(2)};
  if (question == "total") return v == Numbers{p.all()};
  if (question == "one_type") return v == Numbers{p.of(p.at(0))};
  if (question == "longest") {
    const auto best = static_cast<std::size_t>(v[0]);
    return p.of(best) > p.of((best + 1) % 3) && p.of(best) > p.of((best + 2) % 3);
  }
  if (question == "weeks") return p.given[0] == 40 && v[0] == whole(p.all(), 40);
  if (question == "workers") return v[0] * 40 * p.given[1] == p.all();
  if (question == "days") return v[0] * 8 * p.given[1] == p.all();
  if (question == "difference") return p.of(p.at(1)) + v[0] == p.of(p.at(0)) && v[0] > 0;
  if (question == "extra_units") return v[0] == p.all() + p.given[1] * p.h[p.at(0)];
  if (question == "total_units") return v[0] == p.c[0] + p.c[1] + p.c[2];
  if (question == "doubled") return v[0] == p.all() + p.all();
  if (question == "faster") return v[0] == p.of(p.at(0)) - p.given[1] * p.c[p.at(0)] && v[0] > 0;
  if (question == "left_over") return v[0] + p.all() == p.given[0] && v[0] > 0;
  if (question == "same_time") return v[0] * p.h[p.at(0)] == p.of(p.at(1));
  if (question == "cost") return v[0] == whole(p.all() * p.given[0], 1);
  if (question == "one_of_each") return v[0] == p.h[0] + p.h[1] + p.h[2];
  if (question == "how_many_in") return v[0] * p.h[p.at(0)] == p.given[1];
  if (question == "sets_in") return v[0] * (p.h[0] + p.h[1] + p.h[2]) == p.given[0];
  if (question == "third_count") return p.of(0) + p.of(1) + v[0] * p.h[2] == p.given[0];
  if (question == "relation") return v[0] - v[1] == p.given[1] && v[0] + v[1] + p.c[2] == p.given[0];
  return false;
}

bool holds_small(const std::string& operation, const Numbers& n, std::int64_t v) {
  if (operation == "add") return v - n[1] == n[0];
  if (operation == "add3") return v - n[2] - n[1] == n[0];
  if (operation == "take") return v + n[1] == n[0];
  if (operation == "times") return v % n[0] == 0 && v / n[0] == n[1];
  if (operation == "share") return v * n[1] == n[0];
  if (operation == "times_add") return v - n[2] == n[0] * n[1];
  if (operation == "times_take") return v + n[2] == n[0] * n[1];
  if (operation == "add_take") return v + n[2] == n[0] + n[1];
  return false;
}

// "23 x 40 + 23 x 7".
double value_of(const std::string& side) {
  static const std::regex kTerm(R"(([-+x/]?) ?([0-9][0-9,]*(?:\.[0-9])?))");
  double sum = 0, product = 0;
  for (std::sregex_iterator at(side.begin(), side.end(), kTerm), end; at != end; ++at) {
    std::string digits = (*at)[2];
    std::erase(digits, ',');
    const double number = std::stod(digits);
    const std::string sign = (*at)[1];
    if (sign == "x") {
      product *= number;
    } else if (sign == "/") {
      product /= number;
    } else {
      sum += std::exchange(product, sign == "-" ? -number : number);
    }
  }
  return sum + product;
}

// Every "a op b op c = ... = ..." of a text is true.
void expect_equations_hold(const std::string& text) {
  static const std::regex kEquation(
      R"(\d[\d,]*(\.\d)?( [-+x/] \d[\d,]*(\.\d)?)*( = \d(,?\d)*(\.\d)?( [-+x/] \d(,?\d)*(\.\d)?)*)+)");
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    for (std::sregex_iterator at(line.begin(), line.end(), kEquation), end; at != end; ++at) {
      const std::string equation = at->str();
      const double value = value_of(equation.substr(0, equation.find('=')));
      for (std::size_t sign = 0; (sign = equation.find('=', sign)) != std::string::npos;) {
        const std::size_t next = equation.find('=', ++sign);
        EXPECT_DOUBLE_EQ(value_of(equation.substr(sign, next == std::string::npos ? next : next - sign)), value)
            << equation;
      }
    }
  }
}

bool holds_week(const std::string& question, const std::map<std::string, Numbers>& answer, const Numbers& given,
                const Numbers& v) {
  const Numbers &halves = answer.at("unit_half_hours"), &counts = answer.at("counts"), &open = answer.at("open");
  const auto twice = [&](std::size_t type) { return halves[type] * counts[type]; };
  const std::int64_t all = twice(0) + twice(1) + twice(2);
  if (question == "week_open") return v[0] == open[0] * open[1];
  if (question == "week_per_type") {
    return 2 * v[0] == twice(0) && 2 * v[1] == twice(1) && 2 * v[2] == twice(2) && 2 * v[3] == all;
  }
  if (question == "week_total") return 2 * v[0] == all;
  if (question == "week_units") return v[0] == counts[0] + counts[1] + counts[2];
  const std::int64_t count = counts[static_cast<std::size_t>(given[0])];
  if (question == "week_more") return 100 * v[0] == given[1] * count;
  return question == "week_new_output" && 100 * v[0] == (100 + given[1]) * count;
}

// The answers that stand behind the thoughts, by part.
std::vector<std::string> answers_in(const std::string& reply) {
  const std::size_t thoughts = reply.find("</think>");
  std::istringstream lines(thoughts == std::string::npos ? reply : reply.substr(thoughts));
  std::vector<std::string> answers;
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("Answer: **")) answers.push_back(line);
  }
  return answers;
}

class Problems : public testing::TestWithParam<Kind> {};

TEST_P(Problems, AnswersAreRight) {
  std::set<std::string> seen;
  for (Split split : {Split::kTrain, Split::kHeldOut}) {
    for (std::uint64_t i = 0; i < 4000; ++i) {
      const Document document = make_document(GetParam(), 21, i, split);
      const auto answer = answer_of(document);
      const std::string& reply = document.messages[1].content;
      const std::vector<std::string> said = answers_in(reply);
      ASSERT_EQ(said.size(), document.questions.size()) << reply;
      if (answer.contains("numbers")) {
        ASSERT_TRUE(holds_small(document.questions[0], answer.at("numbers"), answer.at("values")[0])) << reply;
        ASSERT_NE(said[0].find(number_text(answer.at("values")[0])), std::string::npos) << reply;
        seen.insert(document.questions[0]);
        continue;
      }
      for (std::size_t part = 0; part < document.questions.size(); ++part) {
        const std::string number = std::to_string(part + 1);
        if (answer.contains("open")) {
          const Numbers& values = answer.at("values_" + number);
          ASSERT_TRUE(holds_week(document.questions[part], answer, answer.at("given_" + number), values)) << reply;
          for (std::int64_t value : values) ASSERT_NE(said[part].find(number_text(value)), std::string::npos) << reply;
          seen.insert(document.questions[part]);
          continue;
        }
        const Case p{answer.at("unit_hours"), answer.at("counts"), answer.at("given_" + number)};
        const Numbers& values = answer.at("values_" + number);
        ASSERT_TRUE(holds(document.questions[part], p, values)) << document.questions[part] << "\n" << reply;
        for (std::int64_t value : values) {
          if (document.questions[part] == "longest") continue;  // a type
          ASSERT_NE(said[part].find(number_text(value)), std::string::npos) << reply;
        }
        seen.insert(document.questions[part]);
      }
    }
  }
  EXPECT_EQ(seen.size(), question_types().size() + 8 + 6);
}

TEST_P(Problems, WorkedStepsAreTrue) {
  for (std::uint64_t i = 0; i < 2000; ++i) {
    const Document document = make_document(GetParam(), 22, i, Split::kTrain);
    expect_equations_hold(document.messages[1].content);
    const bool thinks = document.messages[1].content.starts_with("<think>\n");
    EXPECT_EQ(thinks, GetParam() == Kind::kProblemsThinking);
    EXPECT_EQ(document.messages[1].content.find("\n</think>\n\n") != std::string::npos, thinks);
    const bool says_what_is_given = document.messages[1].content.starts_with(thinks ? "<think>\nGiven:\n" : "Given:\n");
    EXPECT_EQ(says_what_is_given, !answer_of(document).contains("numbers"));
  }
}

std::vector<std::string> matches(const std::string& text, const std::string& pattern) {
  const std::regex regex(pattern);
  std::vector<std::string> found;
  for (std::sregex_iterator it(text.begin(), text.end(), regex), end; it != end; ++it) found.push_back((*it)[1]);
  return found;
}

TEST(CarelessProblems, LackWordsThatAreNeitherNumberNorType) {
  struct Users {
    double num = 0, num_words = 0;
  };
  Users careless, careful;
  for (std::uint64_t i = 0; i < 4000; ++i) {
    const Document document = make_document(Kind::kProblemsThinking, 24, i, Split::kTrain);
    const std::string& user = document.messages[0].content;
    Users& users = document.careless ? careless : careful;
    if (!answer_of(document).contains("numbers")) {  // no small problem
      ++users.num;
      users.num_words += static_cast<double>(std::ranges::count(user, ' '));
    }
    for (const std::string& types : matches(document.messages[1].content, "Hours each: (.*)\\.\n")) {
      for (std::string type : matches(types, "(?:^|, )(.+?) [0-9.]+(?=, |$)")) {
        if (type.ends_with('s')) type.resize(std::max<std::size_t>(3, type.size() - 3));  // one ferry, many ferries
        const bool is_there = user.find(type) != std::string::npos || user.find(capitalised(type)) != std::string::npos;
        ASSERT_TRUE(is_there) << type << " in " << user;
      }
      for (const std::string& hours : matches(types, " ([0-9.]+)(?=, |$)")) {
        ASSERT_NE(user.find(hours), std::string::npos) << hours << " in " << user;
      }
    }
    ASSERT_FALSE(make_document(Kind::kProblemsThinking, 24, i, Split::kHeldOut).careless);
  }
  EXPECT_NEAR(careless.num / (careless.num + careful.num), 0.5, 0.03);
  EXPECT_NEAR((careless.num_words / careless.num) / (careful.num_words / careful.num), 0.93, 0.03);
}

INSTANTIATE_TEST_SUITE_P(Both, Problems, testing::Values(Kind::kProblems, Kind::kProblemsThinking));

TEST(Arithmetic, WorkedStepsAreTrue) {
  for (std::uint64_t i = 0; i < 3000; ++i) {
    expect_equations_hold(make_document(Kind::kArithmetic, 23, i, Split::kTrain).text);
  }
}

TEST(Arithmetic, TheCheckerSeesAWrongStep) {
  expect_equations_hold("23 x 47 = 23 x 40 + 23 x 7 = 920 + 161 = 1,081. 5 - 3 = 2, and 6 / 3 + 1 = 3.");
  EXPECT_NONFATAL_FAILURE(expect_equations_hold("so 23 x 47 = 920 + 161 = 1,082."), "1,082");
  EXPECT_NONFATAL_FAILURE(expect_equations_hold("A: 1,850 - 800 - 450 = 1,050 - 450 = 500 hours."), "500");
}

}  // namespace
}  // namespace qnext::corpus
