// A tokenizer.json and a tokenizer_config.json, and text and ids for a tokenizer of 259 tokens: an error or an answer,
// never a crash; what was encoded decodes to the same text (after NFC), and pieces of ids are the whole.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "text/detokenizer.h"
#include "text/tokenizer.h"
#include "text/tokenizer_config.h"

namespace {

using qnext::TokenId;

// 256 byte tokens in the byte-level alphabet, one merge and two added tokens.
qnext::Vocabulary tiny_vocabulary() {
  qnext::Vocabulary vocabulary{.pre = "qwen2", .special = {}, .add_bos = {}};
  std::uint32_t next_code = 256;
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
    const std::uint32_t code = printable ? byte : next_code++;
    std::string token;
    if (code < 0x80) {
      token += static_cast<char>(code);
    } else {
      token += static_cast<char>(0xC0 | (code >> 6));
      token += static_cast<char>(0x80 | (code & 0x3F));
    }
    vocabulary.tokens.push_back(token);
    vocabulary.token_types.push_back(1);
  }
  for (const char* token : {"ab", "<|im_end|>", "<think>"}) vocabulary.tokens.push_back(token);
  for (const int type : {1, 3, 4}) vocabulary.token_types.push_back(type);
  vocabulary.merges.push_back("a b");
  return vocabulary;
}

void check_text(const qnext::Tokenizer& tokenizer, std::string_view text) {
  const auto ids = tokenizer.encode(text);
  if (!ids.ok()) return;
  const std::string decoded = tokenizer.decode(*ids).value();
  const auto again = tokenizer.encode(decoded);
  QN_CHECK(again.ok(), "decoded text does not encode: {}", again.message());
  QN_CHECK(tokenizer.decode(*again).value() == decoded, "a text changed on its second way through");
}

void check_ids(const qnext::Tokenizer& tokenizer, std::string_view bytes) {
  std::vector<TokenId> ids(bytes.size() / 2);
  for (std::size_t idx = 0; idx < ids.size(); ++idx) {
    std::uint16_t id = 0;
    std::memcpy(&id, bytes.data() + 2 * idx, 2);
    ids[idx] = id % 300;
  }
  qnext::Detokenizer detokenizer(tokenizer);
  std::string pieces;
  for (const TokenId id : ids) pieces += detokenizer.feed(id);
  pieces += detokenizer.finish();
  QN_CHECK(pieces == tokenizer.decode(ids).value(), "the pieces are not the whole");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t num_bytes) {
  static const qnext::Tokenizer tiny = qnext::Tokenizer::from_vocabulary(tiny_vocabulary()).value();
  const std::string_view bytes(reinterpret_cast<const char*>(data), num_bytes);
  (void)qnext::Tokenizer::from_json(bytes).ok();
  (void)qnext::parse_tokenizer_config(bytes, "fuzz").ok();
  check_text(tiny, bytes);
  check_ids(tiny, bytes);
  return 0;
}
