// From a folder's files to GGUF metadata.
#include "apps/convert_text.h"

#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <span>

#include "apps/console.h"
#include "tensor/atomic_file.h"
#include "text/tokenizer.h"
#include "text/tokenizer_config.h"

namespace qnext {
namespace fs = std::filesystem;

namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kMaxJsonBytes = std::size_t{16} << 20;
constexpr std::size_t kMaxTokenizerBytes = std::size_t{256} << 20;

// The object in a file; an empty one when the file is not there.
Result<Json> load_object(const fs::path& path) {
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return Json::object();
  QN_TRY(const std::string text, read_file(path, kMaxJsonBytes));
  Json root = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!root.is_object()) return error("{}: expected a JSON object; check that the file is complete", path.string());
  return root;
}

// A token's id, or the first of a list of them.
std::optional<TokenId> try_token_id(const Json& object, const char* field, std::size_t vocab_size) {
  auto found = object.find(field);
  if (found == object.end()) return std::nullopt;
  const Json& id = found->is_array() && !found->empty() ? found->front() : *found;
  if (!id.is_number_unsigned() || id.get<std::size_t>() >= vocab_size) return std::nullopt;
  return id.get<TokenId>();
}

std::optional<float> try_number(const Json& object, const char* field) {
  const auto found = object.find(field);
  if (found == object.end() || !found->is_number()) return std::nullopt;
  return found->get<float>();
}

SamplingDefaults parse_sampling(const Json& generation) {
  SamplingDefaults out;
  const auto top_k = generation.find("top_k");
  if (top_k != generation.end() && top_k->is_number_unsigned() && top_k->get<std::size_t>() <= UINT32_MAX) {
    out.top_k = top_k->get<std::uint32_t>();
  }
  out.top_p = try_number(generation, "top_p");
  out.min_p = try_number(generation, "min_p");
  out.temperature = try_number(generation, "temperature");
  out.repetition_penalty = try_number(generation, "repetition_penalty");
  return out;
}

}  // namespace

Result<TextParts> load_text_parts(const fs::path& folder, std::size_t vocab_size) {
  TextParts out;
  QN_TRY(const Json config, load_object(folder / "config.json"));
  QN_TRY(const Json generation, load_object(folder / "generation_config.json"));
  out.sampling = parse_sampling(generation);
  QN_TRY(TokenizerConfig tokenizer_config, load_tokenizer_config(folder));
  out.chat_template = std::move(tokenizer_config.chat_template);

  std::error_code ignored;
  if (!fs::exists(folder / "tokenizer.json", ignored)) return out;
  QN_TRY(const Tokenizer tokenizer, Tokenizer::load_file(folder / "tokenizer.json"));
  QN_TRY(out.vocabulary, tokenizer.vocabulary(vocab_size));
  SpecialIds& special = out.vocabulary->special;
  for (const Json* object : {&config, &generation}) {
    if (!special.bos) special.bos = try_token_id(*object, "bos_token_id", vocab_size);
    if (!special.eos) special.eos = try_token_id(*object, "eos_token_id", vocab_size);
    if (!special.pad) special.pad = try_token_id(*object, "pad_token_id", vocab_size);
  }
  return out;
}

void add_text_metadata(GgufHeader& header, const TextParts& parts) {
  if (parts.vocabulary) {
    const Vocabulary& vocabulary = *parts.vocabulary;
    const auto views = [](const std::vector<std::string>& strings) {
      return std::vector<std::string_view>(strings.begin(), strings.end());
    };
    header.add_string("tokenizer.ggml.model", "gpt2");
    header.add_string("tokenizer.ggml.pre", vocabulary.pre);
    header.add_strings("tokenizer.ggml.tokens", views(vocabulary.tokens));
    header.add_i32s("tokenizer.ggml.token_type", vocabulary.token_types);
    header.add_strings("tokenizer.ggml.merges", views(vocabulary.merges));
    const auto add_id = [&](std::string_view key, std::optional<TokenId> id) {
      if (id) header.add_u32(key, static_cast<std::uint32_t>(*id));
    };
    add_id("tokenizer.ggml.bos_token_id", vocabulary.special.bos);
    add_id("tokenizer.ggml.eos_token_id", vocabulary.special.eos);
    add_id("tokenizer.ggml.padding_token_id", vocabulary.special.pad);
    if (vocabulary.add_bos) header.add_bool("tokenizer.ggml.add_bos_token", *vocabulary.add_bos);
  }
  if (parts.chat_template) header.add_string("tokenizer.chat_template", *parts.chat_template);
}

Result<std::vector<SideFile>> load_side_files(const fs::path& folder) {
  static constexpr std::array<const char*, 8> kNames = {
      "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",    "generation_config.json", "vocab.json",
      "merges.txt",     "added_tokens.json",     "special_tokens_map.json"};
  std::vector<SideFile> out;
  for (const char* name : kNames) {
    std::error_code ignored;
    if (!fs::exists(folder / name, ignored)) continue;
    QN_TRY(std::string content, read_file(folder / name, kMaxTokenizerBytes));
    out.push_back({name, std::move(content)});
  }
  return out;
}

}  // namespace qnext
