#include "text/tokenizer.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "text/rust_call.h"
#include "text/tokenizer_config.h"
#include "text/utf8.h"

namespace qnext {
namespace {

constexpr std::size_t kMaxFileBytes = std::size_t{256} << 20;  // the family's tokenizer.json has 11 MB

Result<std::optional<TokenId>> special_id(const Tokenizer& tokenizer, const std::optional<std::string>& token,
                                          std::string_view field) {
  if (!token) return std::optional<TokenId>();
  if (const auto id = tokenizer.token_to_id(*token)) return id;
  return error("tokenizer_config.json: {}: \"{}\" is not a token of tokenizer.json", field, *token);
}

// nlohmann throws on text that is not UTF-8.
Result<std::string> dump(const nlohmann::json& json) {
  try {
    return json.dump();
  } catch (const nlohmann::json::exception& failure) {
    return error("vocabulary: a text is not UTF-8: {}", failure.what());
  }
}

}  // namespace

Tokenizer::Tokenizer(QnTokenizer* handle) : handle_(handle, &qn_tokenizer_free) {}

Result<Tokenizer> Tokenizer::load_file(const std::filesystem::path& tokenizer_json) {
  QN_TRY(const std::string text, load_text_file(tokenizer_json, kMaxFileBytes));
  QnTokenizer* handle = nullptr;
  QN_RETURN_IF_ERROR(
      take_status(qn_tokenizer_from_json(rust_text(text), text.size(), &handle), tokenizer_json.string()));
  Tokenizer tokenizer(handle);
  QN_TRY(const TokenizerConfig config, load_tokenizer_config(tokenizer_json.parent_path()));
  QN_TRY(tokenizer.special_ids_.bos, special_id(tokenizer, config.bos_token, "bos_token"));
  QN_TRY(tokenizer.special_ids_.eos, special_id(tokenizer, config.eos_token, "eos_token"));
  QN_TRY(tokenizer.special_ids_.pad, special_id(tokenizer, config.pad_token, "pad_token"));
  tokenizer.add_bos_ = config.add_bos_token;
  return tokenizer;
}

Result<Tokenizer> Tokenizer::from_json(std::string_view tokenizer_json) {
  QnTokenizer* handle = nullptr;
  QN_RETURN_IF_ERROR(
      take_status(qn_tokenizer_from_json(rust_text(tokenizer_json), tokenizer_json.size(), &handle), "tokenizer.json"));
  return Tokenizer(handle);
}

Result<Tokenizer> Tokenizer::from_vocabulary(const Vocabulary& vocabulary) {
  const SpecialIds& special = vocabulary.special;
  for (const std::optional<TokenId> id : {special.bos, special.eos, special.pad}) {
    if (id && (*id < 0 || static_cast<std::size_t>(*id) >= vocabulary.tokens.size())) {
      return error("vocabulary: special token id {} is outside of the {} tokens", *id, vocabulary.tokens.size());
    }
  }
  const bool begins = vocabulary.add_bos.value_or(false);
  if (begins && !special.bos) return error("vocabulary: add_bos_token is true but there is no bos_token_id");
  nlohmann::json json = {{"pre", vocabulary.pre},
                         {"tokens", vocabulary.tokens},
                         {"types", vocabulary.token_types},
                         {"merges", vocabulary.merges},
                         {"begin_id", nullptr}};
  if (begins) json["begin_id"] = *special.bos;
  QN_TRY(const std::string text, dump(json));
  QnTokenizer* handle = nullptr;
  QN_RETURN_IF_ERROR(take_status(qn_tokenizer_from_vocabulary(rust_text(text), text.size(), &handle), "vocabulary"));
  Tokenizer tokenizer(handle);
  tokenizer.special_ids_ = special;
  tokenizer.add_bos_ = vocabulary.add_bos;
  return tokenizer;
}

Result<Vocabulary> Tokenizer::vocabulary(std::size_t vocab_size) const {
  QnBytes bytes = {};
  QN_RETURN_IF_ERROR(take_status(qn_tokenizer_to_vocabulary(handle(), vocab_size, &bytes), "vocabulary"));
  const nlohmann::json json = nlohmann::json::parse(take_text(bytes), nullptr, /*allow_exceptions=*/false);
  QN_CHECK(json.is_object(), "the Rust crate wrote something that is not JSON");
  return Vocabulary{.pre = json["pre"].get<std::string>(),
                    .tokens = json["tokens"].get<std::vector<std::string>>(),
                    .token_types = json["types"].get<std::vector<std::int32_t>>(),
                    .merges = json["merges"].get<std::vector<std::string>>(),
                    .special = special_ids_,
                    .add_bos = add_bos_};
}

Result<std::vector<TokenId>> Tokenizer::encode(std::string_view text, const EncodeOptions& options) const {
  QnIds ids = {};
  QN_RETURN_IF_ERROR(take_status(
      qn_tokenizer_encode(handle(), rust_text(text), text.size(), options.add_special, options.parse_special, &ids),
      "tokenizing"));
  std::vector<TokenId> out(ids.data, ids.data + ids.count);
  qn_ids_free(ids);
  return out;
}

Result<std::string> Tokenizer::decode(std::span<const TokenId> ids, bool skip_special) const {
  std::string out;
  Utf8Repair repair;
  for (const TokenId id : ids) {
    if (id < 0) return error("detokenizing: token id {} is negative", id);
    if (skip_special && is_special(id)) continue;
    repair.append(out, token_bytes(id));
  }
  repair.finish(out);
  return out;
}

std::string_view Tokenizer::token_bytes(TokenId id) const {
  // A negative id becomes one beyond every vocabulary.
  const QnToken token = qn_tokenizer_token(handle(), static_cast<std::uint32_t>(id));
  return {reinterpret_cast<const char*>(token.data), token.num_bytes};
}

bool Tokenizer::is_special(TokenId id) const {
  return qn_tokenizer_token(handle(), static_cast<std::uint32_t>(id)).kind == kQnTokenSpecial;
}

std::size_t Tokenizer::vocab_size() const {
  return qn_tokenizer_num_ids(handle());
}

std::optional<TokenId> Tokenizer::token_to_id(std::string_view text) const {
  std::uint32_t id = 0;
  if (!qn_tokenizer_find(handle(), rust_text(text), text.size(), &id)) return std::nullopt;
  return static_cast<TokenId>(id);
}

}  // namespace qnext
