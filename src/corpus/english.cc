#include "corpus/english.h"

#include <cstddef>

namespace qnext::corpus {
namespace {

constexpr bool is_lower(char c) {
  return c >= 'a' && c <= 'z';
}
constexpr char upper(char c) {
  return is_lower(c) ? static_cast<char>(c - 'a' + 'A') : c;
}
constexpr char lower(char c) {
  return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
}
constexpr bool is_vowel(char c) {
  return std::string_view("aeiou").find(lower(c)) != std::string_view::npos;
}
constexpr bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

// Eight, eleven, eighteen, eighty-one, 800, 8,000: numbers that are read with a vowel first.
bool number_takes_an(std::string_view digits) {
  std::size_t length = 0;
  while (length < digits.size() && (is_digit(digits[length]) || digits[length] == ',')) ++length;
  const std::string_view number = digits.substr(0, length);
  return number[0] == '8' || number == "11" || number == "18" || number.starts_with("11,") || number.starts_with("18,");
}

// "Tom: Hello", "Question: What ...": one word and a colon, at the start of a line or of a sentence.
bool ends_with_label(std::string_view before) {
  if (!before.ends_with(':')) return false;
  std::size_t begin = before.size() - 1;
  while (begin > 0 && before[begin - 1] != ' ' && before[begin - 1] != '\n') --begin;
  if (begin == 0 || before[begin - 1] == '\n') return true;
  return begin >= 2 && (before[begin - 2] == '.' || before[begin - 2] == '?');
}

// After "Stop!" it may go on: he said, asked Tom.
bool is_attribution(std::string_view after) {
  for (std::string_view subject : {"", "he ", "she ", "they ", "somebody ", "everyone "}) {
    if (!after.starts_with(subject)) continue;
    for (std::string_view verb :
         {"said ", "said.", "said,", "asked", "called", "cried", "shouted", "whispered", "thought", "wondered"}) {
      if (after.substr(subject.size()).starts_with(verb)) return true;
    }
  }
  return false;
}

// Whether the quotation that begins here is a speech, not a word that is spoken of: it has a mark at its end.
bool is_speech(std::string_view quotation) {
  const std::size_t end = quotation.find('"');
  return end != std::string_view::npos && end > 0 &&
         std::string_view(",.!?").find(quotation[end - 1]) != std::string_view::npos;
}

bool starts_sentence(std::string_view before, std::string_view after) {
  if (ends_with_label(before)) return true;
  std::size_t end = before.size();
  bool quote = false;
  if (end > 0 && before[end - 1] == '"') {
    quote = true;
    --end;
  }
  if (end == 0) return true;
  const char last = before[end - 1];
  return last == '.' || ((last == '!' || last == '?') && !(quote && is_attribution(after)));
}

bool is_pronoun_i(std::string_view before, char c, std::string_view after) {
  return c == 'i' && (before.empty() || before.back() == ' ') && (after.empty() || after[0] == ' ' || after[0] == ',');
}

}  // namespace

std::string_view article_for(std::string_view words) {
  while (!words.empty() && (words[0] == '"' || words[0] == '*' || words[0] == '(')) words.remove_prefix(1);
  if (words.empty()) return "a";
  if (is_digit(words[0])) return number_takes_an(words) ? "an" : "a";
  std::string start;
  for (char c : words.substr(0, 8)) start += lower(c);
  for (std::string_view silent : {"hour", "honest", "honour", "heir"}) {
    if (start.starts_with(silent)) return "an";
  }
  for (std::string_view spoken : {"uni", "use", "usu", "one ", "once", "eu", "ukul"}) {
    if (start.starts_with(spoken) && !start.starts_with("unin") && !start.starts_with("unim")) return "a";
  }
  return is_vowel(words[0]) ? "an" : "a";
}

std::string plural_of(std::string_view words) {
  std::string out(words);
  if (out.empty()) return out;
  const auto ends = [&](std::string_view tail) { return out.ends_with(tail); };
  if (ends("y") && out.size() > 1 && !is_vowel(out[out.size() - 2])) {
    out.pop_back();
    return out + "ies";
  }
  if (ends("s") || ends("x") || ends("z") || ends("ch") || ends("sh")) return out + "es";
  return out + "s";
}

std::string number_text(std::int64_t number) {
  const std::string digits = std::to_string(number);
  std::string out;
  for (std::size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0 && is_digit(digits[i - 1])) out += ',';
    out += digits[i];
  }
  return out;
}

std::string hours_text(std::int64_t hours) {
  return number_text(hours) + (hours == 1 ? " hour" : " hours");
}

std::string capitalised(std::string_view text) {
  std::string out(text);
  if (!out.empty()) out[0] = upper(out[0]);
  return out;
}

std::string tidied(std::string_view text) {
  std::string out;
  bool capital = true;  // the next letter begins a sentence
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    const std::string_view after = text.substr(i + 1);
    if (c == ' ') {
      if (out.empty() || out.back() == ' ' || out.back() == '\n') continue;
      capital = capital || starts_sentence(out, after);
      out += ' ';
      continue;
    }
    if (c == '\n' || std::string_view(",.!?;:").find(c) != std::string_view::npos) {
      while (!out.empty() && out.back() == ' ') out.pop_back();
    }
    if (c == '\n') {
      capital = true;
      if (!out.empty()) out += c;
      continue;
    }
    const bool opens = c == '"' && (out.empty() || out.back() == ' ' || out.back() == '\n');
    out += capital || is_pronoun_i(out, c, after) ? upper(c) : c;
    capital = c == '"' && (capital || (opens && is_speech(after)));
  }
  while (!out.empty() && (out.back() == ' ' || out.back() == '\n')) out.pop_back();
  return out;
}

}  // namespace qnext::corpus
