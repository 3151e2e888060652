#pragma once
// Token shards: documents as token ids in a safetensors file, memory-mapped, and the batches that training takes from
// them: documents in a shuffled order, one after the other, with nothing between them and nothing wasted.
//   tokens  I32 [N]      all documents' tokens; each ends with the end-of-text token
//   bounds  I64 [M + 1]  where documents begin, and last N
//   learned U8  [N]      1: the loss counts this token; 0: it is read only (a prompt)
// Metadata: "format": "qnext-tokens-1", "vocab_size", "tokenizer_xxh3" (of tokenizer.json's bytes).

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/units.h"
#include "tensor/safetensors.h"
#include "train/ops.h"

namespace qnext::train {

struct TokenDocument {
  std::vector<TokenId> tokens;
  std::vector<std::uint8_t> learned;  // empty: all
};

struct ShardTokenizer {
  std::size_t vocab_size = 0;
  std::string hash;  // of the tokenizer.json, so that a shard of another vocabulary is refused
};

// Writes NAME.safetensors whole or not at all. Errors: no document, AtomicFile's.
Status write_token_shard(const std::filesystem::path& path, std::span<const TokenDocument> documents,
                         const ShardTokenizer& tokenizer);

class TokenShard {
 public:
  // Errors: not a token shard, another tokenizer's, bounds that do not ascend, an id outside the vocabulary.
  static Result<TokenShard> open(const std::filesystem::path& path, const ShardTokenizer& tokenizer);

  std::int64_t num_documents() const { return std::ssize(bounds_) - 1; }
  std::int64_t num_tokens() const { return bounds_.back(); }
  std::int64_t document_tokens(std::int64_t document) const {
    return bounds_[at(document + 1)] - bounds_[at(document)];
  }

  // Copies tokens [begin, begin + count) of a document.
  void copy(std::int64_t document, std::int64_t begin, std::int64_t count, std::int64_t* tokens, float* learned) const;

 private:
  explicit TokenShard(Safetensors file) : file_(std::move(file)) {}
  static std::size_t at(std::int64_t number) { return static_cast<std::size_t>(number); }

  Safetensors file_;
  std::vector<std::int64_t> bounds_;
  const std::byte* tokens_ = nullptr;
  const std::byte* learned_ = nullptr;
};

// What a step of training reads. Labels and weights are those of position t's prediction of token t + 1.
struct Batch {
  Tensor tokens;                          // [T] int64
  Tensor learned;                         // [T] float, 1 where the loss counts the token
  Bounds bounds;                          // of documents, or of pieces of at most the context
  std::int64_t predicted_tokens() const;  // learned tokens that some position of the batch predicts
};

// Each document of [T] values moved `by` tokens towards its begin; what has no source is 0.
Tensor shifted(const Tensor& values, const Bounds& bounds, std::int64_t by);

// Where reading goes on: enough to continue bit for bit.
struct DataPosition {
  std::int64_t epoch = 0;
  std::int64_t document = 0;  // in the epoch's order
  std::int64_t token = 0;     // in it
};

class BatchStream {
 public:
  // Documents of all shards together, in an order that depends on the seed and the epoch alone. Pieces are at most
  // context_tokens long; a document that is cut goes on, as a piece of its own, where the next piece begins.
  BatchStream(std::vector<TokenShard> shards, std::int64_t context_tokens, std::uint64_t seed);

  Batch next(std::int64_t num_tokens);

  const DataPosition& position() const { return position_; }
  Status go_to(const DataPosition& position);  // error: outside the data
  std::int64_t num_tokens() const;             // of an epoch

 private:
  struct Document {
    std::uint32_t shard = 0, document = 0;
  };
  void shuffle();

  std::vector<TokenShard> shards_;
  std::vector<Document> all_, order_;
  std::int64_t context_tokens_;
  std::uint64_t seed_;
  DataPosition position_;
};

// [0, total) in an order that depends on the seed alone; its first n are a uniform subset of n.
std::vector<std::int64_t> uniform_order(std::int64_t total, std::uint64_t seed);

// Documents drawn uniformly, in the order in which they were, until they hold `num_tokens`, or all.
std::vector<std::int64_t> uniform_subset(const TokenShard& shard, std::int64_t num_tokens, std::uint64_t seed);

}  // namespace qnext::train
