// Checkpoints on disk: folders, shards and their index.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "tensor/file_test_util.h"
#include "tensor/safetensors.h"

namespace qnext {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr const char* kIndex = "model.safetensors.index.json";

// A file with U8 tensors of one byte each, which is the last letter of its name.
std::string shard(const std::vector<std::string>& names) {
  std::string header = "{";
  std::string data;
  for (const std::string& name : names) {
    header += fmt::format(R"({}"{}":{{"dtype":"U8","shape":[1],"data_offsets":[{},{}]}})", data.empty() ? "" : ",",
                          name, data.size(), data.size() + 1);
    data += name.back();
  }
  header += "}";
  return test::u64(header.size()) + header + data;
}

TEST(SafetensorsFolder, OneFile) {
  const test::TempFolder folder;
  const auto path = folder.write("model.safetensors", shard({"a", "b"}));
  for (const auto& opened : {path, folder.path()}) {
    const auto checkpoint = Safetensors::open(opened);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.message();
    EXPECT_EQ(*checkpoint->find("b")->data, std::byte{'b'});
    EXPECT_EQ(checkpoint->file_names().front(), path.string());
    EXPECT_EQ(checkpoint->files().size(), 1U);
  }
}

TEST(SafetensorsFolder, Shards) {
  const test::TempFolder folder;
  folder.write("one.safetensors", shard({"a", "c"}));
  folder.write("two.safetensors", shard({"b"}));
  folder.write("model.safetensors", "not looked at");
  folder.write(kIndex, R"({"metadata":{"total_size":3,"x":[null,true,-1,1.5,{"y":[]}]},"z":"w",
                           "weight_map":{"a":"one.safetensors","b":"two.safetensors","c":"one.safetensors"}})");
  auto opened = Safetensors::open(folder.path());
  ASSERT_TRUE(opened.ok()) << opened.message();
  const Safetensors checkpoint = std::move(*opened);  // entries stay where they are
  ASSERT_EQ(checkpoint.tensors().size(), 3U);
  for (const char* name : {"a", "b", "c"}) EXPECT_EQ(static_cast<char>(*checkpoint.find(name)->data), *name);
  EXPECT_EQ(checkpoint.find("c")->file_idx, 0U);
  EXPECT_EQ(checkpoint.find("b")->file_idx, 1U);
}

TEST(SafetensorsFolder, SaysWhatIsMissing) {
  const test::TempFolder folder;
  EXPECT_THAT(Safetensors::open(folder.path()).message(),
              AllOf(HasSubstr(folder.path().string()), HasSubstr("neither")));
  EXPECT_THAT(Safetensors::open(folder.path() / "x.safetensors").message(), HasSubstr("No such file"));
  folder.write(kIndex, R"({"weight_map":{"a":"one.safetensors"}})");
  EXPECT_THAT(Safetensors::open(folder.path()).message(),
              AllOf(HasSubstr("one.safetensors"), HasSubstr("No such file")));
}

TEST(SafetensorsFolder, IndexAndShardsMustAgree) {
  const test::TempFolder folder;
  folder.write("one.safetensors", shard({"a"}));
  folder.write("two.safetensors", shard({"b"}));
  folder.write(kIndex, R"({"weight_map":{"a":"one.safetensors","lost":"one.safetensors"}})");
  EXPECT_THAT(Safetensors::open(folder.path()).message(),
              AllOf(HasSubstr(kIndex), HasSubstr("tensor 'lost': expected in one.safetensors, found in no shard")));
  folder.write(kIndex, R"({"weight_map":{"a":"one.safetensors","b":"one.safetensors"}})");
  EXPECT_THAT(Safetensors::open(folder.path()).message(), HasSubstr("found in no shard"));
  folder.write(kIndex, R"({"weight_map":{"a":"two.safetensors","b":"one.safetensors"}})");
  EXPECT_THAT(Safetensors::open(folder.path()).message(),
              AllOf(HasSubstr("tensor 'a': expected in two.safetensors"), HasSubstr("one.safetensors; ")));
}

TEST(SafetensorsFolder, TensorInTwoShards) {
  const test::TempFolder folder;
  folder.write("one.safetensors", shard({"a", "b"}));
  folder.write("two.safetensors", shard({"b"}));
  folder.write(kIndex, R"({"weight_map":{"a":"one.safetensors","b":"two.safetensors"}})");
  EXPECT_THAT(Safetensors::open(folder.path()).message(),
              AllOf(HasSubstr("'b' is there twice"), HasSubstr("one.safetensors"), HasSubstr("two.safetensors")));
}

TEST(SafetensorsFolder, ShardsLieBesideTheIndex) {
  const test::TempFolder folder;
  for (const char* name : {"../x", "/etc/passwd", "a/b", "..", ".", "", "a\\\\b", "a\\u0000b"}) {
    folder.write(kIndex, fmt::format(R"({{"weight_map":{{"a":"{}"}}}})", name));
    EXPECT_THAT(Safetensors::open(folder.path()).message(), HasSubstr("in the same folder")) << name;
  }
}

TEST(SafetensorsFolder, BadIndex) {
  const test::TempFolder folder;
  const std::pair<std::string, std::string> cases[] = {
      {"{", "not valid JSON"},
      {"[]", "expected an object"},
      {R"("weight_map")", "expected an object"},
      {"{}", "weight_map, found none"},
      {R"({"weight_map":[]})", "weight_map, found none"},
      {R"({"x":{"weight_map":{}}})", "weight_map, found none"},
      {R"({"weight_map":{},"weight_map":{}})", "second"},
      {R"({"weight_map":{"a":"x","a":"y"}})", "weight_map 'a': expected one file name, found it again"},
      {R"({"weight_map":{"a":1}})", "found the number 1"},
      {R"({"weight_map":{"a":["x"]}})", "found an array"},
      {R"({"weight_map":{"a":{}}})", "found an object"},
      {R"({"weight_map":{"a":null}})", "found null"},
      {R"({"x":)" + std::string(1'000'000, '['), "deeper nesting"},
      {R"({"weight_map":{"a":"x"}} x)", "not valid JSON"},
  };
  for (const auto& [text, complaint] : cases) {
    folder.write(kIndex, text);
    const auto checkpoint = Safetensors::open(folder.path());
    ASSERT_FALSE(checkpoint.ok()) << text;
    EXPECT_THAT(checkpoint.message(), AllOf(HasSubstr(kIndex), HasSubstr(complaint)));
  }
}

}  // namespace
}  // namespace qnext
