// config.json: what it may say, what it may leave out, and that every lie is called by its field.
#include "model/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace qnext {
namespace {

using Json = nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

// Qwen3-Next-80B-A3B-Instruct: the numbers of the model card and of transformers' configuration class.
constexpr const char* kReleased = R"({
  "architectures": ["Qwen3NextForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 151643,
  "decoder_sparse_step": 1, "eos_token_id": 151645, "full_attention_interval": 4, "head_dim": 256, "hidden_act": "silu",
  "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 5120, "linear_conv_kernel_dim": 4,
  "linear_key_head_dim": 128, "linear_num_key_heads": 16, "linear_num_value_heads": 32, "linear_value_head_dim": 128,
  "max_position_embeddings": 262144, "mlp_only_layers": [], "model_type": "qwen3_next", "moe_intermediate_size": 512,
  "norm_topk_prob": true, "num_attention_heads": 16, "num_experts": 512, "num_experts_per_tok": 10,
  "num_hidden_layers": 48, "num_key_value_heads": 2, "output_router_logits": false, "partial_rotary_factor": 0.25,
  "rms_norm_eps": 1e-06, "rope_scaling": null, "rope_theta": 10000000, "router_aux_loss_coef": 0.001,
  "shared_expert_intermediate_size": 512, "tie_word_embeddings": false, "torch_dtype": "bfloat16", "use_cache": true,
  "use_sliding_window": false, "vocab_size": 151936})";

constexpr const char* kDense = R"({"model_type": "qwen3", "vocab_size": 151936, "hidden_size": 1024,
  "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "intermediate_size": 3072,
  "max_position_embeddings": 40960})";
constexpr const char* kMoe = R"({"model_type": "qwen3_moe", "vocab_size": 151936, "hidden_size": 2048,
  "num_hidden_layers": 48, "num_attention_heads": 32, "num_key_value_heads": 4, "intermediate_size": 6144,
  "moe_intermediate_size": 768, "num_experts": 128, "num_experts_per_tok": 8, "max_position_embeddings": 40960})";

// `base` with the fields of `changes` replaced; a field changed to {"missing": 1} goes.
std::string changed(const char* base, const char* changes) {
  Json object = Json::parse(base);
  const Json changed_fields = Json::parse(changes);
  for (const auto& [key, value] : changed_fields.items()) {
    if (value == Json{{"missing", 1}}) {
      object.erase(key);
    } else {
      object[key] = value;
    }
  }
  return object.dump();
}

ModelConfig parsed(const char* base, const char* changes = "{}") {
  auto config = parse_config_json(changed(base, changes), "config.json");
  EXPECT_TRUE(config.ok()) << config.message();
  return config.ok() ? *config : ModelConfig{};
}

std::string message_of(const std::string& text) {
  const auto config = parse_config_json(text, "dir/config.json");
  EXPECT_FALSE(config.ok()) << text;
  return config.ok() ? "" : config.message();
}

// One field set to `literal`: the error names the file, the field, and what stood there.
void expect_refused(const char* base, const std::string& field, const std::string& literal) {
  SCOPED_TRACE(fmt::format("{} = {}", field, literal));
  const std::string message = message_of(changed(base, fmt::format("{{\"{}\": {}}}", field, literal).c_str()));
  const bool absent = literal == "null" || literal == R"({"missing": 1})";
  EXPECT_THAT(message, AllOf(HasSubstr("dir/config.json: " + field), HasSubstr("expected ")));
  EXPECT_THAT(message, HasSubstr("found " + (absent ? std::string("nothing") : literal)));
}

std::string mixers_of(const ModelConfig& config) {
  std::string out;
  for (const LayerConfig& layer : config.layers) out += layer.mixer == MixerKind::kAttention ? 'A' : 'd';
  return out;
}
std::string feed_forwards_of(const ModelConfig& config) {
  std::string out;
  for (const LayerConfig& layer : config.layers) out += layer.feed_forward == FeedForwardKind::kMoe ? 'M' : 'f';
  return out;
}

TEST(ConfigJson, ReadsTheReleasedModel) {
  const ModelConfig config = parsed(kReleased);
  EXPECT_EQ(config.architecture, Architecture::kQwen3Next);
  EXPECT_EQ(mixers_of(config), "dddAdddAdddAdddAdddAdddAdddAdddAdddAdddAdddAdddA");
  EXPECT_EQ(feed_forwards_of(config), std::string(48, 'M'));
  EXPECT_EQ(std::tuple(config.V, config.D, config.max_context_tokens), std::tuple(151936u, 2048u, 262144u));
  EXPECT_EQ(std::tuple(config.Hq, config.Hkv, config.Dh, config.rope.R), std::tuple(16u, 2u, 256u, 64u));
  EXPECT_EQ(std::tuple(config.Hk, config.Hv, config.Dk, config.Dv), std::tuple(16u, 32u, 128u, 128u));
  EXPECT_EQ(std::tuple(config.conv_taps, config.C()), std::tuple(4u, 8192u));
  EXPECT_EQ(std::tuple(config.E, config.A, config.F), std::tuple(512u, 10u, 512u));
  EXPECT_EQ(std::tuple(config.shared_expert_width, config.dense_width), std::tuple(512u, 5120u));
  EXPECT_EQ(config.eps, 1e-6f);
  EXPECT_EQ(config.rope.theta, 1e7);
  EXPECT_FALSE(config.rope.yarn.has_value());
  EXPECT_TRUE(config.attention_gate && config.normalize_routing && config.zero_centred_norms());
  EXPECT_FALSE(config.tied_head || config.has_mtp);
  EXPECT_EQ(config.kv_bytes_per_token(DType::kBF16), 24'576u);
  EXPECT_EQ(config.state_bytes(), 36u * (32 * 128 * 128 + 3 * 8192) * 4);
}

// What a file leaves out is what transformers' classes have.
TEST(ConfigJson, DefaultsAreThoseOfTransformers) {
  const ModelConfig next =
      parsed(kReleased, R"({"norm_topk_prob": null, "partial_rotary_factor": null, "head_dim": null,
      "rms_norm_eps": null, "tie_word_embeddings": null, "rope_theta": null, "full_attention_interval": null,
      "linear_conv_kernel_dim": null, "decoder_sparse_step": null, "mlp_only_layers": null, "hidden_act": null})");
  EXPECT_TRUE(next.normalize_routing);
  EXPECT_EQ(std::tuple(next.Dh, next.rope.R, next.rope.theta), std::tuple(256u, 64u, 1e4));
  EXPECT_EQ(std::tuple(next.eps, next.tied_head, next.conv_taps), std::tuple(1e-6f, false, 4u));
  EXPECT_EQ(mixers_of(next), mixers_of(parsed(kReleased)));

  const ModelConfig moe = parsed(kMoe);
  EXPECT_FALSE(moe.normalize_routing || moe.tied_head || moe.attention_gate || moe.zero_centred_norms());
  EXPECT_EQ(std::tuple(moe.Dh, moe.rope.R, moe.rope.theta), std::tuple(64u, 64u, 1e4));  // hidden_size / heads
  EXPECT_EQ(moe.shared_expert_width, 0u);

  const ModelConfig dense = parsed(kDense);
  EXPECT_EQ(std::tuple(dense.Dh, dense.rope.R, dense.rope.theta), std::tuple(128u, 128u, 1e4));
  EXPECT_EQ(feed_forwards_of(dense), std::string(28, 'f'));
  EXPECT_EQ(mixers_of(dense), std::string(28, 'A'));
  EXPECT_EQ(parsed(kDense, R"({"num_key_value_heads": null})").Hkv, 16u);
  EXPECT_TRUE(parsed(kDense, R"({"tie_word_embeddings": true})").tied_head);
}

TEST(ConfigJson, CountsAreRefusedByField) {
  for (const char* field :
       {"vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
        "max_position_embeddings", "linear_num_key_heads", "linear_num_value_heads", "linear_key_head_dim",
        "linear_value_head_dim", "linear_conv_kernel_dim", "moe_intermediate_size", "num_experts_per_tok"}) {
    for (const char* literal :
         {"0", "-1", "1.5", "\"8\"", "true", "[8]", "{}", "9223372036854775808", "18446744073709551615", "1e300"}) {
      expect_refused(kReleased, field, literal == std::string("1e300") ? "1e+300" : literal);
    }
    const bool has_default =
        std::string_view("num_key_value_heads head_dim linear_conv_kernel_dim").find(field) != std::string_view::npos;
    if (has_default) continue;
    expect_refused(kReleased, field, "null");
    expect_refused(kReleased, field, R"({"missing": 1})");
  }
  for (const char* field : {"num_experts", "shared_expert_intermediate_size", "intermediate_size"}) {
    for (const char* literal : {"-1", "1.5", "\"8\"", "true", "[]"}) expect_refused(kReleased, field, literal);
  }
  expect_refused(kReleased, "num_experts", "9223372036854775808");
  expect_refused(kReleased, "shared_expert_intermediate_size", "9223372036854775808");
  expect_refused(kReleased, "num_experts", "null");
  expect_refused(kReleased, "num_hidden_layers", "4097");
  expect_refused(kDense, "intermediate_size", "0");
  expect_refused(kDense, "intermediate_size", "null");
  for (const char* field : {"full_attention_interval", "decoder_sparse_step"}) {
    for (const char* literal : {"0", "-4", "4.0", "\"4\"", "[4]"}) expect_refused(kReleased, field, literal);
  }
}

TEST(ConfigJson, OtherFieldsAreRefusedByField) {
  for (const char* field : {"rms_norm_eps", "rope_theta", "partial_rotary_factor"}) {
    for (const char* literal : {"\"1\"", "true", "[1]", "{}"}) expect_refused(kReleased, field, literal);
  }
  for (const char* literal : {"0", "-1e-06", "1"}) expect_refused(kReleased, "rms_norm_eps", literal);
  for (const char* literal : {"0", "1", "-10000"}) expect_refused(kReleased, "rope_theta", literal);
  for (const char* literal : {"0", "-0.5", "1.5"}) expect_refused(kReleased, "partial_rotary_factor", literal);
  for (const char* field : {"norm_topk_prob", "tie_word_embeddings", "attention_bias", "use_sliding_window"}) {
    for (const char* literal : {"1", "\"true\"", "[]"}) expect_refused(kReleased, field, literal);
  }
  expect_refused(kReleased, "attention_bias", "true");
  expect_refused(kReleased, "use_sliding_window", "true");
  for (const char* literal : {"\"gelu\"", "1", "[\"silu\"]"}) expect_refused(kReleased, "hidden_act", literal);
  for (const char* literal : {"\"llama\"", "\"qwen3_5\"", "\"\"", "3", "null"}) {
    expect_refused(kReleased, "model_type", literal);
  }
  // An odd or empty rotary width follows from two fields.
  EXPECT_THAT(message_of(changed(kReleased, R"({"partial_rotary_factor": 0.001})")),
              AllOf(HasSubstr("partial_rotary_factor"), HasSubstr("even number from 2 to head_dim 256, found 0")));
  EXPECT_THAT(message_of(changed(kReleased, R"({"head_dim": 12})")), HasSubstr("found 3"));
}

TEST(ConfigJson, FieldsMustFitEachOther) {
  const auto expect = [](const char* changes, const char* text) {
    EXPECT_THAT(message_of(changed(kReleased, changes)), HasSubstr(text)) << changes;
  };
  expect(R"({"num_key_value_heads": 3})",
         "num_key_value_heads (attention.head_count_kv): expected a divisor of 16, found 3");
  expect(R"({"linear_num_key_heads": 5})", "expected a divisor of 32, found 5");
  expect(R"({"num_experts_per_tok": 513})", "num_experts 512, found 513");
  expect(R"({"num_experts": 4})", "from 1 to 4, with num_experts 4, found 10");
  expect(R"({"head_dim": 1024})", "head_dim (attention.key_length): expected at most 512, found 1024");
  expect(R"({"num_attention_heads": 8192})", "num_attention_heads * head_dim: expected at most 1048576, found 2097152");
  expect(R"({"linear_num_value_heads": 16384})", "conv channels: expected at most 1048576");
  expect(R"({"linear_conv_kernel_dim": 65})", "expected a number from 2 to 64, found 65");
  expect(R"({"num_experts": 0, "intermediate_size": 0})", "intermediate_size");  // no experts: all layers are dense
}

TEST(ConfigJson, LayersListedOrByInterval) {
  const ModelConfig listed = parsed(kReleased, R"({"num_hidden_layers": 6, "layer_types": ["linear_attention",
      "full_attention", "linear_attention", "full_attention", "linear_attention", "full_attention"]})");
  const ModelConfig by_interval = parsed(kReleased, R"({"num_hidden_layers": 6, "full_attention_interval": 2})");
  EXPECT_EQ(mixers_of(listed), "dAdAdA");
  EXPECT_EQ(mixers_of(by_interval), "dAdAdA");
  // The list goes before the interval, also where it has no rhythm.
  EXPECT_EQ(mixers_of(parsed(kReleased, R"({"num_hidden_layers": 3, "full_attention_interval": 1,
      "layer_types": ["full_attention", "linear_attention", "linear_attention"]})")),
            "Add");
  EXPECT_EQ(mixers_of(parsed(kReleased, R"({"num_hidden_layers": 3, "full_attention_interval": 9})")), "ddd");

  const char* two = R"({"num_hidden_layers": 2, "layer_types": )";
  for (const char* types : {"[]", R"(["full_attention"])", R"(["full_attention", "full_attention", "full_attention"])",
                            "\"full_attention\"", "2", "{}", "true"}) {
    EXPECT_THAT(message_of(changed(kReleased, fmt::format("{}{}}}", two, types).c_str())),
                HasSubstr("config.json: layer_types: expected a list of 2 names, one a layer, found " +
                          Json::parse(types).dump()));
  }
  for (const char* type : {"\"sliding_attention\"", "\"\"", "1", "null", "[\"full_attention\"]"}) {
    EXPECT_THAT(
        message_of(changed(kReleased, fmt::format("{}[\"full_attention\", {}]}}", two, type).c_str())),
        HasSubstr(fmt::format("layer_types[1]: expected \"full_attention\" or \"linear_attention\", found {}", type)));
  }
  EXPECT_THAT(message_of(changed(kDense, R"({"num_hidden_layers": 1, "layer_types": ["linear_attention"]})")),
              HasSubstr("layer_types[0]: expected \"full_attention\", found \"linear_attention\""));
}

TEST(ConfigJson, DenseLayersByNameAndStep) {
  const auto of = [](const char* changes) { return feed_forwards_of(parsed(kMoe, changes)); };
  EXPECT_EQ(of(R"({"num_hidden_layers": 5})"), "MMMMM");
  EXPECT_EQ(of(R"({"num_hidden_layers": 5, "mlp_only_layers": [0, 4, 4]})"), "fMMMf");
  EXPECT_EQ(of(R"({"num_hidden_layers": 5, "decoder_sparse_step": 2})"), "fMfMf");
  EXPECT_EQ(of(R"({"num_hidden_layers": 5, "decoder_sparse_step": 2, "mlp_only_layers": [1]})"), "fffMf");
  for (const char* layers : {"[5]", "[-1]", "[1.0]", "[\"1\"]", "[null]", "[[0]]", "[18446744073709551615]"}) {
    EXPECT_THAT(
        message_of(changed(kMoe, fmt::format(R"({{"num_hidden_layers": 5, "mlp_only_layers": {}}})", layers).c_str())),
        HasSubstr("config.json: mlp_only_layers: expected layer numbers below 5, found " +
                  Json::parse(layers)[0].dump()));
  }
  for (const char* literal : {"0", "\"0\"", "{\"0\":1}", "true"}) expect_refused(kMoe, "mlp_only_layers", literal);
}

TEST(ConfigJson, ExpertsGoByEitherName) {
  EXPECT_EQ(parsed(kMoe, R"({"num_experts": {"missing": 1}, "num_local_experts": 64})").E, 64u);
  EXPECT_EQ(parsed(kMoe, R"({"num_local_experts": null})").E, 128u);
  EXPECT_THAT(message_of(changed(kMoe, R"({"num_local_experts": "64"})")), HasSubstr("num_local_experts: expected"));
}

TEST(ConfigJson, RefusesWhatIsNoObject) {
  for (const char* text : {"", " ", "{", "{\"a\":", "{\"a\": 1,}", "nonsense", "{\"a\": 1} {}", "{'a': 1}",
                           "{\"a\": NaN}", "{\"a\": 1e999}", "\xef\xbb\xbf\xef\xbb\xbf{}"}) {
    EXPECT_THAT(message_of(text), AllOf(HasSubstr("dir/config.json: expected JSON"), HasSubstr("json.exception")))
        << text;
  }
  for (const char* text : {"[]", "3", "\"text\"", "null", "true"}) {
    EXPECT_THAT(message_of(text), HasSubstr(fmt::format("dir/config.json: expected a JSON object, found {}", text)));
  }
  EXPECT_THAT(message_of("{}"), HasSubstr("dir/config.json: model_type: expected"));
}

TEST(ConfigJson, RefusesBytesThatAreNoUtf8) {
  for (const char* bytes : {"\xff", "\xc3", "\xed\xa0\x80", "\xc0\xaf", "\xf5\x80\x80\x80"}) {
    EXPECT_THAT(message_of(fmt::format("{{\"model_type\": \"{}\"}}", bytes)), HasSubstr("invalid"));
  }
}

TEST(ConfigJson, RefusesDepthWithoutRecursion) {
  constexpr std::size_t kDepth = 1'000'000;
  std::string objects;
  for (std::size_t i = 0; i < kDepth; ++i) objects += "{\"a\":";
  for (const std::string& text :
       {std::string(kDepth, '['), "{\"x\": " + std::string(kDepth, '[') + std::string(kDepth, ']') + "}", objects,
        objects + "1" + std::string(kDepth, '}')}) {
    const std::string message = message_of(text.substr(0, 4'000'000));
    EXPECT_THAT(message, HasSubstr("expected at most 32 levels of nesting, found more"));
  }
  // As deep as allowed, with equal keys on different levels and in neighbours.
  std::string nested = "1";
  for (int i = 0; i < 30; ++i) nested = R"({"a": )" + nested + "}";
  EXPECT_EQ(parsed(kDense, (R"({"extra": [)" + nested + ", " + nested + "]}").c_str()).V, 151936u);
}

TEST(ConfigJson, RefusesTheSameKeyTwice) {
  const std::string rest = std::string(kDense).substr(1);
  EXPECT_THAT(message_of(R"({"hidden_size": 2048, )" + rest), HasSubstr("hidden_size: expected once in its object"));
  EXPECT_THAT(message_of(R"({"rope_scaling": {"type": "yarn", "x": {}, "type": "default"}, )" + rest),
              HasSubstr("type: expected once in its object, found twice"));
  EXPECT_THAT(message_of(R"({"x": [{"b": 1}, {"b": 1, "c": {"b": 1}, "b": 2}], )" + rest),
              HasSubstr("b: expected once"));
}

TEST(ConfigJson, ErrorsStayShort) {
  const std::string long_text(1'000'000, 'x');
  const std::string list = "[" + std::string(100'000, '1') + "]";
  for (const std::string& changes :
       {R"({"model_type": ")" + long_text + "\"}", R"({"hidden_act": ")" + long_text + "\"}",
        R"({"vocab_size": ")" + long_text + "\"}", R"({"rope_scaling": {"type": ")" + long_text + "\"}}",
        R"({"rope_scaling": ")" + long_text + "\"}", R"({"layer_types": [")" + long_text + "\"]}",
        R"({"mlp_only_layers": [")" + long_text + "\"]}"}) {
    EXPECT_LT(message_of(changed(kReleased, changes.c_str())).size(), 300u);
  }
  EXPECT_LT(message_of("{\"" + long_text + "\": 1, \"" + long_text + "\": 2}").size(), 300u);
  EXPECT_LT(message_of("{\"a\": " + long_text).size(), 300u);
  EXPECT_THAT(message_of("\"" + std::string(5'000'000, 'x') + "\""),
              HasSubstr("expected a config of at most 4194304 bytes, found 5000002"));
  // Nothing of the file reaches a terminal as it is.
  EXPECT_THAT(message_of(changed(kReleased, R"({"model_type": "\u001b[31m\u0007"})")), Not(HasSubstr("\x1b")));
}

}  // namespace
}  // namespace qnext
