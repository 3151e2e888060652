#pragma once
// The vocabulary as a GGUF file has it (tokenizer.ggml.*), for reading one and for writing one.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/units.h"

namespace qnext {

// The ids that a model's files name; what is not named is nullopt.
struct SpecialIds {
  std::optional<TokenId> bos;  // begins a text
  std::optional<TokenId> eos;  // ends a turn
  std::optional<TokenId> pad;
};

struct Vocabulary {
  std::string pre;                        // .pre: the name of the word pattern, "qwen2" for the family
  std::vector<std::string> tokens;        // .tokens: by id; normal ones in GPT-2's byte-level alphabet
  std::vector<std::int32_t> token_types;  // .token_type: 1 normal, 3 control, 4 user-defined, 5 unused
  std::vector<std::string> merges;        // .merges: "left right", best first
  SpecialIds special;                     // .{bos,eos,padding}_token_id
  std::optional<bool> add_bos;            // .add_bos_token
};

}  // namespace qnext
