// The corpus as a whole: the same bytes for a seed, clean English, the splits.
#include "corpus/corpus.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "corpus/english.h"
#include "corpus/grammar.h"
#include "corpus/makers.h"

namespace qnext::corpus {
namespace {

constexpr std::uint64_t kDocuments = 4000;  // of each kind

std::vector<Kind> all_kinds() {
  std::vector<Kind> kinds;
  for (std::string_view name : kind_names()) kinds.push_back(*kind_named(name));
  return kinds;
}

std::vector<std::string> texts_of(const Document& document) {
  std::vector<std::string> texts;
  if (!document.text.empty()) texts.push_back(document.text);
  for (const Message& message : document.messages) texts.push_back(message.content);
  return texts;
}

// Those that are to be English: not the words of a careless user.
std::vector<std::string> careful_texts_of(const Document& document) {
  std::vector<std::string> texts = texts_of(document);
  if (document.careless) texts.erase(texts.begin());
  return texts;
}

std::string whole(const Document& document) {
  std::string out;
  for (const std::string& text : texts_of(document)) out += text + "\n---\n";
  return out;
}

bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

// Words, and for each whether a sentence mark or a new line stands before it.
std::vector<std::pair<std::string, bool>> words_of(std::string_view text) {
  std::vector<std::pair<std::string, bool>> words;
  bool mark = true;
  std::string word;
  for (char c : std::string(text) + " ") {
    if (is_letter(c) || c == '\'' || c == '-') {
      word += c;
      continue;
    }
    if (!word.empty()) words.emplace_back(std::exchange(word, ""), std::exchange(mark, false));
    if (c != ' ') mark = true;
  }
  return words;
}

class CorpusOfKind : public testing::TestWithParam<std::size_t> {
 protected:
  Kind kind() const { return all_kinds()[GetParam()]; }
};

TEST_P(CorpusOfKind, DocumentsAreCleanEnglish) {
  for (Split split : {Split::kTrain, Split::kHeldOut}) {
    for (std::uint64_t i = 0; i < kDocuments; ++i) {
      const Document document = make_document(kind(), 7, i, split);
      for (const std::string& text : careful_texts_of(document)) {
        ASSERT_FALSE(text.empty()) << whole(document);
        ASSERT_TRUE(std::ranges::all_of(text, [](char c) { return c == '\n' || (c >= ' ' && c <= '~'); })) << text;
        ASSERT_EQ(text.find("  "), std::string::npos) << text;
        ASSERT_EQ(text.find_first_of("{}@_"), std::string::npos) << text;
        ASSERT_EQ(text.find(" ,"), std::string::npos) << text;
        ASSERT_EQ(text.find(" ."), text.find(" ...")) << text;
        ASSERT_EQ(text.find(" \n"), std::string::npos) << text;
        for (std::string_view doubled : {"..\"", "?.", "!.", ",,", ".,", "?,\"", "?!", "!?"}) {
          ASSERT_EQ(text.find(doubled), std::string::npos) << doubled << " in: " << text;
        }
        ASSERT_EQ(std::ranges::count(text, '"') % 2, 0) << text;
        ASSERT_TRUE(!is_letter(text[0]) || std::isupper(static_cast<unsigned char>(text[0]))) << text;
      }
    }
  }
}

TEST_P(CorpusOfKind, NoWordTwiceAndArticlesFit) {
  static const std::set<std::string> kMayRepeat = {"that", "had"};
  static const std::set<std::string> kAfterName = {"and", "is", "of", "or", "in", "at", "as", "if"};  // "A is made ..."
  for (std::uint64_t i = 0; i < kDocuments; ++i) {
    const Document document = make_document(kind(), 8, i, Split::kTrain);
    for (const std::string& text : careful_texts_of(document)) {
      const auto words = words_of(text);
      for (std::size_t w = 1; w < words.size(); ++w) {
        if (words[w].second) continue;  // "Tom, Tom" is not a slip
        const std::string& before = words[w - 1].first;
        ASSERT_TRUE(before != words[w].first || kMayRepeat.contains(before)) << before << " twice in: " << text;
        if (before == "a" || before == "an" || (before == "A" && words[w - 1].second) || before == "An") {
          const std::string_view fitting = article_for(words[w].first);
          if (before == "A" && (words[w].first.size() < 2 || kAfterName.contains(words[w].first))) continue;
          ASSERT_EQ(before.size(), fitting.size()) << before << " " << words[w].first << " in: " << text;
        }
      }
    }
  }
}

TEST_P(CorpusOfKind, DependsOnSeedIndexKindAndSplitOnly) {
  for (std::uint64_t i = 0; i < 50; ++i) {
    const std::string once = whole(make_document(kind(), 3, i, Split::kTrain));
    EXPECT_EQ(once, whole(make_document(kind(), 3, i, Split::kTrain)));
  }
  const auto of = [&](std::uint64_t seed, std::uint64_t index, Split split) {
    return whole(make_document(kind(), seed, index, split));
  };
  std::set<std::string> distinct;
  for (std::uint64_t i = 0; i < 20; ++i)
    distinct.insert({of(1, i, Split::kTrain), of(2, i, Split::kTrain), of(1, i, Split::kHeldOut)});
  EXPECT_GT(distinct.size(), 50u);
}

// A text ends as a sentence does; an answer's last line may be the bold answer.
TEST_P(CorpusOfKind, TextsEnd) {
  for (std::uint64_t i = 0; i < kDocuments; ++i) {
    const Document document = make_document(kind(), 9, i, Split::kTrain);
    const std::string text = document.text.empty() ? document.messages.back().content : document.text;
    const std::string last_line = text.substr(text.rfind('\n') + 1);
    if (last_line.starts_with("Answer: ")) {
      EXPECT_TRUE(text.ends_with("**")) << text;
    } else if (kind() != Kind::kInstructions || last_line.size() < 3 || last_line[1] != '.') {  // "3. Pear" ends a list
      EXPECT_NE(std::string_view(".!?\"").find(text.back()), std::string_view::npos) << text;
    }
  }
}

// No held-out pattern or tuple of numbers is in training documents; every held-out document has one.
TEST_P(CorpusOfKind, SplitsShareNothingHeldOut) {
  std::set<std::uint64_t> held_out;
  for (const auto& [name, rule] : corpus_grammar().rules()) {
    for (const Alternative& alternative : rule.alternatives) {
      if (alternative.held_out) held_out.insert(pattern_id(name, alternative));
    }
  }
  const auto has_held_out = [&](const Document& document) {
    return std::ranges::any_of(document.patterns, [&](std::uint64_t id) { return held_out.contains(id); });
  };
  std::set<std::vector<std::int64_t>> seen;
  for (std::uint64_t i = 0; i < kDocuments; ++i) {
    const Document document = make_document(kind(), 11, i, Split::kTrain);
    ASSERT_FALSE(has_held_out(document)) << whole(document);
    for (const auto& numbers : document.numbers) {
      ASSERT_FALSE(numbers_held_out(numbers));
      seen.insert(numbers);
    }
  }
  for (std::uint64_t i = 0; i < kDocuments; ++i) {
    const Document document = make_document(kind(), 11, i, Split::kHeldOut);
    for (const auto& numbers : document.numbers) {
      ASSERT_TRUE(numbers_held_out(numbers));
      ASSERT_FALSE(seen.contains(numbers));
    }
    const bool problem = kind() == Kind::kProblems || kind() == Kind::kProblemsThinking;
    ASSERT_TRUE(has_held_out(document) || !document.numbers.empty()) << whole(document);
    ASSERT_TRUE(!problem || has_held_out(document) == (i % 2 == 1)) << whole(document);
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, CorpusOfKind, testing::Range(std::size_t{0}, std::size_t{8}), [](const auto& info) {
  std::string name(kind_names()[info.param]);
  std::ranges::replace(name, '-', '_');
  return name;
});

// The bytes themselves: what a seed gives may only change when somebody means it to. Renew after changing a grammar.
TEST(Corpus, TheSameBytesOnEveryMachine) {
  std::uint64_t hash = 0;
  for (Kind kind : all_kinds()) {
    for (std::uint64_t i = 0; i < 20; ++i) {
      for (Split split : {Split::kTrain, Split::kHeldOut})
        hash = mixed(hash ^ text_hash(whole(make_document(kind, 1, i, split))));
    }
  }
  EXPECT_EQ(hash, 8454200588969510198u);
}

TEST(Corpus, HeldOutSharesAreAsPromised) {
  std::size_t alternatives = 0, held_out = 0;
  for (const auto& [name, rule] : corpus_grammar().rules()) {
    if (!rule.is_split) continue;
    alternatives += rule.alternatives.size();
    held_out += static_cast<std::size_t>(std::ranges::count_if(rule.alternatives, &Alternative::held_out));
  }
  EXPECT_NEAR(static_cast<double>(held_out) / static_cast<double>(alternatives), 1.0 / 8, 0.03);
  int numbers = 0;
  for (std::int64_t a = 0; a < 100; ++a) {
    for (std::int64_t b = 0; b < 100; ++b) numbers += numbers_held_out(std::vector<std::int64_t>{a, b}) ? 1 : 0;
  }
  EXPECT_NEAR(numbers, 1000, 120);
}

TEST(Corpus, StoriesAreOfTheLengthAndNoTwoAreEqual) {
  std::set<std::string> stories, sentences;
  std::size_t num_sentences = 0;
  for (std::uint64_t i = 0; i < kDocuments; ++i) {
    const std::string text = make_document(Kind::kStories, 12, i, Split::kTrain).text;
    const auto words =
        static_cast<std::size_t>(std::ranges::count_if(text, [](char c) { return c == ' ' || c == '\n'; }));
    EXPECT_GE(words, 79u);
    EXPECT_LE(words, 260u);
    EXPECT_TRUE(stories.insert(text).second) << text;
    std::string sentence;
    for (char c : text) {
      sentence += c;
      if (c != '.' && c != '!' && c != '?') continue;
      sentences.insert(std::exchange(sentence, ""));
      ++num_sentences;
    }
  }
  EXPECT_GT(static_cast<double>(sentences.size()) / static_cast<double>(num_sentences), 0.6);
}

}  // namespace
}  // namespace qnext::corpus
