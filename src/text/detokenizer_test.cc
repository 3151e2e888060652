#include "text/detokenizer.h"

#include <gtest/gtest.h>

#include <random>

#include "text/test_data.h"

namespace qnext {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

bool ends_inside_character(const std::string& text) {
  const std::size_t first = text.find_last_not_of(
      "\x80\x81\x82\x83\x84\x85\x86\x87\x88\x89\x8A\x8B\x8C\x8D\x8E\x8F"
      "\x90\x91\x92\x93\x94\x95\x96\x97\x98\x99\x9A\x9B\x9C\x9D\x9E\x9F"
      "\xA0\xA1\xA2\xA3\xA4\xA5\xA6\xA7\xA8\xA9\xAA\xAB\xAC\xAD\xAE\xAF"
      "\xB0\xB1\xB2\xB3\xB4\xB5\xB6\xB7\xB8\xB9\xBA\xBB\xBC\xBD\xBE\xBF");
  if (first == std::string::npos) return !text.empty();
  const auto lead = static_cast<unsigned char>(text[first]);
  const std::size_t num_bytes = lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  return text.size() - first != num_bytes;
}

// The pieces, cut at random, are together decode() of all ids, and none ends inside of a character.
void expect_pieces(const Tokenizer& tokenizer, const std::vector<TokenId>& ids, bool skip_special,
                   std::mt19937& random) {
  Detokenizer detokenizer(tokenizer, skip_special);
  std::string text;
  for (std::size_t begin = 0; begin < ids.size();) {
    const std::size_t count = std::min<std::size_t>(random() % 4, ids.size() - begin);
    const std::string piece = detokenizer.feed(std::span(ids).subspan(begin, count));
    EXPECT_FALSE(ends_inside_character(piece)) << piece;
    text += piece;
    begin += count;
  }
  text += detokenizer.finish();
  EXPECT_EQ(text, *tokenizer.decode(ids, skip_special));
}

TEST(Detokenizer, PiecesOfEveryGoldenTextAreItsText) {
  std::mt19937 random(1);
  const Tokenizer tokenizer = small_tokenizer();
  const nlohmann::json cases = read_json("tokenize.json")["small"];
  ASSERT_EQ(cases.size(), 200u);
  for (const nlohmann::json& c : cases) {
    expect_pieces(tokenizer, c["ids"], /*skip_special=*/false, random);
    expect_pieces(tokenizer, c["ids"], /*skip_special=*/true, random);
  }
}

TEST(Detokenizer, PiecesOfRandomIdsAreTheirText) {
  std::mt19937 random(2);
  const Tokenizer tokenizer = small_tokenizer();
  for (int round = 0; round < 3000; ++round) {
    std::vector<TokenId> ids(random() % 40);
    // Half of the rounds only from the 256 single bytes, which make broken characters of every kind.
    for (TokenId& id : ids) id = static_cast<TokenId>(random() % (round % 2 == 0 ? 256 : 2060));
    expect_pieces(tokenizer, ids, /*skip_special=*/round % 3 == 0, random);
  }
}

TEST(Detokenizer, WaitsForTheRestOfACharacter) {
  const Tokenizer tokenizer = small_tokenizer();
  const std::vector<TokenId> ids = *tokenizer.encode("a😀");
  Detokenizer detokenizer(tokenizer);
  EXPECT_EQ(detokenizer.feed(ids[0]), "a");
  std::string last;
  for (std::size_t idx = 1; idx < ids.size(); ++idx) {
    EXPECT_EQ(last, "");
    last = detokenizer.feed(ids[idx]);
  }
  EXPECT_EQ(last, "😀");
  EXPECT_EQ(detokenizer.finish(), "");
  detokenizer.feed(ids[1]);
  EXPECT_EQ(detokenizer.finish(), kReplacement);
  EXPECT_EQ(detokenizer.finish(), "");
}

// Expected: Python's bytes.decode("utf-8", "replace"), which substitutes maximal subparts as Rust does.
TEST(Utf8Repair, ReplacesMaximalSubparts) {
  const auto repaired = [](std::string_view bytes) {
    std::string text;
    Utf8Repair repair;
    repair.append(text, bytes);
    repair.finish(text);
    return text;
  };
  const std::string r(kReplacement);
  EXPECT_EQ(repaired("ab\xC3\xA9"), "ab\xC3\xA9");
  EXPECT_EQ(repaired("\xFF\xFE"), r + r);
  EXPECT_EQ(repaired("\xC0\x80"), r + r);
  EXPECT_EQ(repaired("\xE2\x82z"), r + "z");
  EXPECT_EQ(repaired("\xE2\x82\xE2\x82\xAC"), r + "\xE2\x82\xAC");
  EXPECT_EQ(repaired("\xED\xA0\x80"), r + r + r);
  EXPECT_EQ(repaired("\xF0\x9F\x98"), r);
  EXPECT_EQ(repaired("\xF0\x80\x80"), r + r + r);
  EXPECT_EQ(repaired("\xF4\x90\x80\x80"), r + r + r + r);
  EXPECT_EQ(repaired("\xF4\x8F\xBF\xBF"), "\xF4\x8F\xBF\xBF");
  EXPECT_EQ(repaired("\xE0\x9F"), r + r);
}

}  // namespace
}  // namespace qnext
