// Expander: templates to text (grammar.h).
#include <algorithm>
#include <utility>

#include "base/check.h"
#include "corpus/english.h"
#include "corpus/grammar.h"
#include "corpus/grammar_text.h"

namespace qnext::corpus {
namespace {

constexpr int kMaxValueDraws = 60;  // for a value that no other variable holds

std::size_t first_bar(std::string_view body) {
  int depth = 0;
  for (std::size_t i = 0; i < body.size(); ++i) {
    if (body[i] == '|' && depth == 0) return i;
    if (body[i] == '{') ++depth;
    if (body[i] == '}') --depth;
  }
  return std::string_view::npos;
}

}  // namespace

void Expander::set(std::string_view variable, std::string text) {
  variables_[std::string(variable)] = Value{std::move(text), nullptr, ""};
}

const std::string& Expander::text_of(std::string_view variable) const {
  const auto found = variables_.find(variable);
  QN_CHECK(found != variables_.end(), "grammar: variable {} is not bound", variable);
  return found->second.text;
}

std::string Expander::expand(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '{') {
      out += text[i];
      continue;
    }
    const std::size_t end = closing_brace(text, i + 1);
    out += evaluate(text.substr(i + 1, end - i - 1)).text;
    i = end;
  }
  return out;
}

const Alternative& Expander::choose(std::string_view rule_name, const Rule& rule) {
  if (!rule.is_split) return rule.alternatives[random_.below(rule.alternatives.size())];
  const bool want_held_out = patterns_ == Patterns::kHeldOut && !random_.one_in(3);
  const auto wanted = [&](const Alternative& alternative) { return alternative.held_out == want_held_out; };
  // A rule may have nothing held out; then it has known patterns, for Grammar::parse refuses any other.
  const bool has_wanted = std::ranges::any_of(rule.alternatives, wanted);
  const Alternative* chosen = nullptr;
  do {
    chosen = &rule.alternatives[random_.below(rule.alternatives.size())];
  } while (has_wanted ? !wanted(*chosen) : chosen->held_out);
  used_patterns_.push_back(pattern_id(rule_name, *chosen));
  used_held_out_ = used_held_out_ || chosen->held_out;
  return *chosen;
}

Expander::Value Expander::draw(std::string_view rule_name) {
  const Rule& rule = grammar_.rule(rule_name);
  const Alternative& alternative = choose(rule_name, rule);
  const std::string_view text = alternative.text;
  if (show_slots_ && rule.is_word_list) {
    return {"<" + std::string(rule_name) + ">", &alternative.attributes, std::string(rule_name)};
  }
  const bool is_one_rule = text.size() > 2 && text[0] == '{' && text.back() == '}' &&
                           name_length(text.substr(1)) == text.size() - 2 &&
                           grammar_.has_rule(text.substr(1, text.size() - 2));
  if (is_one_rule && alternative.attributes.empty()) return draw(text.substr(1, text.size() - 2));
  return {expand(text), &alternative.attributes, ""};
}

bool Expander::is_taken(std::string_view variable, std::string_view text) const {
  return std::ranges::any_of(variables_,
                             [&](const auto& entry) { return entry.first != variable && entry.second.text == text; });
}

void Expander::bind_tag(std::string_view variable, std::string_view source) {
  Value value;
  for (int attempt = 0; attempt < kMaxValueDraws; ++attempt) {
    if (name_length(source) == source.size()) {
      value = name_or_attribute(source);
    } else {
      value = {source.starts_with('|') ? one_of(source.substr(1, source.size() - (source.ends_with('|') ? 2 : 1)))
                                       : expand(source),
               nullptr, ""};
    }
    if (show_slots_ || !is_taken(variable, value.text)) break;
  }
  variables_[std::string(variable)] = std::move(value);
}

std::string Expander::one_of(std::string_view choices) {
  std::vector<std::string_view> texts;
  for (std::size_t bar; (bar = first_bar(choices)) != std::string_view::npos; choices.remove_prefix(bar + 1)) {
    texts.push_back(choices.substr(0, bar));
  }
  texts.push_back(choices);
  return expand(texts[random_.below(texts.size())]);
}

// What a function is applied to: a name, choices, or a template.
std::string Expander::argument(std::string_view body) {
  const std::size_t length = name_length(body);
  const bool is_name =
      length > 0 && (length == body.size() ||
                     (body[length] == '.' && length + 1 + name_length(body.substr(length + 1)) == body.size()));
  if (is_name || first_bar(body) != std::string_view::npos) return evaluate(body).text;
  return expand(body);
}

std::string Expander::counted(std::string_view body) {
  const std::size_t space = body.find(' ');
  QN_CHECK(space != std::string_view::npos, "grammar: {{#count noun}} without a noun: {}", body);
  const std::string count = name_or_attribute(body.substr(0, space)).text;
  const std::string_view noun = body.substr(space + 1);
  const bool is_variable = has(noun);
  if (count == "1") return count + " " + (is_variable ? text_of(noun) : std::string(noun));
  return count + " " + (is_variable ? attribute(noun, "pl").text : plural_of(noun));
}

Expander::Value Expander::evaluate(std::string_view tag) {
  if (tag.starts_with('?')) return {random_.one_in(2) ? expand(tag.substr(1)) : "", nullptr, ""};
  if (tag.starts_with('#')) return {counted(tag.substr(1)), nullptr, ""};
  const std::size_t length = name_length(tag);
  if (length > 0 && length < tag.size() && tag[length] == '=') {
    bind_tag(tag.substr(0, length), tag.substr(length + 1));
    return {};
  }
  if (tag.starts_with("a:")) {
    const std::string words = argument(tag.substr(2));
    return {std::string(article_for(words)) + " " + words, nullptr, ""};
  }
  if (tag.starts_with("^:")) return {capitalised(argument(tag.substr(2))), nullptr, ""};
  if (tag.starts_with("pl:")) return {plural_of(argument(tag.substr(3))), nullptr, ""};
  if (first_bar(tag) != std::string_view::npos) return {one_of(tag), nullptr, ""};
  return name_or_attribute(tag);
}

Expander::Value Expander::name_or_attribute(std::string_view name) {
  const std::size_t dot = name.find('.');
  if (dot != std::string_view::npos) return attribute(name.substr(0, dot), name.substr(dot + 1));
  const auto variable = variables_.find(name);
  return variable != variables_.end() ? variable->second : draw(name);
}

Expander::Value Expander::attribute(std::string_view variable, std::string_view key) {
  const auto found = variables_.find(variable);
  QN_CHECK(found != variables_.end(), "grammar: {{{}.{}}}, but {} is not bound", variable, key, variable);
  const Value value = found->second;
  if (show_slots_ && !value.list.empty()) return {"<" + std::string(key) + ">", nullptr, ""};
  if (value.attributes != nullptr) {
    const auto own = value.attributes->find(key);
    if (own != value.attributes->end()) return {expand(own->second), nullptr, ""};
  }
  if (key == "pl") return {plural_of(value.text), nullptr, ""};
  QN_CHECK(key == "it", "grammar: {} ({}) has no attribute {}", variable, value.text, key);
  return {"it", nullptr, ""};
}

}  // namespace qnext::corpus
