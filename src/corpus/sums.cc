#include "corpus/sums.h"

#include <algorithm>

#include "base/check.h"
#include "corpus/english.h"

namespace qnext::corpus {
namespace {

constexpr std::int64_t kSteppedFrom = 20;  // sums and differences of smaller numbers are known by heart

// 1, 10, 100: a product with it needs no steps.
bool is_power_of_ten(std::int64_t number) {
  while (number >= 10 && number % 10 == 0) number /= 10;
  return number == 1;
}

std::string joined(std::span<const std::int64_t> terms, std::string_view sign) {
  std::string out;
  for (std::int64_t term : terms) {
    if (!out.empty()) out.append(" ").append(sign).append(" ");
    out += number_text(term);
  }
  return out;
}

void add_first_two(std::vector<std::int64_t>& terms) {
  terms[1] += terms[0];
  terms.erase(terms.begin());
}

std::vector<std::int64_t> flat(const std::vector<std::vector<std::int64_t>>& groups) {
  std::vector<std::int64_t> terms;
  for (const std::vector<std::int64_t>& group : groups) terms.insert(terms.end(), group.begin(), group.end());
  return terms;
}

}  // namespace

std::vector<std::int64_t> places_of(std::int64_t number) {
  std::vector<std::int64_t> places;
  for (std::int64_t unit = 1; unit <= number; unit *= 10) {
    const std::int64_t digit = number / unit % 10;
    if (digit != 0) places.insert(places.begin(), digit * unit);
  }
  return places;
}

std::string product_line(std::int64_t a, std::int64_t b) {
  std::string out = fmt::format("{} x {} = ", number_text(a), number_text(b));
  // The second factor is cut up first; a product with one digit other than zeros on each side needs no steps.
  const bool cut_second = places_of(b).size() > 1;
  const std::int64_t whole = cut_second ? a : b;
  const std::vector<std::int64_t> parts = places_of(cut_second ? b : a);
  if (parts.size() > 1 && !is_power_of_ten(a) && !is_power_of_ten(b)) {
    std::vector<std::vector<std::int64_t>> groups;  // of each part, its products with the places of the other factor
    for (std::int64_t part : parts) {
      out += fmt::format("{}{} x {}", groups.empty() ? "" : " + ", number_text(whole), number_text(part));
      std::vector<std::int64_t>& group = groups.emplace_back(places_of(whole));
      for (std::int64_t& place : group) place *= part;
    }
    for (;;) {
      out += " = " + joined(flat(groups), "+");
      if (groups[0].size() == 1) break;
      for (std::vector<std::int64_t>& group : groups) add_first_two(group);
    }
    for (std::vector<std::int64_t> sums = flat(groups); sums.size() > 2;) {
      add_first_two(sums);
      out += " = " + joined(sums, "+");
    }
    out += " = ";
  }
  return out + number_text(a * b);
}

std::string sum_line(std::span<const std::int64_t> terms) {
  std::vector<std::int64_t> left(terms.begin(), terms.end());
  std::string out = joined(left, "+");
  while (left.size() > 1) {
    add_first_two(left);
    out += " = " + joined(left, "+");
  }
  return out;
}

std::string placed_sum_line(std::int64_t a, std::int64_t b) {
  std::vector<std::int64_t> terms = places_of(b);
  if (terms.size() < 2 || a < kSteppedFrom) return sum_line(std::vector{a, b});
  terms.insert(terms.begin(), a);
  return fmt::format("{} + {} = {}", number_text(a), number_text(b), sum_line(terms));
}

std::string difference_line(std::int64_t from, std::int64_t term) {
  const std::string whole = joined(std::vector{from, term}, "-") + " = ";
  std::vector<std::int64_t> left = places_of(term);
  if (left.size() < 2 || from < kSteppedFrom || from == term) return whole + number_text(from - term);
  left.insert(left.begin(), from);
  std::string out = whole + joined(left, "-");
  while (left.size() > 1) {
    left[1] = left[0] - left[1];
    left.erase(left.begin());
    out += " = " + joined(left, "-");
  }
  return out;
}

std::string quotient_line(std::int64_t a, std::int64_t b) {
  QN_CHECK(b > 0 && a % b == 0, "{} / {} leaves a rest", a, b);
  std::string out = fmt::format("{} / {}", number_text(a), number_text(b));
  if (b == 1) return out + " = " + number_text(a);
  // Long division, also where the quotient has one place: that is not known before.
  const std::vector<std::int64_t> places = places_of(a / b);
  out += ": ";
  std::int64_t rest = a;
  for (std::int64_t place : places) {
    out += product_line(b, place) + ", " + difference_line(rest, place * b) + ", ";
    rest -= place * b;
  }
  out += fmt::format("so {} / {} = ", number_text(a), number_text(b));
  if (places.size() > 1) out += joined(places, "+") + " = ";
  return out + number_text(a / b);
}

}  // namespace qnext::corpus
