#pragma once
// Texts as data: rules of alternatives, and the small engine that expands them. docs/corpus.md shows how to write them.
//
//   colour~:                        ~ a list of words: one slot, however many words (counts sentence patterns)
//     red
//     grey ;; shade=dark            an attribute of this alternative; its value is a template too
//   boy~ ;; he=he ;; him=him:       attributes of all alternatives
//     Tom
//   opening!:                       ! a list of patterns: some of them are held out, see Patterns
//     {hero=boy}One day {hero} found {a:{colour} hat}. \      a line that ends with \ goes on in the next
//       {hero.he} {?really }liked it.
//
//   {rule} {var}         an alternative of the rule, or what the variable holds; a variable hides a rule of its name
//   {var=rule}           binds, prints nothing; unlike what any other variable holds, so two friends have two names
//   {var=|this|that|}    binds one of the texts; {var={colour} hat} binds the text
//   {var.he}             an attribute of what the variable was drawn from; {var.pl} exists always (irregular plurals as
//                        an attribute), {var.it} is "it" unless it is given
//   {this|that|}         one of them       {?perhaps }   it, or nothing
//   {a:...} {^:...} {pl:...}           with its article; with a capital; in the plural
//   {#count noun}        "1 hour", "20 hours"; the noun is a word or a variable
//   \n                   a new line
//
// An alternative that is nothing but {rule} hands on that rule's attributes.

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "corpus/random.h"

namespace qnext::corpus {

struct Alternative {
  std::string text;
  std::map<std::string, std::string, std::less<>> attributes;
  bool held_out = false;  // by the hash of the rule's name and the text: adding a pattern moves no other
};

struct Rule {
  std::vector<Alternative> alternatives;
  bool is_word_list = false;
  bool is_split = false;
};

// Which alternatives of the rules marked ! may be drawn.
enum class Patterns {
  kKnown,    // those of the training split
  kHeldOut,  // any, held-out ones more often than not; what used none is for the caller to refuse
};

class Grammar {
 public:
  // Errors: a line that is neither rule, alternative nor comment; a rule twice, or empty; a rule all held out; a
  // reference to what is neither a rule, nor bound anywhere, nor in `given` (the variables that code sets).
  static Result<Grammar> parse(const std::vector<std::string_view>& files,
                               const std::set<std::string, std::less<>>& given);

  const Rule& rule(std::string_view name) const;  // aborts when there is none
  bool has_rule(std::string_view name) const { return rules_.find(name) != rules_.end(); }
  const std::map<std::string, Rule, std::less<>>& rules() const { return rules_; }

 private:
  std::map<std::string, Rule, std::less<>> rules_;
};

// One document in the making: its variables, its random numbers, the patterns that it used.
class Expander {
 public:
  Expander(const Grammar& grammar, Random& random, Patterns patterns)
      : grammar_(grammar), random_(random), patterns_(patterns) {}

  // Sentences with <rule> where a word of a list would be: what is left are the patterns themselves.
  void show_slots() { show_slots_ = true; }

  void set(std::string_view variable, std::string text);
  bool has(std::string_view variable) const { return variables_.find(variable) != variables_.end(); }
  const std::string& text_of(std::string_view variable) const;  // aborts when it is not bound

  // The template's text, not yet tidied (english.h).
  std::string expand(std::string_view text);

  const std::vector<std::uint64_t>& used_patterns() const { return used_patterns_; }
  bool used_held_out() const { return used_held_out_; }

 private:
  struct Value {
    std::string text;
    const std::map<std::string, std::string, std::less<>>* attributes = nullptr;
    std::string list;  // with show_slots: the word list it is of
  };

  Value draw(std::string_view rule_name);
  const Alternative& choose(std::string_view rule_name, const Rule& rule);
  Value evaluate(std::string_view tag);
  Value name_or_attribute(std::string_view name);
  Value attribute(std::string_view variable, std::string_view key);
  std::string argument(std::string_view body);
  std::string one_of(std::string_view choices);
  void bind_tag(std::string_view variable, std::string_view source);
  bool is_taken(std::string_view variable, std::string_view text) const;
  std::string counted(std::string_view body);

  const Grammar& grammar_;
  Random& random_;
  Patterns patterns_;
  bool show_slots_ = false;
  std::map<std::string, Value, std::less<>> variables_;
  std::vector<std::uint64_t> used_patterns_;
  bool used_held_out_ = false;
};

// The identity of one pattern, as used_patterns() names it.
std::uint64_t pattern_id(std::string_view rule_name, const Alternative& alternative);

// The corpus's own grammar, embedded in the program; parsed once.
const Grammar& corpus_grammar();

}  // namespace qnext::corpus
