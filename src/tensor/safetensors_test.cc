#include "tensor/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>

#include "tensor/file_test_util.h"

namespace qnext {
namespace {

using test::as_bytes;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

std::string file_of(std::string_view header, std::size_t data_bytes) {
  return test::u64(header.size()) + std::string(header) + std::string(data_bytes, '\1');
}

Result<Safetensors> parse(const std::string& file) {
  return Safetensors::parse(as_bytes(file), "x.safetensors");
}

TEST(Safetensors, ReadsEveryType) {
  const std::string file = file_of(
      R"({"__metadata__":{"format":"pt","k":"v"},)"
      R"("d":{"dtype":"F8_E4M3","shape":[3],"data_offsets":[24,27]},"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},)"
      R"("b":{"dtype":"F16","shape":[1],"data_offsets":[16,18]},"c":{"dtype":"BF16","shape":[3,1,1],"data_offsets":[18,24]},)"
      R"("e":{"dtype":"I32","shape":[],"data_offsets":[27,31]},"f":{"dtype":"I64","shape":[1],"data_offsets":[31,39]},)"
      R"("g":{"dtype":"U8","shape":[0,5],"data_offsets":[39,39]},"h":{"dtype":"U8","shape":[1],"data_offsets":[39,40]}}   )",
      40);
  const auto checkpoint = parse(file);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.message();
  EXPECT_THAT(checkpoint->metadata(), ElementsAre(Pair("format", "pt"), Pair("k", "v")));
  ASSERT_EQ(checkpoint->tensors().size(), 8U);
  std::string order;
  for (const TensorEntry& entry : checkpoint->tensors()) order += entry.name;
  EXPECT_EQ(order, "abcdefgh");
  const TensorEntry* c = checkpoint->find("c");
  ASSERT_NE(c, nullptr);
  EXPECT_EQ(c->type, DType::kBF16);
  EXPECT_THAT(c->shape, ElementsAre(3, 1, 1));
  EXPECT_EQ(c->bytes, 6U);
  EXPECT_EQ(c->data, as_bytes(file).data() + file.size() - 40 + 18);
  EXPECT_EQ(checkpoint->find("e")->shape.size(), 0U);
  EXPECT_EQ(checkpoint->find("e")->bytes, 4U);
  EXPECT_EQ(checkpoint->find("nothing"), nullptr);
}

TEST(Safetensors, AFileWithoutTensors) {
  EXPECT_TRUE(parse(file_of("{}", 0)).ok());
  EXPECT_FALSE(parse(file_of("{}", 1)).ok());
}

TEST(Safetensors, EscapedNames) {
  const auto checkpoint = parse(file_of(R"({"a\u00e4\"":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1));
  ASSERT_TRUE(checkpoint.ok());
  EXPECT_NE(checkpoint->find("aä\""), nullptr);
}

struct BadHeader {
  std::string rule;
  std::string header;
  std::size_t data_bytes;
  std::string complaint;
};

class BadSafetensors : public ::testing::TestWithParam<BadHeader> {};

TEST_P(BadSafetensors, IsRefused) {
  const auto checkpoint = parse(file_of(GetParam().header, GetParam().data_bytes));
  ASSERT_FALSE(checkpoint.ok());
  EXPECT_THAT(checkpoint.message(), AllOf(HasSubstr("x.safetensors"), HasSubstr(GetParam().complaint)));
}

std::string tensor(std::string_view shape, std::string_view offsets, std::string_view dtype = "U8",
                   std::string_view name = "t") {
  return fmt::format(R"("{}":{{"dtype":"{}","shape":{},"data_offsets":{}}})", name, dtype, shape, offsets);
}
std::string one(std::string_view shape, std::string_view offsets, std::string_view dtype = "U8") {
  return "{" + tensor(shape, offsets, dtype) + "}";
}

INSTANTIATE_TEST_SUITE_P(
    Rules, BadSafetensors,
    ::testing::Values(
        BadHeader{"Type", one("[1]", "[0,8]", "F64"), 8, "tensor 't': expected dtype F32, F16"},
        BadHeader{"TypeOfBlocks", one("[32]", "[0,18]", ""), 18, "found ''"},
        BadHeader{"Size", one("[3]", "[0,8]", "F32"), 8,
                  "shape [3] of F32 has 12 bytes, but data_offsets [0, 8] span 8"},
        BadHeader{"Begin", one("[1]", "[2,1]"), 2, "expected begin <= end <= 2"},
        BadHeader{"End", one("[9]", "[0,9]"), 8, "found [0, 9]"},
        BadHeader{"HugeEnd", one("[1]", "[18446744073709551615,18446744073709551615]"), 8,
                  "expected begin <= end <= 8"},
        BadHeader{"Overflow", one("[4294967296,4294967296]", "[0,0]"), 0, "more bytes than can be counted"},
        BadHeader{"OverflowOfNumber", one("[99999999999999999999]", "[0,1]"), 1, "whole numbers"},
        BadHeader{"Negative", one("[-1]", "[0,1]"), 1, "whole numbers, found the negative number -1"},
        BadHeader{"Fraction", one("[1.0]", "[0,1]"), 1, "whole numbers"},
        BadHeader{"ThreeOffsets", one("[1]", "[0,1,1]"), 1, "expected [begin, end], found 3"},
        BadHeader{"Rank", one("[1,1,1,1,1,1,1,1,1]", "[0,1]"), 1, "at most 8"},
        BadHeader{"Overlap", "{" + tensor("[2]", "[0,2]", "U8", "a") + "," + tensor("[2]", "[1,3]", "U8", "b") + "}", 3,
                  "tensor 'b' begins at byte 1 of the data, but 'a' before it ends at 2"},
        BadHeader{"Hole", "{" + tensor("[1]", "[0,1]", "U8", "a") + "," + tensor("[1]", "[2,3]", "U8", "b") + "}", 3,
                  "hole"},
        BadHeader{"HoleAtBegin", one("[1]", "[1,2]"), 2, "'(start)'"},
        BadHeader{"BytesBehind", one("[1]", "[0,1]"), 2, "nothing behind the last tensor"},
        BadHeader{"SameName", "{" + tensor("[1]", "[0,1]") + "," + tensor("[1]", "[1,2]") + "}", 2,
                  "'t' is there twice"},
        BadHeader{"SameField", R"({"t":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1,
                  "found a second"},
        BadHeader{"SameShape", R"({"t":{"dtype":"U8","shape":[1],"shape":[1],"data_offsets":[0,1]}})", 1,
                  "found a second"},
        BadHeader{"NoShape", R"({"t":{"dtype":"U8","data_offsets":[0,1]}})", 1, "found no shape"},
        BadHeader{"NoType", R"({"t":{"shape":[1],"data_offsets":[0,1]}})", 1, "found no dtype"},
        BadHeader{"NoOffsets", R"({"t":{"dtype":"U8","shape":[1]}})", 1, "found no data_offsets"},
        BadHeader{"OtherField", R"({"t":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":1}})", 1, "the field 'x'"},
        BadHeader{"TensorIsText", R"({"t":"U8"})", 1, "tensor 't': expected an object, found the text 'U8'"},
        BadHeader{"TypeIsNumber", R"({"t":{"dtype":5}})", 1, "dtype: expected one text, found the number 5"},
        BadHeader{"ShapeIsNumber", R"({"t":{"shape":5}})", 1, "shape: expected one array"},
        BadHeader{"ShapeIsNested", R"({"t":{"shape":[[1]]}})", 1, "found an array"},
        BadHeader{"ShapeHasObject", R"({"t":{"shape":[{}]}})", 1, "found an object"},
        BadHeader{"MetadataIsNumber", R"({"__metadata__":{"a":1}})", 0, "__metadata__ 'a': expected one text"},
        BadHeader{"MetadataIsText", R"({"__metadata__":"a"})", 0, "__metadata__: expected one object"},
        BadHeader{"MetadataTwice", R"({"__metadata__":{},"__metadata__":{}})", 0, "a second one"},
        BadHeader{"MetadataKeyTwice", R"({"__metadata__":{"a":"1","a":"2"}})", 0,
                  "'a': expected one text, found it again"},
        BadHeader{"Null", R"({"t":null})", 0, "found null"}, BadHeader{"Bool", R"({"t":true})", 0, "found a boolean"},
        BadHeader{"Array", "[]", 0, "beginning with '{'"}, BadHeader{"Blank", " {}", 0, "beginning with '{'"},
        BadHeader{"Empty", "", 0, "beginning with '{'"}, BadHeader{"CutOff", R"({"t":)", 0, "not valid JSON at byte"},
        BadHeader{"Behind", "{}x", 0, "not valid JSON at byte 3"},
        BadHeader{"Zeros", std::string("{}\0", 3), 0, "not valid JSON"},
        BadHeader{"NotUtf8", "{\"\xff\":{}}", 0, "not valid JSON"},
        BadHeader{"Control", "{\"a\n\":{}}", 0, "not valid JSON"}),
    [](const auto& info) { return info.param.rule; });

TEST(SafetensorsBytes, AreBoundedBeforeTheyAreRead) {
  EXPECT_THAT(parse("").message(), HasSubstr("found only 0 bytes"));
  EXPECT_THAT(parse("1234567").message(), HasSubstr("found only 7 bytes"));
  EXPECT_THAT(parse(test::u64(0)).message(), HasSubstr("beginning with"));
  EXPECT_THAT(parse(test::u64(3) + "{}").message(), HasSubstr("expected at most 2 bytes, found 3"));
  EXPECT_THAT(parse(test::u64(UINT64_MAX) + "{}").message(), HasSubstr("expected at most 2 bytes"));
}

TEST(SafetensorsBytes, DeepJsonIsRefusedWithoutRecursion) {
  const std::string deep(10'000'000, '[');
  EXPECT_THAT(parse(file_of(R"({"t":{"shape":)" + deep, 0)).message(), HasSubstr("found an array"));
  std::string objects = "{";
  for (int i = 0; i < 1'000'000; ++i) objects += R"("a":{)";
  EXPECT_FALSE(parse(file_of(objects, 0)).ok());
}

TEST(SafetensorsBytes, MessagesStayShort) {
  const std::string name(5'000'000, 'n');
  const auto checkpoint =
      parse(file_of("{\"" + name + "\":{\"dtype\":\"" + name + "\",\"shape\":[],\"data_offsets\":[0,0]}}", 0));
  ASSERT_FALSE(checkpoint.ok());
  EXPECT_LT(checkpoint.message().size(), 2000U);
}

// Every prefix of a good file is refused: nothing is read past the end, and no cut goes unnoticed.
TEST(SafetensorsBytes, EveryPrefixIsRefused) {
  const std::string file = file_of("{" + tensor("[2,2]", "[0,16]", "F32") + "}", 16);
  ASSERT_TRUE(parse(file).ok());
  for (std::size_t bytes = 0; bytes < file.size(); ++bytes) {
    const std::string prefix = file.substr(0, bytes);  // a copy: its end is the allocation's, for the sanitizer
    EXPECT_FALSE(parse(prefix).ok()) << bytes;
  }
}

}  // namespace
}  // namespace qnext
