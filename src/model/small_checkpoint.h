#pragma once
// For tests of loading: a small random network as named tensors, in the layouts of safetensors and of GGUF, written to
// files after any piece of it was bent.

#include <cmath>
#include <map>
#include <random>
#include <string>
#include <variant>
#include <vector>

#include "model/export_network.h"
#include "model/test_support.h"
#include "tensor/file_test_util.h"
#include "tensor/gguf_writer.h"
#include "tensor/safetensors_writer.h"

namespace qnext::test {

struct TestTensor {
  DType type = DType::kF32;
  std::vector<std::size_t> shape;
  std::string bytes;

  float* floats() { return reinterpret_cast<float*>(bytes.data()); }  // of an F32 tensor
};
using Tensors = std::map<std::string, TestTensor>;
using MetaValue = std::variant<std::uint32_t, float, bool, std::string, std::vector<bool>, std::vector<std::uint32_t>>;
using Metadata = std::map<std::string, MetaValue>;

// Two Gated DeltaNet layers around one of attention: each kind of layer, and each kind of neighbour.
inline constexpr const char* kTinyNext = R"({"model_type": "qwen3_next", "vocab_size": 33, "hidden_size": 32,
 "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
 "max_position_embeddings": 512, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8,
 "linear_value_head_dim": 8, "moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2,
 "shared_expert_intermediate_size": 32, "intermediate_size": 64,
 "layer_types": ["linear_attention", "full_attention", "linear_attention"]})";
inline constexpr const char* kTinyMoe = R"({"model_type": "qwen3_moe", "vocab_size": 33, "hidden_size": 32,
 "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "norm_topk_prob": true,
 "max_position_embeddings": 512, "moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2,
 "intermediate_size": 64})";
inline constexpr const char* kTinyDense = R"({"model_type": "qwen3", "vocab_size": 33, "hidden_size": 32,
 "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
 "max_position_embeddings": 512, "intermediate_size": 64})";

// `object` with fields put in front: "{" + fields + rest. Fields that it has already must be taken out by the caller.
inline std::string with_fields(const std::string& object, const std::string& fields) {
  return "{" + fields + ", " + object.substr(1);
}

inline ModelConfig parsed_config(const std::string& json, bool has_mtp = false) {
  auto config = parse_config_json(json, "config.json");
  QN_CHECK(config.ok(), "{}", config.message());
  config->has_mtp = has_mtp;
  return std::move(*config);
}

inline TestTensor f32_tensor(std::vector<std::size_t> shape, const std::vector<float>& values) {
  return {DType::kF32, std::move(shape), {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)}};
}

// Hugging Face's names and layouts, F32. Norm weights are sixteenths, so that adding 1 to them rounds nothing.
inline Tensors random_tensors(const ModelConfig& config) {
  std::mt19937 random(20260917);
  std::normal_distribution<float> normal;
  const auto random_tensor = [&](const std::vector<std::size_t>& shape, float spread, bool sixteenths) {
    std::size_t count = 1;
    for (const std::size_t extent : shape) count *= extent;
    std::vector<float> values(count);
    for (float& value : values) value = spread * normal(random);
    if (sixteenths) {
      for (float& value : values) value = std::round(value * 16) / 16;
    }
    return f32_tensor(shape, values);
  };
  Tensors out;
  for (const NetworkTensor& tensor : network_tensors(config)) {
    const bool is_norm = tensor.hf_form == ValueForm::kMinusOne || tensor.hf_name.ends_with("norm.weight");
    const std::size_t num_copies = tensor.relation == TensorRelation::kExperts ? config.E : 1;
    for (std::size_t i = 0; i < num_copies; ++i) {
      const std::string name = tensor.relation == TensorRelation::kExperts ? tensor.expert_name(i) : tensor.hf_name;
      out[name] = random_tensor(tensor.hf_shape, tensor.hf_shape.size() == 1 ? 0.5f : 0.3f, is_norm);
    }
  }
  return out;
}

// Rows of in_proj_qkvz, whose groups have (Dk q, Dk k, r*Dv v, r*Dv z): the q rows of all groups, then k, then v; or z.
inline TestTensor ungrouped(const TestTensor& qkvz, const ModelConfig& config, bool is_gate) {
  const std::size_t r = config.Hv / config.Hk;
  const std::size_t widths[] = {config.Dk, config.Dk, r * config.Dv, r * config.Dv};
  const std::size_t group_rows = 2 * config.Dk + 2 * r * config.Dv;
  const std::size_t row_bytes = config.D * sizeof(float);
  TestTensor out{DType::kF32, {is_gate ? config.Hv * config.Dv : config.C(), config.D}, {}};
  std::size_t first_row = 0;
  for (std::size_t part_idx = 0; part_idx < 4; first_row += widths[part_idx++]) {
    if ((part_idx == 3) != is_gate) continue;
    for (std::size_t group_idx = 0; group_idx < config.Hk; ++group_idx) {
      out.bytes += qkvz.bytes.substr((group_idx * group_rows + first_row) * row_bytes, widths[part_idx] * row_bytes);
    }
  }
  return out;
}

// The same network as llama.cpp's converter names it today.
inline Tensors to_gguf_tensors(const ModelConfig& config, const Tensors& hf) {
  Tensors out;
  for (const NetworkTensor& tensor : network_tensors(config)) {
    TestTensor& made = out[tensor.gguf_name];
    if (tensor.relation == TensorRelation::kExperts) {
      for (std::size_t i = 0; i < config.E; ++i) made.bytes += hf.at(tensor.expert_name(i)).bytes;
    } else if (tensor.relation == TensorRelation::kSame) {
      made = hf.at(tensor.hf_name);
    } else {
      made = ungrouped(hf.at(tensor.hf_name), config, tensor.relation == TensorRelation::kDeltaGate);
    }
    made.shape = tensor.gguf_shape;
    for (std::size_t i = 0; i < made.bytes.size() / sizeof(float); ++i) {
      if (tensor.hf_form == ValueForm::kMinusOne) made.floats()[i] += 1;
      if (tensor.hf_form == ValueForm::kLog) made.floats()[i] = -std::exp(made.floats()[i]);
    }
  }
  return out;
}

inline Metadata to_gguf_metadata(const ModelConfig& config) {
  const std::string name(gguf_architecture_name(config.architecture));
  Metadata out{{"general.architecture", name}};
  const auto count = [&](const char* key, std::size_t value) {
    out[name + "." + key] = static_cast<std::uint32_t>(value);
  };
  count("block_count", config.num_layers() + (config.has_mtp ? 1 : 0));
  count("context_length", config.max_context_tokens);
  count("embedding_length", config.D);
  count("feed_forward_length", config.dense_width);
  count("attention.head_count", config.Hq);
  count("attention.head_count_kv", config.Hkv);
  count("attention.key_length", config.Dh);
  count("attention.value_length", config.Dh);
  count("rope.dimension_count", config.rope.R);
  if (config.has_mtp) count("nextn_predict_layers", 1);
  if (config.E > 0) {
    count("expert_count", config.E);
    count("expert_used_count", config.A);
    count("expert_feed_forward_length", config.F);
  }
  if (config.architecture != Architecture::kQwen3Next) return out;
  count("expert_shared_feed_forward_length", config.shared_expert_width);
  count("ssm.conv_kernel", config.conv_taps);
  count("ssm.state_size", config.Dk);
  count("ssm.group_count", config.Hk);
  count("ssm.time_step_rank", config.Hv);
  count("ssm.inner_size", config.Hv * config.Dv);
  std::vector<bool> recurrent;
  for (const LayerConfig& layer : config.layers) recurrent.push_back(layer.mixer == MixerKind::kGatedDeltaNet);
  if (config.has_mtp) recurrent.push_back(false);
  out[name + ".attention.recurrent_layers"] = recurrent;
  return out;
}

inline void write_safetensors(const std::filesystem::path& path, const Tensors& tensors) {
  std::vector<TensorSpec> specs;
  for (const auto& [name, tensor] : tensors) specs.push_back({name, tensor.type, tensor.shape});
  auto writer = SafetensorsWriter::create(path, {.tensors = specs, .metadata = {}, .max_shard_bytes = std::nullopt});
  QN_CHECK(writer.ok(), "{}", writer.message());
  for (const auto& [name, tensor] : tensors) {
    QN_CHECK(writer->append(test::as_bytes(tensor.bytes)).ok(), "cannot append {}", name);
  }
  QN_CHECK(writer->commit().ok(), "cannot commit {}", path.string());
}

inline void write_gguf(const std::filesystem::path& path, const Metadata& metadata, const Tensors& tensors) {
  GgufHeader header;
  for (const auto& [key, value] : metadata) {
    if (const auto* u32 = std::get_if<std::uint32_t>(&value)) header.add_u32(key, *u32);
    if (const auto* f32 = std::get_if<float>(&value)) header.add_f32(key, *f32);
    if (const auto* flag = std::get_if<bool>(&value)) header.add_bool(key, *flag);
    if (const auto* text = std::get_if<std::string>(&value)) header.add_string(key, *text);
    if (const auto* flags = std::get_if<std::vector<bool>>(&value)) header.add_bools(key, *flags);
    if (const auto* u32s = std::get_if<std::vector<std::uint32_t>>(&value)) header.add_u32s(key, *u32s);
  }
  for (const auto& [name, tensor] : tensors) header.add_tensor({name, tensor.type, tensor.shape});
  auto writer = GgufWriter::create(path, header);
  QN_CHECK(writer.ok(), "{}", writer.message());
  for (const auto& [name, tensor] : tensors) {
    QN_CHECK(writer->append(test::as_bytes(tensor.bytes)).ok(), "cannot append {}", name);
  }
  QN_CHECK(writer->commit().ok(), "cannot commit {}", path.string());
}

// Logits of a few tokens, by the best table of this machine.
inline std::vector<float> logits_of(const Qwen3Next& model, const KernelTable& table = available_tables().back()) {
  std::vector<TokenId> tokens;
  for (std::size_t i = 0; i < 7; ++i) tokens.push_back(static_cast<TokenId>(i * 5 % model.config().V));
  Runner runner(model, table, 1);
  SequenceMemory memory(model.config(), tokens.size());
  return runner.logits(memory, tokens, 4);
}

}  // namespace qnext::test
