#pragma once
// Trains a tokenizer of the Qwen family's form: byte-level BPE, NFC, its word pattern (digits one by one).

#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"

struct QnWordCounts;

namespace qnext {

struct AddedToken {
  std::string content;
  bool special = false;  // left out of decoded text, as <|im_end|> is; <think> is not
};

class TokenizerTrainer {
 public:
  TokenizerTrainer();

  // Counts the words of a text. Memory: the distinct words. Errors: text that is not UTF-8.
  Status add(std::string_view text);

  // The text of a tokenizer.json with the 256 bytes, the most useful pairs, and then `added`; at most vocab_size
  // tokens, and fewer where no pair comes twice. Errors: a vocab_size that is too small for bytes and added tokens, or
  // over 2^20.
  Result<std::string> train(std::size_t vocab_size, std::span<const AddedToken> added) const;

 private:
  std::shared_ptr<QnWordCounts> counts_;
};

}  // namespace qnext
