#pragma once
// Which tokenizer a shard's ids are of.

#include <filesystem>

#include "text/tokenizer.h"
#include "train/token_shard.h"

namespace qnext::train {

// Size and XXH3 of a tokenizer.json. Errors: missing, not a tokenizer that qnext reads.
Result<ShardTokenizer> shard_tokenizer(const std::filesystem::path& tokenizer_json);

// The same for one that was loaded from there.
Result<ShardTokenizer> shard_tokenizer(const std::filesystem::path& tokenizer_json, const Tokenizer& tokenizer);

}  // namespace qnext::train
