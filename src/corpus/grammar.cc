#include "corpus/grammar.h"

#include <algorithm>
#include <functional>

#include "base/check.h"
#include "corpus/grammar_text.h"

namespace qnext::corpus {
namespace {

constexpr std::uint64_t kHeldOutPatterns = 8;  // one in so many

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t' || text.front() == '\r')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t' || text.back() == '\r')) text.remove_suffix(1);
  return text;
}

std::vector<std::string_view> split_by(std::string_view text, std::string_view separator) {
  std::vector<std::string_view> parts;
  for (std::size_t at; (at = text.find(separator)) != std::string_view::npos;
       text.remove_prefix(at + separator.size())) {
    parts.push_back(text.substr(0, at));
  }
  parts.push_back(text);
  return parts;
}

// "\n" written out becomes a new line.
std::string unescaped(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 1 < text.size() && text[i + 1] == 'n') {
      out += '\n';
      ++i;
    } else {
      out += text[i];
    }
  }
  return out;
}

struct Parser {
  std::map<std::string, Rule, std::less<>>& rules;
  Rule* rule = nullptr;
  std::string rule_name = {};
  std::map<std::string, std::string, std::less<>> shared = {};

  static Status parse_attributes(std::map<std::string, std::string, std::less<>>& out,
                                 const std::vector<std::string_view>& parts, std::string_view line) {
    for (std::size_t i = 1; i < parts.size(); ++i) {
      const std::size_t equals = parts[i].find('=');
      if (equals == std::string_view::npos) return error("grammar: attribute without =: {}", line);
      out[std::string(trimmed(parts[i].substr(0, equals)))] = unescaped(trimmed(parts[i].substr(equals + 1)));
    }
    return success();
  }

  Status begin_rule(std::string_view line) {
    if (!line.ends_with(':')) return error("grammar: a rule's line ends with a colon: {}", line);
    line.remove_suffix(1);
    const std::vector<std::string_view> parts = split_by(line, ";;");
    std::string_view name = trimmed(parts[0]);
    Rule fresh;
    for (; name.ends_with('~') || name.ends_with('!'); name.remove_suffix(1)) {
      (name.ends_with('~') ? fresh.is_word_list : fresh.is_split) = true;
    }
    shared.clear();
    QN_RETURN_IF_ERROR(parse_attributes(shared, parts, line));
    rule_name = name;
    const auto [entry, added] = rules.emplace(name, std::move(fresh));
    if (!added) return error("grammar: rule {} is there twice", name);
    rule = &entry->second;
    return success();
  }

  Status add_alternative(std::string_view line) {
    if (rule == nullptr) return error("grammar: an alternative before any rule: {}", line);
    const std::vector<std::string_view> parts = split_by(line, ";;");
    Alternative alternative{unescaped(trimmed(parts[0])), shared};
    QN_RETURN_IF_ERROR(parse_attributes(alternative.attributes, parts, line));
    alternative.held_out = rule->is_split && pattern_id(rule_name, alternative) % kHeldOutPatterns == 0;
    rule->alternatives.push_back(std::move(alternative));
    return success();
  }
};

Status parse_file(Parser& parser, std::string_view file) {
  std::string joined;
  for (std::string_view line : split_by(file, "\n")) {
    const bool goes_on = line.ends_with('\\') && !line.ends_with("\\\\");
    if (goes_on) line.remove_suffix(1);
    if (joined.empty()) {
      joined = line;
    } else {
      joined.append(" ").append(trimmed(line));
    }
    if (goes_on) continue;
    const std::string whole = std::exchange(joined, "");
    const std::string_view content = trimmed(whole);
    if (content.empty() || content[0] == '#') continue;
    QN_RETURN_IF_ERROR(whole[0] == ' ' ? parser.add_alternative(content) : parser.begin_rule(content));
  }
  return success();
}

// Every tag of a text, nested ones too, to `visit`.
void visit_tags(std::string_view text, const std::function<void(std::string_view)>& visit) {
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '{') continue;
    const std::size_t end = closing_brace(text, i + 1);
    const std::string_view body = text.substr(i + 1, end - i - 1);
    visit(body);
    visit_tags(body, visit);
    i = end;
  }
}

std::string_view without_function(std::string_view tag) {
  for (std::string_view function : {"a:", "^:", "pl:", "?"}) {
    if (tag.starts_with(function)) return tag.substr(function.size());
  }
  return tag;
}

// Variables that `text` binds, and names that it refers to.
void collect_names(std::string_view text, std::set<std::string, std::less<>>& bound,
                   std::map<std::string, std::string>& used) {
  visit_tags(text, [&](std::string_view tag) {
    const bool is_call = without_function(tag) == tag && tag.find_first_of("|#={") == std::string_view::npos;
    tag = without_function(tag);
    const std::size_t equals = tag.find('=');
    if (equals != std::string_view::npos && is_name(tag.substr(0, equals))) {
      bound.emplace(tag.substr(0, equals));
      tag = tag.substr(equals + 1);
    }
    const std::string_view name = tag.substr(0, tag.find('.'));
    if (is_name(name) && name.size() + 1 != tag.size() && tag.find('|') == std::string_view::npos &&
        (name == tag || is_name(tag.substr(name.size() + 1)))) {
      used.emplace(name, text);
    } else if (is_call) {
      used.emplace(tag, text);  // words in braces without a choice: check_rules finds no rule of that name
    }
  });
}

Status check_rules(const std::map<std::string, Rule, std::less<>>& rules,
                   const std::set<std::string, std::less<>>& given) {
  std::set<std::string, std::less<>> bound = given;
  std::map<std::string, std::string> used;
  for (const auto& [name, rule] : rules) {
    if (rule.alternatives.empty()) return error("grammar: rule {} is empty", name);
    if (std::ranges::all_of(rule.alternatives, &Alternative::held_out))
      return error("grammar: all of {} is held out", name);
    for (const Alternative& alternative : rule.alternatives) {
      collect_names(alternative.text, bound, used);
      for (const auto& [key, value] : alternative.attributes) collect_names(value, bound, used);
    }
  }
  for (const auto& [name, text] : used) {
    if (rules.find(name) == rules.end() && bound.find(name) == bound.end()) {
      return error("grammar: {} is no rule, and nothing binds it, in: {}", name, text);
    }
  }
  return success();
}

}  // namespace

std::uint64_t pattern_id(std::string_view rule_name, const Alternative& alternative) {
  return text_hash(std::string(rule_name) + ": " + alternative.text);
}

Result<Grammar> Grammar::parse(const std::vector<std::string_view>& files,
                               const std::set<std::string, std::less<>>& given) {
  Grammar grammar;
  for (std::string_view file : files) {
    Parser parser{grammar.rules_};
    QN_RETURN_IF_ERROR(parse_file(parser, file));
  }
  QN_RETURN_IF_ERROR(check_rules(grammar.rules_, given));
  return grammar;
}

const Rule& Grammar::rule(std::string_view name) const {
  const auto found = rules_.find(name);
  QN_CHECK(found != rules_.end(), "grammar: no rule {}", name);
  return found->second;
}

}  // namespace qnext::corpus
