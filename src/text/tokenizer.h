#pragma once
// Text to token ids and back: the byte-level BPE of the Qwen family, as Hugging Face transformers computes it.

#include <cstddef>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/units.h"
#include "text/vocabulary.h"

struct QnTokenizer;

namespace qnext {

struct EncodeOptions {
  bool add_special =
      false;  // put the tokens around the text that the tokenizer's files ask for (the Qwen family: none)
  bool parse_special =
      true;  // "<|im_end|>" in the text is that token; false: it is text. "<think>" is a token either way.
};

// Copies are cheap and share one vocabulary. Safe for many threads at once.
class Tokenizer {
 public:
  // From a tokenizer.json, and from the tokenizer_config.json beside it where there is one (its bos, eos and pad tokens
  // and add_bos_token). 0.4 s for the family's 151,669 tokens.
  static Result<Tokenizer> load_file(const std::filesystem::path& tokenizer_json);

  // From the text of a tokenizer.json: special_ids() are all nullopt. Byte-level BPE with all 256 bytes, NFC or no
  // normalizer and a word pattern of the Qwen family are what is supported; anything else is an error that names the
  // field.
  static Result<Tokenizer> from_json(std::string_view tokenizer_json);

  // From the vocabulary in a GGUF. Unused tokens (type 5) are left out: their ids have no token.
  static Result<Tokenizer> from_vocabulary(const Vocabulary& vocabulary);

  // What a GGUF needs, as llama.cpp's converter writes it. vocab_size is the model's (its embedding's rows), at least
  // this->vocab_size(); ids without a token are padding, "[PAD151669]" of type 5.
  Result<Vocabulary> vocabulary(std::size_t vocab_size) const;

  // Errors: text that is not UTF-8.
  Result<std::vector<TokenId>> encode(std::string_view text, const EncodeOptions& options = {}) const;

  // The tokens' bytes as UTF-8, each invalid sequence as U+FFFD; ids without a token are nothing, as in transformers.
  // skip_special leaves special tokens out. Errors: a negative id.
  Result<std::string> decode(std::span<const TokenId> ids, bool skip_special = false) const;

  // The bytes that a token stands for, maybe not UTF-8 by themselves; empty for an id without a token.
  // The view lives as long as any copy of the tokenizer.
  std::string_view token_bytes(TokenId id) const;

  // Whether skip_special leaves the token out: <|im_end|> is special, <think> is not.
  bool is_special(TokenId id) const;

  // 1 + the largest id with a token. The model's vocabulary may be larger.
  std::size_t vocab_size() const;

  // The token that stands for exactly this text.
  std::optional<TokenId> token_to_id(std::string_view text) const;

  const SpecialIds& special_ids() const { return special_ids_; }
  std::optional<bool> add_bos() const { return add_bos_; }

  // For the other bindings of src/text.
  const QnTokenizer* handle() const { return handle_.get(); }

 private:
  explicit Tokenizer(QnTokenizer* handle);

  std::shared_ptr<const QnTokenizer> handle_;
  SpecialIds special_ids_;
  std::optional<bool> add_bos_;
};

}  // namespace qnext
