#pragma once
// What English does to words when they meet: articles, plurals, capitals, spaces; and how the corpus writes numbers.

#include <cstdint>
#include <string>
#include <string_view>

namespace qnext::corpus {

// "a" or "an", as the sound that `words` begin with asks: a hat, an hour, a unit, an 8.
std::string_view article_for(std::string_view words);

// The regular plural of the last word: boxes, cherries, days. Irregular words carry theirs as an attribute (grammar.h).
std::string plural_of(std::string_view words);

// 1850 -> "1,850". Separators from 1,000 on, everywhere in the corpus.
std::string number_text(std::int64_t number);

// "1 hour", "1,850 hours".
std::string hours_text(std::int64_t hours);

// First letter made a capital.
std::string capitalised(std::string_view text);

// A text put together from pieces, as it is printed: single spaces, none before a comma or stop, a capital at the
// start, after a line's end, and after a sentence's end; not where the sentence goes on after !" or ?" (she said). The
// word "i" is "I".
std::string tidied(std::string_view text);

}  // namespace qnext::corpus
