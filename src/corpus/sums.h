#pragma once
// Sums as the corpus works them out, the same way in arithmetic, problems and instructions: place by place, so that a
// small model never has to leap.

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace qnext::corpus {

// 247 -> 200, 40, 7.
std::vector<std::int64_t> places_of(std::int64_t number);

// "23 x 47 = 23 x 40 + 23 x 7 = 800 + 120 + 140 + 21 = 920 + 161 = 1,081"; "20 x 40 = 800" where one step is enough.
// Factors from 0 on.
std::string product_line(std::int64_t a, std::int64_t b);

// "800 + 450 + 600 = 1,250 + 600 = 1,850".
std::string sum_line(std::span<const std::int64_t> terms);

// "1,247 + 385 = 1,247 + 300 + 80 + 5 = 1,547 + 80 + 5 = 1,627 + 5 = 1,632": the second number goes in place by place;
// at once below 20, and where one step is enough.
std::string placed_sum_line(std::int64_t a, std::int64_t b);

// "1,850 - 620 = 1,850 - 600 - 20 = 1,250 - 20 = 1,230"; at once below 20, where one step is enough, and
// where nothing is left.
std::string difference_line(std::int64_t from, std::int64_t term);

// "972 / 4: 4 x 200 = 800, 972 - 800 = 172, 4 x 40 = 160, 172 - 160 = 172 - 100 - 60 = 72 - 60 = 12, 4 x 3 = 12, 12 -
// 12 = 0, so 972 / 4 = 200 + 40 + 3 = 243"; "23 / 1 = 23". The division leaves no rest.
std::string quotient_line(std::int64_t a, std::int64_t b);

}  // namespace qnext::corpus
