// Rotary settings as config.json spells them, and the angles that follow.
#include "model/rope.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

namespace qnext {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// A config whose heads are 64 wide, with `rope` among its fields.
std::string with_rope(const std::string& rope) {
  return R"({"model_type": "qwen3_next", "vocab_size": 97, "hidden_size": 40, "num_hidden_layers": 1,
      "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 4096,
      "layer_types": ["full_attention"], "num_experts": 0, "num_experts_per_tok": 1, "moe_intermediate_size": 1,
      "shared_expert_intermediate_size": 1, )" +
         rope + (rope.empty() ? "" : ", ") + R"("intermediate_size": 36})";
}

RopeConfig rope_of(const std::string& rope) {
  const auto config = parse_config_json(with_rope(rope), "config.json");
  EXPECT_TRUE(config.ok()) << config.message();
  return config.ok() ? config->rope : RopeConfig{};
}

std::string message_of(const std::string& rope) {
  const auto config = parse_config_json(with_rope(rope), "dir/config.json");
  EXPECT_FALSE(config.ok()) << rope;
  return config.ok() ? "" : config.message();
}

std::string text_of(const RopeConfig& rope) {
  if (!rope.yarn) return fmt::format("theta {} R {}", rope.theta, rope.R);
  return fmt::format("theta {} R {} factor {} original {} beta {} {} attention {:.6f}", rope.theta, rope.R,
                     rope.yarn->factor, rope.yarn->original_context_tokens, rope.yarn->beta_fast, rope.yarn->beta_slow,
                     rope.yarn->attention_factor);
}

TEST(RopeConfig, BothSpellingsAreOne) {
  EXPECT_EQ(text_of(rope_of("")), "theta 10000 R 16");
  EXPECT_EQ(text_of(rope_of(R"("rope_theta": 5e6, "partial_rotary_factor": 0.5, "rope_scaling": null)")),
            "theta 5000000 R 32");
  EXPECT_EQ(text_of(rope_of(R"("rope_parameters":
      {"rope_type": "default", "rope_theta": 5e6, "partial_rotary_factor": 0.5})")),
            "theta 5000000 R 32");
  EXPECT_EQ(text_of(rope_of(R"("rope_parameters": {}, "rope_scaling": {})")), "theta 10000 R 16");

  const std::string yarn = "theta 5000000 R 32 factor 4 original 1024 beta 32 1 attention 1.138629";  // 0.1 ln 4 + 1
  for (const char* type : {"type", "rope_type"}) {
    EXPECT_EQ(text_of(rope_of(fmt::format(R"("rope_theta": 5e6, "partial_rotary_factor": 0.5,
        "rope_scaling": {{"{}": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}})",
                                          type))),
              yarn);
  }
  EXPECT_EQ(text_of(rope_of(R"("rope_parameters": {"rope_type": "yarn", "rope_theta": 5e6,
      "partial_rotary_factor": 0.5, "factor": 4, "original_max_position_embeddings": 1024})")),
            yarn);
}

TEST(RopeConfig, YarnsOwnFields) {
  EXPECT_EQ(text_of(rope_of(R"("rope_scaling": {"type": "yarn", "factor": 2, "beta_fast": 16, "beta_slow": 2.5,
      "attention_factor": 1.25, "truncate": true, "mscale": null})")),
            "theta 10000 R 16 factor 2 original 4096 beta 16 2.5 attention 1.250000");
  EXPECT_EQ(text_of(rope_of(R"("rope_scaling": {"type": "yarn", "factor": 1, "beta_fast": null})")),
            "theta 10000 R 16 factor 1 original 4096 beta 32 1 attention 1.000000");
}

// transformers takes rope_scaling where both stand, and what is inside before what is beside.
TEST(RopeConfig, OneSpellingGoesBeforeTheOther) {
  EXPECT_EQ(text_of(rope_of(R"("rope_theta": 7e6, "rope_scaling": {"type": "default"},
      "rope_parameters": {"rope_type": "yarn", "rope_theta": 5e6, "factor": 4})")),
            "theta 7000000 R 16");
  EXPECT_EQ(text_of(rope_of(R"("rope_theta": 7e6, "partial_rotary_factor": 1.0, "rope_scaling": {},
      "rope_parameters": {"rope_theta": 5e6, "partial_rotary_factor": 0.5})")),
            "theta 5000000 R 32");
}

TEST(RopeConfig, RefusedByField) {
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const auto expect = [key](const std::string& fields, const std::string& text) {
      EXPECT_THAT(message_of(fmt::format("\"{}\": {}", key, fields)),
                  AllOf(HasSubstr("dir/config.json: "), HasSubstr("expected "), HasSubstr(text)))
          << fields;
    };
    const std::string where = fmt::format("dir/config.json: {}", key);
    for (const char* kind : {"\"linear\"", "\"dynamic\"", "\"llama3\"", "\"longrope\"", "\"\"", "4", "[\"yarn\"]"}) {
      expect(fmt::format(R"({{"rope_type": {}, "factor": 4}})", kind),
             fmt::format("{}: rope_type: expected {}, found {}", where,
                         kind[0] == '"' ? "\"default\" or \"yarn\"" : "a string", kind));
    }
    expect(R"({"type": "mrope"})", where + ": type: expected \"default\" or \"yarn\", found \"mrope\"");
    expect("[1]", where + ": expected an object, found [1]");
    expect("\"yarn\"", where + ": expected an object");
    expect("4", where + ": expected an object, found 4");
    expect(R"({"rope_type": "yarn"})", where + ": factor: expected a number, found nothing");
    expect(R"({"rope_theta": "x"})", where + ": rope_theta: expected a number, found \"x\"");
    expect(R"({"rope_theta": 0.5})", "rope_theta (rope.freq_base): expected a number above 1, found 0.5");
    expect(R"({"partial_rotary_factor": 2})", "partial_rotary_factor: expected a number in (0, 1], found 2");
    const auto expect_yarn = [&](const std::string& fields, const std::string& text) {
      expect(R"({"rope_type": "yarn", "factor": 4, )" + fields + "}", text);
    };
    expect(R"({"type": "yarn", "factor": 0.5})",
           "rope scaling: factor: expected a number from 1 to 2147483648, found 0.5");
    expect(R"({"type": "yarn", "factor": -4})", "rope scaling: factor");
    expect_yarn(R"("original_max_position_embeddings": 0)", "original_max_position_embeddings");
    expect_yarn(R"("original_max_position_embeddings": 1e300)", "original_max_position_embeddings");
    expect_yarn(R"("beta_fast": 0)", "beta_fast: expected a number from 1e-06 to 2147483648, found 0");
    expect_yarn(R"("beta_slow": -1)", "beta_slow: expected a number from 1e-06 to 2147483648, found -1");
    expect_yarn(R"("attention_factor": 0)",
                "attention_factor (attn_factor): expected a number from 1e-06 to 2147483648, found 0");
    expect_yarn(R"("truncate": false)", where + ": truncate: expected true or nothing, found false");
    expect_yarn(R"("mscale": 1.0)", where + ": mscale: expected nothing, found 1.0");
    expect_yarn(R"("mscale_all_dim": 0.7)", where + ": mscale_all_dim: expected nothing");
  }
}

TEST(Rope, FrequenciesFallByPowersOfTheta) {
  const std::vector<float> frequencies = make_rope_frequencies({.theta = 1e4, .R = 8, .yarn = {}}).inverse;
  ASSERT_EQ(frequencies.size(), 4u);
  for (std::size_t i = 0; i < 4; ++i) {
    const double expected = std::pow(10.0, -static_cast<double>(i));            // theta^(-2i/R)
    EXPECT_NEAR(frequencies[i], expected, 2 * expected * std::exp2(-24)) << i;  // a rounded power, a rounded inverse
  }
}

// The dim that turns `rotations` times in the original context: 2 pi rotations = L theta^(-2i/R), solved for i.
TEST(Rope, YarnStretchesSlowDimsAndKeepsFastOnes) {
  const double theta = 1e4, original = 4096;
  const std::size_t R = 64;
  const YarnConfig yarn{.factor = 8, .original_context_tokens = original, .beta_fast = 32, .beta_slow = 1};
  const auto dim_of = [&](double rotations) {
    return static_cast<double>(R) / 2 * std::log(original / (rotations * 2 * std::numbers::pi)) / std::log(theta);
  };
  const auto fast = static_cast<std::size_t>(dim_of(32)), slow = static_cast<std::size_t>(std::ceil(dim_of(1)));
  ASSERT_LT(fast + 2, slow);
  const std::vector<float> plain = make_rope_frequencies({.theta = theta, .R = R, .yarn = {}}).inverse;
  const std::vector<float> stretched = make_rope_frequencies({.theta = theta, .R = R, .yarn = yarn}).inverse;
  for (std::size_t i = 0; i < R / 2; ++i) {
    if (i <= fast) {
      EXPECT_EQ(stretched[i], plain[i]) << i;
    } else if (i >= slow) {
      EXPECT_EQ(stretched[i], plain[i] / 8) << i;
    } else {
      EXPECT_TRUE(stretched[i] < plain[i] && stretched[i] > plain[i] / 8) << i;
      const double ramp = static_cast<double>(i - fast) / static_cast<double>(slow - fast);
      EXPECT_NEAR(stretched[i], plain[i] * (1 - ramp + ramp / 8), 4 * plain[i] * std::exp2(-24)) << i;
    }
  }
}

// Contexts and scales at the edges that check_config allows: finite frequencies between the plain and the stretched.
TEST(Rope, YarnStaysFiniteAtTheEdges) {
  for (const double theta : {1.0000001, 2.0, 1e7, 1e300}) {
    for (const double original : {1.0, 4096.0, 2147483648.0}) {
      for (const double beta : {1e-6, 1.0, 32.0, 2147483648.0}) {
        for (const double factor : {1.0, 4.0, 2147483648.0}) {
          const YarnConfig yarn{
              .factor = factor, .original_context_tokens = original, .beta_fast = beta, .beta_slow = 1};
          const std::vector<float> plain = make_rope_frequencies({.theta = theta, .R = 2, .yarn = {}}).inverse;
          const std::vector<float> stretched = make_rope_frequencies({.theta = theta, .R = 2, .yarn = yarn}).inverse;
          EXPECT_TRUE(stretched[0] >= 0 && stretched[0] <= plain[0])
              << theta << " " << original << " " << beta << " " << factor << ": " << stretched[0];
        }
      }
    }
  }
}

TEST(Rope, TablesFollowEachSequencesPositions) {
  const RopeConfig rope{
      .theta = 100, .R = 4, .yarn = YarnConfig{.factor = 1, .original_context_tokens = 64, .attention_factor = 2}};
  const RopeFrequencies frequencies = make_rope_frequencies(rope);
  const TokenId tokens[] = {1, 2, 3, 4, 5};
  const SequenceSpan spans[] = {
      {.rows = {0, 2}, .first_position = 7, .kv_pages = {}, .state_slot = {}, .window_slots = {}, .checkpoint = {}},
      {.rows = {2, 5}, .first_position = 0, .kv_pages = {}, .state_slot = {}, .window_slots = {}, .checkpoint = {}}};
  Arena arena;
  const RopeTables tables = make_rope_tables(arena, {.token_ids = tokens, .spans = spans}, frequencies);
  const double positions[] = {7, 8, 0, 1, 2};
  for (std::size_t row = 0; row < 5; ++row) {
    for (std::size_t i = 0; i < 2; ++i) {
      const double angle = positions[row] * static_cast<double>(frequencies.inverse[i]);
      const double tolerance = 2 * (angle + 1) * std::exp2(-24);  // the angle and the result are rounded to f32
      EXPECT_NEAR(tables.cos(row, i), 2 * std::cos(angle), 2 * tolerance);
      EXPECT_NEAR(tables.sin(row, i), 2 * std::sin(angle), 2 * tolerance);
    }
  }
}

}  // namespace
}  // namespace qnext
