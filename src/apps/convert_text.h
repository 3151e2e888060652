#pragma once
// What a checkpoint carries beside its weights (tokenizer, chat template, sampling defaults), from the files of a
// safetensors folder into GGUF metadata and back.

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "model/config.h"
#include "model/export_metadata.h"
#include "tensor/gguf.h"
#include "tensor/gguf_writer.h"
#include "text/vocabulary.h"

namespace qnext {

struct TextParts {
  std::optional<Vocabulary> vocabulary;  // none when the folder has no tokenizer.json
  std::optional<std::string> chat_template;
  SamplingDefaults sampling;
};

// Reads tokenizer.json, tokenizer_config.json, chat_template.jinja, generation_config.json and the token ids of
// config.json, as far as they are there. Ids that the tokenizer's files leave open come from config.json, then from
// generation_config.json (the first of a list), as in llama.cpp's converter. vocab_size: the model's.
// Errors: a file that is not what it should be; a tokenizer with more tokens than the model.
Result<TextParts> load_text_parts(const std::filesystem::path& folder, std::size_t vocab_size);

// tokenizer.ggml.* and tokenizer.chat_template, in the order of llama.cpp's converter (gguf-py, vocab.py).
void add_text_metadata(GgufHeader& header, const TextParts& parts);

struct SideFile {
  std::string name;
  std::string content;
};

// The files of a safetensors folder that a copy in another type takes along unchanged.
Result<std::vector<SideFile>> load_side_files(const std::filesystem::path& folder);

struct GgufSideFiles {
  std::vector<SideFile> files;  // all but config.json
  SpecialTokens special_tokens;
  std::string note;  // what could not be derived, and why; else empty
};

// tokenizer.json, tokenizer_config.json, chat_template.jinja and generation_config.json, as far as the metadata has
// what they need. Errors: metadata that contradicts itself.
Result<GgufSideFiles> make_side_files(const Gguf& gguf, const ModelConfig& config);

}  // namespace qnext
