// Kept prefixes through a file: what comes back, what is refused, and that nothing is lost on the way.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "engine/engine_test_support.h"
#include "tensor/file_test_util.h"

namespace qnext::test {
namespace {

class PrefixFileTest : public ::testing::Test {
 protected:
  PrefixFileTest() : tiny_("next-tiny"), path_(folder_.path() / "kept") {}

  std::unique_ptr<Engine> open(EngineConfig config = {}) {
    config.num_kept_prefixes = config.num_kept_prefixes == 0 ? 12 : config.num_kept_prefixes;
    config.context_tokens = 2048;
    if (!config.num_pages) config.num_pages = 100;
    return tiny_.make_engine(config);
  }

  static Answer run(Engine& engine, const Request& request) {
    const std::uint32_t id = submit(engine, request).value;
    Answers answers;
    while (!engine.idle()) step_into(answers, engine);
    return answers[id];
  }

  // Four talks, two of which begin alike; returns the first with its answer.
  std::vector<TokenId> fill(Engine& engine) {
    std::vector<TokenId> first;
    for (std::size_t variant : {0UL, 1UL, 2UL}) {
      std::vector<TokenId> talk = tiny_.prompt(700, variant);
      const Answer answer = run(engine, greedy_request(talk, 9));
      talk.insert(talk.end(), answer.tokens.begin(), answer.tokens.end());
      if (variant == 0) first = talk;
    }
    std::vector<TokenId> branch = tiny_.prompt(600, 0);
    branch.push_back(3);
    run(engine, greedy_request(branch, 4));
    return first;
  }

  void save(const Engine& engine) {
    const auto saved = engine.save_prefixes(path_);
    ASSERT_TRUE(saved.ok()) << saved.message();
    EXPECT_EQ(saved->num_prefixes, engine.prefix_cache().num_prefixes());
  }

  void expect_refused(const EngineConfig& config, const std::string& why) {
    const auto engine = open(config);
    const auto restored = engine->restore_prefixes(path_);
    ASSERT_FALSE(restored.ok());
    EXPECT_THAT(restored.message(), ::testing::HasSubstr(why));
    EXPECT_EQ(engine->prefix_cache().num_prefixes(), 0U);
    engine->check_integrity();
  }

  qnext::test::TempFolder folder_;
  TinyModel tiny_;
  std::filesystem::path path_;
};

TEST_F(PrefixFileTest, AnotherEngineGoesOnWhereThisOneStopped) {
  for (const DType kv_type : kKvTypes) {
    const auto before = open({.kv_type = kv_type});
    std::vector<TokenId> talk = fill(*before);
    save(*before);
    const std::size_t num_free_pages = before->kv_cache().num_free_pages();
    const std::vector<TokenId> more = tiny_.prompt(40, 7);
    talk.insert(talk.end(), more.begin(), more.end());
    const Answer expected = run(*before, greedy_request(talk, 12));

    const auto after = open({.kv_type = kv_type});
    const auto restored = after->restore_prefixes(path_);
    ASSERT_TRUE(restored.ok()) << restored.message();
    EXPECT_EQ(restored->num_prefixes, 11U);
    after->check_integrity();
    EXPECT_EQ(after->kv_cache().num_free_pages(), num_free_pages);  // shared as they were
    const Answer answer = run(*after, greedy_request(talk, 12));
    EXPECT_EQ(answer.finish->num_cached_tokens, 708U);
    EXPECT_EQ(answer.finish->num_cached_tokens, expected.finish->num_cached_tokens);
    expect_same(answer, expected);
  }
}

TEST_F(PrefixFileTest, ASmallerCacheTakesTheLastUsed) {
  const auto before = open();
  fill(*before);
  save(*before);
  const std::size_t num_pages = 2048 / 64;  // the least that an engine may have: a third of what is kept
  for (const EngineConfig& config : {EngineConfig{.num_kept_prefixes = 2}, EngineConfig{.num_pages = num_pages}}) {
    const auto after = open(config);
    const auto restored = after->restore_prefixes(path_);
    ASSERT_TRUE(restored.ok()) << restored.message();
    EXPECT_GE(restored->num_prefixes, 2U);
    EXPECT_LE(restored->num_prefixes, config.num_pages ? 10U : 2U);
    after->check_integrity();
    std::vector<TokenId> last = tiny_.prompt(600, 0);
    last.push_back(3);
    EXPECT_GE(run(*after, greedy_request(last, 4)).finish->num_cached_tokens, 512U);
    expect_same(run(*after, greedy_request(tiny_.prompt(1500, 4), 4)),
                run_alone(tiny_, greedy_request(tiny_.prompt(1500, 4), 4), {.context_tokens = 2048}));
  }
}

TEST_F(PrefixFileTest, NothingKeptIsAFileToo) {
  save(*open());
  const auto after = open();
  const auto restored = after->restore_prefixes(path_);
  ASSERT_TRUE(restored.ok()) << restored.message();
  EXPECT_EQ(restored->num_prefixes, 0U);
}

TEST_F(PrefixFileTest, WhatIsForeignIsRefused) {
  const auto before = open();
  fill(*before);
  save(*before);
  expect_refused({.kv_type = DType::kI16}, "its keys and values are f32, and here they are i16");
  expect_refused({.kv_type = DType::kBF16}, "its keys and values are f32, and here they are bf16");
  expect_refused({.kv_type = DType::kQ8_0}, "its keys and values are f32, and here they are q8_0");
  expect_refused({.page_tokens = 32}, "made from something else");
  const TinyModel other("next-rawtopk");
  const auto engine = other.make_engine({.num_kept_prefixes = 4});
  EXPECT_FALSE(engine->restore_prefixes(path_).ok());
  const TinyModel other_kernels("next-tiny", "ref");
  const auto ref_engine = other_kernels.make_engine({.num_kept_prefixes = 4});
  EXPECT_FALSE(ref_engine->restore_prefixes(path_).ok());
}

TEST_F(PrefixFileTest, DamageIsFound) {
  const auto before = open();
  fill(*before);
  save(*before);
  std::ifstream in(path_, std::ios::binary);
  const std::string whole{std::istreambuf_iterator<char>(in), {}};
  const auto write = [&](const std::string& bytes) { std::ofstream(path_, std::ios::binary) << bytes; };
  for (const std::size_t size : {0UL, 5UL, 4095UL, 4096UL, 4100UL, whole.size() / 2, whole.size() - 1}) {
    write(whole.substr(0, size));
    expect_refused({}, path_.string());
  }
  for (std::size_t at = 8; at < whole.size(); at += whole.size() / 37) {
    std::string bytes = whole;
    bytes[at] = static_cast<char>(bytes[at] ^ 0x10);
    write(bytes);
    expect_refused({}, path_.string());
  }
  write(whole);
  EXPECT_TRUE(open()->restore_prefixes(path_).ok());
}

TEST_F(PrefixFileTest, AFolderThatCannotBeWrittenIsAnError) {
  const auto saved = open()->save_prefixes(folder_.path() / "no" / "such" / "file");
  ASSERT_FALSE(saved.ok());
  EXPECT_THAT(saved.message(), ::testing::HasSubstr("no/such"));
}

}  // namespace
}  // namespace qnext::test
