#pragma once
// What a converted model says of itself: GGUF's metadata, and the config.json of a safetensors folder.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/units.h"
#include "model/config.h"
#include "model/export_plan.h"
#include "tensor/gguf_writer.h"

namespace qnext {

// Sampling that the model's authors recommend (generation_config.json; general.sampling.* in GGUF).
struct SamplingDefaults {
  std::optional<std::uint32_t> top_k = {};
  std::optional<float> top_p = {}, min_p = {}, temperature = {}, repetition_penalty = {};
};

struct GgufMetadata {
  std::string name;  // general.name; left out when empty
  SamplingDefaults sampling = {};
  DType type = DType::kBF16;  // of most matrices
};

// The keys of llama.cpp's converter in its order (conversion/base.py and qwen.py, set_gguf_parameters), up to where the
// tokenizer's begin; and where a checkpoint needs them, two more that llama.cpp knows too: `expert_weights_norm` false,
// and `attention.recurrent_layers` when attention layers come at no fixed interval.
void add_gguf_metadata(GgufHeader& header, const ModelConfig& config, const ExportPlan& plan,
                       const GgufMetadata& metadata);

// The metadata of a GGUF that is only changed in type: all of it, but the file type, and what told of split files.
void add_requantised_metadata(GgufHeader& header, const Gguf& source, DType type);

// "8x4.5M": parameters that a token of a single expert would meet, times the experts; "1.7B" of a dense model.
// Source: gguf-py, utility.py, size_label.
std::string gguf_size_label(const ExportPlan& plan);

struct SpecialTokens {
  std::optional<TokenId> bos = {}, eos = {}, pad = {};
};

// config.json as transformers reads it, of a network that came from a GGUF.
std::string config_json_text(const ModelConfig& config, DType type, const SpecialTokens& tokens);

// The config.json of a safetensors source, for tensors of another type: what it says of types and of FP8 is changed.
// Requires a text that parse_config_json() took.
std::string retyped_config_json(std::string_view source_text, DType type);

}  // namespace qnext
