#include "train/tokenizer_hash.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "tensor/mapped_file.h"

namespace qnext::train {

Result<ShardTokenizer> shard_tokenizer(const std::filesystem::path& tokenizer_json) {
  QN_TRY(const Tokenizer tokenizer, Tokenizer::load_file(tokenizer_json));
  return shard_tokenizer(tokenizer_json, tokenizer);
}

Result<ShardTokenizer> shard_tokenizer(const std::filesystem::path& tokenizer_json, const Tokenizer& tokenizer) {
  QN_TRY(const MappedFile file, MappedFile::open(tokenizer_json));
  const std::span<const std::byte> bytes = file.bytes();
  return ShardTokenizer{tokenizer.vocab_size(), fmt::format("{:016x}", XXH3_64bits(bytes.data(), bytes.size()))};
}

}  // namespace qnext::train
