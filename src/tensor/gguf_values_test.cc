// Metadata: the getters, their conversions and their complaints.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>

#include "tensor/gguf.h"
#include "tensor/gguf_test_file.h"

namespace qnext {
namespace {

using test::gguf_array;
using test::gguf_scalar;
using test::gguf_string;
using test::GgufTestFile;
using test::le;
using test::u32;
using test::u64;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class GgufValues : public ::testing::Test {
 protected:
  static std::string make_bytes() {
    GgufTestFile file;
    file.kv("u8", gguf_scalar(GgufType::kU8, le<std::uint8_t>(200)))
        .kv("i8", gguf_scalar(GgufType::kI8, le<std::int8_t>(-5)));
    file.kv("u16", gguf_scalar(GgufType::kU16, le<std::uint16_t>(60000)));
    file.kv("i16", gguf_scalar(GgufType::kI16, le<std::int16_t>(30000)));
    file.kv_u32("u32", 4'000'000'000).kv("i32", gguf_scalar(GgufType::kI32, le<std::int32_t>(7)));
    file.kv("u64", gguf_scalar(GgufType::kU64, u64(UINT64_MAX)))
        .kv("i64", gguf_scalar(GgufType::kI64, le<std::int64_t>(9)));
    file.kv("f32", gguf_scalar(GgufType::kF32, le(1.5F))).kv("f64", gguf_scalar(GgufType::kF64, le(0.1)));
    file.kv("yes", gguf_scalar(GgufType::kBool, le<std::uint8_t>(1)))
        .kv("no", gguf_scalar(GgufType::kBool, le<std::uint8_t>(0)));
    file.kv("text", gguf_scalar(GgufType::kString, gguf_string("qwen\nnext")))
        .kv("empty", gguf_scalar(GgufType::kString, u64(0)));
    file.kv("texts", gguf_array(GgufType::kString, 3, gguf_string("a") + gguf_string("") + gguf_string("ccc")));
    file.kv("u32s", gguf_array(GgufType::kU32, 2, u32(1) + u32(3'000'000'000)));
    file.kv("i32s", gguf_array(GgufType::kI32, 2, le(-1) + le(2)));
    file.kv("f32s", gguf_array(GgufType::kF32, 2, le(0.5F) + le(-2.0F)));
    file.kv("bools", gguf_array(GgufType::kBool, 3, std::string("\1\0\1", 3)));
    file.kv("none", gguf_array(GgufType::kI64, 0, ""));
    file.kv("nested", gguf_array(GgufType::kArray, 2, u32(4) + u64(1) + u32(7) + u32(8) + u64(1) + gguf_string("x")));
    return file.bytes();
  }
  static Gguf make_gguf(const std::string& bytes) {
    auto gguf = Gguf::parse(test::as_bytes(bytes), "x.gguf");
    QN_CHECK(gguf.ok(), "{}", gguf.message());
    return std::move(*gguf);
  }

  const std::string bytes_ = make_bytes();
  const Gguf gguf_ = make_gguf(bytes_);
};

TEST_F(GgufValues, Scalars) {
  EXPECT_EQ(*gguf_.get_u32("u32"), 4'000'000'000U);
  EXPECT_EQ(*gguf_.get_u64("u64"), UINT64_MAX);
  EXPECT_EQ(*gguf_.get_f32("f32"), 1.5F);
  EXPECT_EQ(*gguf_.get_f32("f64"), 0.1F);
  EXPECT_EQ(*gguf_.get_bool("yes"), true);
  EXPECT_EQ(*gguf_.get_bool("no"), false);
  EXPECT_EQ(*gguf_.get_string("text"), "qwen\nnext");
  EXPECT_EQ(*gguf_.get_string("empty"), "");
}

TEST_F(GgufValues, AnyIntegerTypeThatFits) {
  EXPECT_EQ(*gguf_.get_u32("u8"), 200U);
  EXPECT_EQ(*gguf_.get_u32("u16"), 60000U);
  EXPECT_EQ(*gguf_.get_u32("i16"), 30000U);
  EXPECT_EQ(*gguf_.get_u32("i32"), 7U);
  EXPECT_EQ(*gguf_.get_u64("i64"), 9U);
  EXPECT_EQ(*gguf_.get_u64("u32"), 4'000'000'000U);
}

TEST_F(GgufValues, Arrays) {
  EXPECT_THAT(*gguf_.get_strings("texts"), ElementsAre("a", "", "ccc"));
  EXPECT_THAT(*gguf_.get_u32s("u32s"), ElementsAre(1U, 3'000'000'000U));
  EXPECT_THAT(*gguf_.get_i32s("i32s"), ElementsAre(-1, 2));
  EXPECT_THAT(*gguf_.get_f32s("f32s"), ElementsAre(0.5F, -2.0F));
  EXPECT_THAT(*gguf_.get_bools("bools"), ElementsAre(true, false, true));
  EXPECT_THAT(*gguf_.get_i32s("none"), ElementsAre());
}

TEST_F(GgufValues, StringsAreViewsIntoTheFile) {
  const auto strings = gguf_.get_strings("texts");
  EXPECT_GE(strings->at(2).data(), bytes_.data());
  EXPECT_LT(strings->at(2).data(), bytes_.data() + bytes_.size());
}

TEST_F(GgufValues, NestedArraysAreKeptButNotConverted) {
  const GgufValue* nested = gguf_.find("nested");
  ASSERT_NE(nested, nullptr);
  EXPECT_EQ(nested->element_type, GgufType::kArray);
  EXPECT_EQ(nested->num_elements, 2U);
  EXPECT_THAT(gguf_.get_u32s("nested").message(), HasSubstr("found array of 2 array"));
  EXPECT_FALSE(gguf_.get_strings("nested").ok());
}

TEST_F(GgufValues, SaysExpectedAndFound) {
  EXPECT_EQ(gguf_.get_u32("absent").message(), "x.gguf: key 'absent': expected u32, found no such key");
  EXPECT_EQ(gguf_.get_u32("i8").message(), "x.gguf: key 'i8': expected u32, found i8 -5");
  EXPECT_EQ(gguf_.get_u32("u64").message(), "x.gguf: key 'u64': expected u32, found u64 18446744073709551615");
  EXPECT_EQ(gguf_.get_f32("u32").message(), "x.gguf: key 'u32': expected f32, found u32 4000000000");
  EXPECT_EQ(gguf_.get_bool("u8").message(), "x.gguf: key 'u8': expected bool, found u8 200");
  EXPECT_EQ(gguf_.get_u32("text").message(), "x.gguf: key 'text': expected u32, found string 'qwen\\x0anext'");
  EXPECT_EQ(gguf_.get_string("yes").message(), "x.gguf: key 'yes': expected a string, found bool true");
  EXPECT_EQ(gguf_.get_u32("u32s").message(), "x.gguf: key 'u32s': expected u32, found array of 2 u32");
  EXPECT_EQ(gguf_.get_string("texts").message(), "x.gguf: key 'texts': expected a string, found array of 3 string");
  EXPECT_THAT(gguf_.get_u32s("i32s").message(), HasSubstr("expected an array of u32, found array of 2 i32"));
  EXPECT_THAT(gguf_.get_i32s("u32s").message(), HasSubstr("element 1 does not fit"));
  EXPECT_THAT(gguf_.get_f32s("u32").message(), HasSubstr("expected an array of f32, found u32 4000000000"));
  EXPECT_THAT(gguf_.get_bools("absent").message(), HasSubstr("expected an array of bool, found no such key"));
  EXPECT_THAT(gguf_.get_strings("f32s").message(), HasSubstr("expected an array of strings, found array of 2 f32"));
}

TEST_F(GgufValues, EveryKindHasAText) {
  std::string all;
  for (const GgufKv& kv : gguf_.metadata()) all += fmt::format("{}={};", kv.key, gguf_value_text(kv.value));
  EXPECT_EQ(all,
            "u8=u8 200;i8=i8 -5;u16=u16 60000;i16=i16 30000;u32=u32 4000000000;i32=i32 7;u64=u64 18446744073709551615;"
            "i64=i64 9;f32=f32 1.5;f64=f64 0.1;yes=bool true;no=bool false;text=string 'qwen\\x0anext';empty=string '';"
            "texts=array of 3 string;u32s=array of 2 u32;i32s=array of 2 i32;f32s=array of 2 f32;bools=array of 3 bool;"
            "none=array of 0 i64;nested=array of 2 array;");
}

}  // namespace
}  // namespace qnext
