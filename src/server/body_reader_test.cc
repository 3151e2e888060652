#include "server/body_reader.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace qnext {
namespace {

using testing::HasSubstr;

std::string object_of(int num_items) {
  std::string out = R"({"list": [0)";
  for (int i = 0; i < 3000; ++i) out += ",0";
  out += "]";
  for (int i = 1; i < num_items; ++i) out += fmt::format(R"(,"{}": ",,,")", i);
  return out + "}";
}

TEST(ParseBody, SaysWhatIsWrong) {
  EXPECT_FALSE(parse_body(object_of(1024)).error);
  EXPECT_FALSE(parse_body(R"({"a": [1, "]]]]"]})").error);
  for (const auto& [text, says] : std::vector<std::pair<std::string, std::string>>{
           {"", "not JSON"},
           {"[1]", "must be a JSON object"},
           {"{\"a\": \"\xff\"}", "not JSON"},
           {"{\"a\": " + std::string(100'000, '[') + std::string(100'000, ']') + "}", "deeper than 64"},
           {std::string(1'000'000, '{'), "deeper than 64"},
           {object_of(1025), "more than 1024 items"},
           {"{\"a\": NaN}", "not JSON"},
           {"{\"a\": 1e999}", "not JSON"}}) {
    const ParsedBody body = parse_body(text);
    ASSERT_TRUE(body.error) << text.substr(0, 20);
    EXPECT_THAT(body.error->message, HasSubstr(says));
    EXPECT_EQ(body.error->status, 400u);
  }
}

TEST(BodyReader, ReadsEachFieldOnce) {
  const Json json = Json::parse(R"({"x": 0.5, "n": 3, "yes": true, "s": "t", "none": null, "user": {}})");
  BodyReader body(json);
  EXPECT_EQ(body.number("x", 0, 1), 0.5);
  EXPECT_EQ(body.integer("n", 1, 9), 3);
  EXPECT_EQ(body.flag("yes"), true);
  EXPECT_EQ(body.text("s"), "t");
  EXPECT_EQ(body.number("none", 0, 1), std::nullopt);
  EXPECT_EQ(body.integer("absent", 0, 1), std::nullopt);
  body.ignore({"user"});
  EXPECT_FALSE(body.finish());
}

TEST(BodyReader, TheFirstThingThatIsWrongIsNamed) {
  const auto error = [](const char* text, auto read) {
    const Json json = Json::parse(text);
    BodyReader body(json);
    read(body);
    return body.finish();
  };
  const auto number = [](BodyReader& body) { body.number("x", 0, 1); };
  const auto integer = [](BodyReader& body) { body.integer("x", -5, 5); };
  for (const char* text : {R"({"x": 2})", R"({"x": -0.1})", R"({"x": "1"})", R"({"x": [1]})"}) {
    const auto found = error(text, number);
    ASSERT_TRUE(found) << text;
    EXPECT_EQ(found->param, "x");
    EXPECT_THAT(found->message, HasSubstr("a number from 0 to 1"));
  }
  for (const char* text : {R"({"x": 6})", R"({"x": 1.5})", R"({"x": 18446744073709551615})", R"({"x": true})"}) {
    EXPECT_TRUE(error(text, integer)) << text;
  }
  EXPECT_EQ(error(R"({"y": 1})", number)->message, "Unknown parameter: 'y'.");
  const std::string long_text = "{\"x\": \"" + std::string(59, 'a') + "\xc3\xa4\xc3\xa4\"}";
  EXPECT_THAT(error(long_text.c_str(), number)->message, HasSubstr("aaa..."));  // not within a character
}

}  // namespace
}  // namespace qnext
