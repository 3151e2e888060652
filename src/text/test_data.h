#pragma once
// Golden files that the tests of this room share.

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

#include "text/tokenizer.h"

namespace qnext {

inline std::string data_path(const std::string& name) {
  return std::string(QNEXT_SOURCE_DIR "/tests/data/text/") + name;
}

// The family's own tokenizer is too large for the repository; scripts/setup.sh downloads it.
inline std::string qwen3_tokenizer_path() {
  return QNEXT_SOURCE_DIR "/build/downloads/tokenizer-qwen3/tokenizer.json";
}

inline std::string read_file(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

inline nlohmann::json read_json(const std::string& name) {
  return nlohmann::json::parse(read_file(data_path(name)));
}

inline Tokenizer small_tokenizer() {
  return Tokenizer::load_file(data_path("tokenizer-small/tokenizer.json")).value();
}

// tokenizer.ggml.* of the GGUF that llama.cpp's converter wrote from tokenizer-small.
inline Vocabulary gguf_vocabulary() {
  const nlohmann::json json = read_json("gguf_vocabulary.json");
  return {.pre = json["pre"],
          .tokens = json["tokens"],
          .token_types = json["token_type"],
          .merges = json["merges"],
          .special = {.bos = {}, .eos = json["eos_token_id"], .pad = json["padding_token_id"]},
          .add_bos = {}};
}

}  // namespace qnext
