#pragma once
// What a checkpoint says about its text: tokenizer, chat template, recommended sampling. From a folder's
// tokenizer.json, tokenizer_config.json, chat_template.jinja and generation_config.json, or from a GGUF's metadata.

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/units.h"
#include "tensor/gguf.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace qnext {

// What the model's authors recommend; what they do not name is absent.
struct GenerationDefaults {
  std::optional<bool> do_sample;  // false: greedy
  std::optional<float> temperature, top_p, min_p, repetition_penalty;
  std::optional<std::size_t> top_k;
  std::vector<TokenId> stop_token_ids;
};

struct TextFiles {
  std::optional<Tokenizer> tokenizer;
  std::optional<ChatTemplate> chat_template;
  std::string chat_template_source;  // of chat_template
  std::string bos_token, eos_token;  // as text, for the template; empty where the model has none
  GenerationDefaults generation;
};

// `model_path`: a folder, a .safetensors file in one, or a .gguf file. What is missing is absent and no error; what is
// there and broken is one that names file and field.
Result<TextFiles> load_text_files(const std::string& model_path);

// The parts, for tests and for `convert`.
Result<GenerationDefaults> parse_generation_config(std::string_view json, const std::string& file);
Result<std::optional<Vocabulary>> gguf_vocabulary(const Gguf& gguf);
GenerationDefaults gguf_generation_defaults(const Gguf& gguf);

// The tokenizer, or the error that says what was looked for.
Result<const Tokenizer*> require_tokenizer(const TextFiles& files, const std::string& model_path);

// A remark of whoever made the files, to be shown before the model speaks: the text of MODEL.gguf.note beside a GGUF,
// or of NOTE in a folder ("these weights are random: expect nonsense"). At most 4 KiB; control characters are dropped.
std::optional<std::string> model_note(const std::string& model_path);

}  // namespace qnext
