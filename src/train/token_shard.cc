#include "train/token_shard.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <numeric>

#include "base/split_mix.h"
#include "tensor/safetensors_writer.h"

namespace qnext::train {
namespace {

constexpr const char* kFormat = "qnext-tokens-1";

// In [0, count), by Lemire's multiplication: its bias is below count / 2^64.
std::uint64_t below(SplitMix& random, std::uint64_t count) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<std::uint64_t>((static_cast<Wide>(random.next()) * count) >> 64);
}

template <class Value>
void shuffle_with(std::vector<Value>& values, SplitMix random) {
  for (std::size_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[below(random, i)]);
}

template <class Value>
std::span<const std::byte> bytes_of(const std::vector<Value>& values) {
  return std::as_bytes(std::span(values));
}

Result<const TensorEntry*> require(const Safetensors& file, const char* name, DType type) {
  const TensorEntry* entry = file.find(name);
  if (entry == nullptr || entry->type != type || entry->shape.size() != 1) {
    return error("{}: expected a tensor \"{}\" of type {} and one axis: not a token shard (qnext data pack makes them)",
                 file.file_names().front(), name, dtype_info(type).name);
  }
  return entry;
}

Status check_tokenizer(const Safetensors& file, const ShardTokenizer& tokenizer) {
  const auto& metadata = file.metadata();
  const auto value = [&](const char* key) { return metadata.contains(key) ? metadata.at(key) : std::string(); };
  const std::string& name = file.file_names().front();
  if (value("format") != kFormat) {
    return error(
        "{}: expected metadata \"format\": \"{}\", found \"{}\": not a token shard (qnext data pack makes them)", name,
        kFormat, printable(value("format")));
  }
  if (value("tokenizer_xxh3") != tokenizer.hash) {
    return error(
        "{}: these tokens were made with another tokenizer (hash {}, the recipe's has {}): pack the texts again", name,
        printable(value("tokenizer_xxh3")), tokenizer.hash);
  }
  return success();
}

}  // namespace

Status write_token_shard(const std::filesystem::path& path, std::span<const TokenDocument> documents,
                         const ShardTokenizer& tokenizer) {
  std::vector<TokenId> tokens;
  std::vector<std::int64_t> bounds = {0};
  std::vector<std::uint8_t> learned;
  for (const TokenDocument& document : documents) {
    if (document.tokens.empty()) continue;
    tokens.insert(tokens.end(), document.tokens.begin(), document.tokens.end());
    if (document.learned.empty()) learned.resize(tokens.size(), 1);
    learned.insert(learned.end(), document.learned.begin(), document.learned.end());
    QN_CHECK(learned.size() == tokens.size(), "{} marks for {} tokens", learned.size(), tokens.size());
    bounds.push_back(std::ssize(tokens));
  }
  if (tokens.empty()) return error("{}: there is no document to write: the input has no text", path.string());
  const SafetensorsSpec spec{.tensors = {{"tokens", DType::kI32, {tokens.size()}},
                                         {"bounds", DType::kI64, {bounds.size()}},
                                         {"learned", DType::kU8, {learned.size()}}},
                             .metadata = {{"format", kFormat},
                                          {"vocab_size", std::to_string(tokenizer.vocab_size)},
                                          {"tokenizer_xxh3", tokenizer.hash}},
                             .max_shard_bytes = std::nullopt};
  QN_TRY(SafetensorsWriter writer, SafetensorsWriter::create(path, spec));
  QN_RETURN_IF_ERROR(writer.append(bytes_of(tokens)));
  QN_RETURN_IF_ERROR(writer.append(bytes_of(bounds)));
  QN_RETURN_IF_ERROR(writer.append(bytes_of(learned)));
  return writer.commit();
}

Result<TokenShard> TokenShard::open(const std::filesystem::path& path, const ShardTokenizer& tokenizer) {
  QN_TRY(Safetensors file, Safetensors::open(path));
  QN_RETURN_IF_ERROR(check_tokenizer(file, tokenizer));
  TokenShard out(std::move(file));
  const std::string& name = out.file_.file_names().front();
  QN_TRY(const TensorEntry* tokens, require(out.file_, "tokens", DType::kI32));
  QN_TRY(const TensorEntry* bounds, require(out.file_, "bounds", DType::kI64));
  QN_TRY(const TensorEntry* learned, require(out.file_, "learned", DType::kU8));
  const std::size_t num_tokens = tokens->shape[0];
  out.bounds_.resize(bounds->shape[0]);
  std::memcpy(out.bounds_.data(), bounds->data, bounds->bytes);
  const bool ascends = out.bounds_.size() >= 2 && std::ranges::is_sorted(out.bounds_, std::less_equal<>());
  if (!ascends || out.bounds_.front() != 0 || out.bounds_.back() != static_cast<std::int64_t>(num_tokens) ||
      learned->shape[0] != num_tokens) {
    return error("{}: bounds must ascend from 0 to the {} tokens, one mark a token: the file is damaged", name,
                 num_tokens);
  }
  out.tokens_ = tokens->data;
  out.learned_ = learned->data;
  for (std::size_t i = 0; i < num_tokens; ++i) {
    std::int32_t id = 0;
    std::memcpy(&id, tokens->data + i * sizeof id, sizeof id);
    if (id < 0 || static_cast<std::size_t>(id) >= tokenizer.vocab_size) {
      return error("{}: token {}: expected an id below {}, found {}", name, i, tokenizer.vocab_size, id);
    }
  }
  return out;
}

void TokenShard::copy(std::int64_t document, std::int64_t begin, std::int64_t count, std::int64_t* tokens,
                      float* learned) const {
  const std::int64_t first = bounds_[at(document)] + begin;
  for (std::int64_t i = 0; i < count; ++i) {
    std::int32_t id = 0;
    std::memcpy(&id, tokens_ + at(first + i) * sizeof id, sizeof id);
    tokens[i] = id;
    learned[i] = learned_[at(first + i)] == std::byte{0} ? 0.0f : 1.0f;
  }
}

std::int64_t Batch::predicted_tokens() const {
  double sum = learned.sum().item<double>();
  for (std::size_t i = 0; i + 1 < bounds.size(); ++i) sum -= learned[bounds[i]].item<double>();
  return static_cast<std::int64_t>(sum);
}

Tensor shifted(const Tensor& values, const Bounds& bounds, std::int64_t by) {
  Tensor out = torch::zeros_like(values);
  for (std::size_t i = 0; i + 1 < bounds.size(); ++i) {
    if (bounds[i] + by >= bounds[i + 1]) continue;
    out.slice(0, bounds[i], bounds[i + 1] - by).copy_(values.slice(0, bounds[i] + by, bounds[i + 1]));
  }
  return out;
}

BatchStream::BatchStream(std::vector<TokenShard> shards, std::int64_t context_tokens, std::uint64_t seed)
    : shards_(std::move(shards)), context_tokens_(context_tokens), seed_(seed) {
  for (std::size_t shard = 0; shard < shards_.size(); ++shard) {
    for (std::int64_t document = 0; document < shards_[shard].num_documents(); ++document) {
      all_.push_back({static_cast<std::uint32_t>(shard), static_cast<std::uint32_t>(document)});
    }
  }
  shuffle();
}

void BatchStream::shuffle() {
  order_ = all_;
  shuffle_with(order_, SplitMix(seed_ * 0x2545f4914f6cdd1du + static_cast<std::uint64_t>(position_.epoch)));
}

std::int64_t BatchStream::num_tokens() const {
  return std::accumulate(shards_.begin(), shards_.end(), std::int64_t{0},
                         [](std::int64_t sum, const TokenShard& shard) { return sum + shard.num_tokens(); });
}

Status BatchStream::go_to(const DataPosition& position) {
  const auto fits = [&] {
    if (position.epoch < 0 || position.document < 0 || position.document >= std::ssize(all_)) return false;
    position_ = position;
    shuffle();
    const Document& document = order_[static_cast<std::size_t>(position.document)];
    return position.token >= 0 && position.token < shards_[document.shard].document_tokens(document.document);
  };
  if (!fits()) {
    return error("the checkpoint's place in the data (epoch {}, document {}, token {}) does not exist: other data?",
                 position.epoch, position.document, position.token);
  }
  return success();
}

Batch BatchStream::next(std::int64_t num_tokens) {
  Batch out{.tokens = torch::empty({num_tokens}, torch::kInt64), .learned = torch::empty({num_tokens}), .bounds = {0}};
  while (out.bounds.back() < num_tokens) {
    const Document& document = order_[static_cast<std::size_t>(position_.document)];
    const std::int64_t left = shards_[document.shard].document_tokens(document.document) - position_.token;
    const std::int64_t count = std::min({left, context_tokens_, num_tokens - out.bounds.back()});
    shards_[document.shard].copy(document.document, position_.token, count,
                                 out.tokens.data_ptr<std::int64_t>() + out.bounds.back(),
                                 out.learned.data_ptr<float>() + out.bounds.back());
    out.bounds.push_back(out.bounds.back() + count);
    position_.token += count;
    if (count < left) continue;
    position_.token = 0;
    if (++position_.document == std::ssize(order_)) {
      position_.document = 0;
      ++position_.epoch;
      shuffle();
    }
  }
  return out;
}

std::vector<std::int64_t> uniform_order(std::int64_t total, std::uint64_t seed) {
  std::vector<std::int64_t> out(static_cast<std::size_t>(total));
  std::iota(out.begin(), out.end(), 0);
  shuffle_with(out, SplitMix(seed));
  return out;
}

std::vector<std::int64_t> uniform_subset(const TokenShard& shard, std::int64_t num_tokens, std::uint64_t seed) {
  std::vector<std::int64_t> out = uniform_order(shard.num_documents(), seed);
  std::size_t count = 0;
  for (std::int64_t found = 0; count < out.size() && found < num_tokens; ++count) {
    found += shard.document_tokens(out[count]);
  }
  out.resize(count);
  return out;
}

}  // namespace qnext::train
