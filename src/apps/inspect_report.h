#pragma once
// What `qnext inspect` knows of a model, and how it says it.

#include <nlohmann/json.hpp>

#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "eval/work_count.h"
#include "model/weights.h"

namespace qnext {

struct TensorTypeCount {
  std::size_t num_tensors = 0;
  std::uint64_t num_elements = 0;
  std::uint64_t num_bytes = 0;
};

struct ModelReport {
  std::string path;
  std::string format;                   // "gguf", "safetensors", or "config" when there are no weights
  std::optional<ModelWeights> weights;  // none for "config"
  ModelConfig config;
  std::map<DType, TensorTypeCount> tensor_types;
  bool has_tokenizer = false;
  bool has_chat_template = false;
  std::optional<std::string> text_error;  // why the text files cannot be used
  std::optional<std::string> note;

  std::uint64_t weight_bytes() const;   // of the file's tensors; without weights, what bf16 would take
  std::optional<bool> has_mtp() const;  // unknown without weights: no config names it
};

// `path`: a model, a folder with nothing but a config.json, or a config.json. Errors: those of the files.
Result<ModelReport> make_model_report(const std::string& path);

// The tensors of the file that the weights came from.
std::span<const TensorEntry> tensor_entries(const ModelWeights& weights);

// Memory for one sequence of each length, beside the weights.
nlohmann::ordered_json memory_json(const ModelReport& report, const std::vector<std::size_t>& contexts);
nlohmann::ordered_json report_json(const ModelReport& report, const std::vector<std::size_t>& contexts);
std::string report_text(const ModelReport& report, const std::vector<std::size_t>& contexts);

// "3:1" when every (a+1)-th layer is attention and a Gated DeltaNet layers precede each; "" when there is no such rule.
std::string layer_pattern(const ModelConfig& config);

// As --json names them.
std::string_view mixer_name(MixerKind mixer);
std::string_view feed_forward_name(FeedForwardKind kind);

}  // namespace qnext
