#include "engine/stop_text.h"

#include <gtest/gtest.h>

#include <random>

namespace qnext {
namespace {

struct Outcome {
  std::string text;
  bool stopped = false;
  friend bool operator==(const Outcome&, const Outcome&) = default;
};

void PrintTo(const Outcome& outcome, std::ostream* out) {
  *out << '"' << outcome.text << "\" " << (outcome.stopped ? "stopped" : "ran out");
}

// Feeds `text` in pieces that end at the set bits of `cuts`.
Outcome feed_cut(const std::vector<std::string>& stops, std::string_view text, std::uint32_t cuts) {
  StopText matcher(stops);
  Outcome out;
  std::size_t begin = 0;
  for (std::size_t end = 1; end <= text.size(); ++end) {
    if (end < text.size() && (cuts >> end & 1) == 0) continue;
    out.text += matcher.feed(text.substr(begin, end - begin));
    begin = end;
  }
  out.text += matcher.finish();
  out.stopped = matcher.stopped();
  return out;
}

// The rule itself: the first end of any stop string, of those the longest.
Outcome expected(const std::vector<std::string>& stops, const std::string& text) {
  for (std::size_t end = 1; end <= text.size(); ++end) {
    std::size_t longest = 0;
    for (const std::string& stop : stops) {
      if (std::string_view(text).substr(0, end).ends_with(stop)) longest = std::max(longest, stop.size());
    }
    if (longest > 0) return {text.substr(0, end - longest), true};
  }
  return {text, false};
}

TEST(StopText, HoldsBackAPartialMatchAndReleasesIt) {
  StopText matcher({"</end>"});
  EXPECT_EQ(matcher.feed("hello </"), "hello ");
  EXPECT_EQ(matcher.feed("en"), "");
  EXPECT_EQ(matcher.feed("t>"), "</ent>");
  EXPECT_EQ(matcher.feed("<"), "");
  EXPECT_EQ(matcher.finish(), "<");
  EXPECT_FALSE(matcher.stopped());
}

TEST(StopText, SwallowsEverythingAfterTheStop) {
  StopText matcher({"STOP"});
  EXPECT_EQ(matcher.feed("a ST"), "a ");
  EXPECT_EQ(matcher.feed("OP b"), "");
  EXPECT_TRUE(matcher.stopped());
  EXPECT_EQ(matcher.feed("more"), "");
  EXPECT_EQ(matcher.finish(), "");
}

TEST(StopText, WithoutStopsTextPasses) {
  StopText none({});
  EXPECT_EQ(none.feed("abc"), "abc");
  StopText empty({""});
  EXPECT_EQ(empty.feed("abc"), "abc");
  EXPECT_FALSE(empty.stopped());
}

TEST(StopText, BytesOfHalfACharacterAreHeldLikeAnyOther) {
  StopText matcher({"\xE2\x82\xAC"});
  EXPECT_EQ(matcher.feed("a\xE2\x82"), "a");
  EXPECT_EQ(matcher.feed("\xAC"), "");
  EXPECT_TRUE(matcher.stopped());
}

// Texts over two letters, where stop strings overlap themselves and each other, cut in every way.
TEST(StopText, NeverDependsOnTheCuts) {
  std::mt19937 random(1);
  const auto random_text = [&](std::size_t num_bytes) {
    std::string out;
    for (std::size_t i = 0; i < num_bytes; ++i) out += static_cast<char>('a' + random() % 2);
    return out;
  };
  for (int round = 0; round < 300; ++round) {
    std::vector<std::string> stops;
    for (std::size_t i = 0; i <= random() % 3; ++i) stops.push_back(random_text(1 + random() % 6));
    const std::string text = random_text(1 + random() % 9);
    const Outcome want = expected(stops, text);
    for (std::uint32_t cuts = 0; cuts < (1u << text.size()); ++cuts) {
      ASSERT_EQ(feed_cut(stops, text, cuts), want) << text << " cut at " << cuts;
    }
  }
}

// What may still become a stop string is held back, and nothing else: text comes as early as it can.
TEST(StopText, HoldsBackNoMoreThanItMust) {
  const std::vector<std::string> stops = {"abab", "ba", "aaab"};
  std::mt19937 random(2);
  for (int round = 0; round < 300; ++round) {
    StopText matcher(stops);
    std::string text;
    std::string passed;
    for (int i = 0; i < 20 && !matcher.stopped(); ++i) {
      const std::string piece(1, "abc"[random() % 3]);
      text += piece;
      passed += matcher.feed(piece);
      if (matcher.stopped()) break;
      std::size_t num_held = 0;
      for (const std::string& stop : stops) {
        for (std::size_t num_bytes = 1; num_bytes < stop.size(); ++num_bytes) {
          if (text.ends_with(stop.substr(0, num_bytes))) num_held = std::max(num_held, num_bytes);
        }
      }
      ASSERT_EQ(passed, text.substr(0, text.size() - num_held)) << text;
    }
    ASSERT_EQ(passed + matcher.finish(), expected(stops, text).text) << text;
  }
}

}  // namespace
}  // namespace qnext
