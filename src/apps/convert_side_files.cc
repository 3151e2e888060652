// From GGUF metadata to the files of a safetensors folder.
#include <cmath>
#include <nlohmann/json.hpp>

#include "apps/convert_text.h"

namespace qnext {
namespace {

using Json = nlohmann::ordered_json;

// tokenizer.ggml.token_type
constexpr std::int32_t kNormal = 1;
constexpr std::int32_t kControl = 3;
constexpr std::int32_t kUserDefined = 4;

// The family's word patterns by their names in GGUF. Source: the tokenizer.json of Qwen2 to Qwen3.5.
std::optional<std::string_view> try_word_pattern(std::string_view pre) {
  if (pre == "qwen2") {
    return R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  }
  if (pre == "qwen35") {
    return R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  }
  return std::nullopt;
}

Result<SideFile> side_file(std::string name, const Json& json) {
  try {
    return SideFile{std::move(name), json.dump(2) + "\n"};
  } catch (const Json::type_error&) {
    return error("{} cannot be made: the GGUF's metadata holds text that is not UTF-8", name);
  }
}

Json byte_level(bool add_prefix_space, bool use_regex) {
  return {
      {"type", "ByteLevel"}, {"add_prefix_space", add_prefix_space}, {"trim_offsets", true}, {"use_regex", use_regex}};
}

struct GgufVocabulary {
  std::vector<std::string_view> tokens;
  std::vector<std::int32_t> types;
  std::vector<std::string_view> merges;
};

Result<GgufVocabulary> read_vocabulary(const Gguf& gguf) {
  GgufVocabulary out;
  QN_TRY(out.tokens, gguf.get_strings("tokenizer.ggml.tokens"));
  QN_TRY(out.types, gguf.get_i32s("tokenizer.ggml.token_type"));
  QN_TRY(out.merges, gguf.get_strings("tokenizer.ggml.merges"));
  if (out.types.size() != out.tokens.size()) {
    return error("{}: key 'tokenizer.ggml.token_type': expected {} entries, one a token, found {}",
                 gguf.file_names().front(), out.tokens.size(), out.types.size());
  }
  return out;
}

// Normal tokens with their merges are the model; control and user-defined ones are added to it; unused ones are
// padding.
Json tokenizer_json(const GgufVocabulary& vocabulary, std::string_view word_pattern) {
  Json added = Json::array();
  Json::object_t normal;
  for (std::size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    const std::int32_t type = vocabulary.types[id];
    if (type == kNormal) {
      // Straight to the end: ordered_json would look for the key first, among all before it.
      static_cast<std::vector<Json::object_t::value_type>&>(normal).emplace_back(std::string(vocabulary.tokens[id]),
                                                                                 id);
    } else if (type == kControl || type == kUserDefined) {
      added.push_back({{"id", id},
                       {"content", vocabulary.tokens[id]},
                       {"single_word", false},
                       {"lstrip", false},
                       {"rstrip", false},
                       {"normalized", false},
                       {"special", type == kControl}});
    }
  }
  Json merges = Json::array();
  for (const std::string_view merge : vocabulary.merges) {
    const std::size_t space = merge.find(' ');
    merges.push_back({merge.substr(0, space), space == merge.npos ? std::string_view() : merge.substr(space + 1)});
  }
  const Json split = {
      {"type", "Split"}, {"pattern", {{"Regex", word_pattern}}}, {"behavior", "Isolated"}, {"invert", false}};
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", std::move(added)},
          {"normalizer", {{"type", "NFC"}}},
          {"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", {split, byte_level(false, false)}}}},
          {"post_processor", byte_level(false, false)},
          {"decoder", byte_level(false, false)},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"ignore_merges", false},
            {"vocab", std::move(normal)},
            {"merges", std::move(merges)}}}};
}

std::optional<TokenId> try_token_id(const Gguf& gguf, std::string_view key, std::size_t vocab_size) {
  const auto id = gguf.get_u32(key);
  if (!id.ok() || *id >= vocab_size) return std::nullopt;
  return static_cast<TokenId>(*id);
}

Json tokenizer_config(const Gguf& gguf, const GgufVocabulary& vocabulary, const SpecialTokens& special) {
  const auto text_of = [&](std::optional<TokenId> id) {
    const bool known = id && static_cast<std::size_t>(*id) < vocabulary.tokens.size();
    return known ? Json(vocabulary.tokens[static_cast<std::size_t>(*id)]) : Json(nullptr);
  };
  Json out = {{"tokenizer_class", "Qwen2Tokenizer"},
              {"bos_token", text_of(special.bos)},
              {"eos_token", text_of(special.eos)},
              {"pad_token", text_of(special.pad)}};
  if (const auto add_bos = gguf.get_bool("tokenizer.ggml.add_bos_token"); add_bos.ok()) out["add_bos_token"] = *add_bos;
  return out;
}

Json generation_config(const Gguf& gguf, const SpecialTokens& special) {
  Json out = Json::object();
  if (special.bos) out["bos_token_id"] = *special.bos;
  if (special.eos) out["eos_token_id"] = *special.eos;
  if (special.pad) out["pad_token_id"] = *special.pad;
  const std::pair<const char*, const char*> numbers[] = {{"general.sampling.top_p", "top_p"},
                                                         {"general.sampling.min_p", "min_p"},
                                                         {"general.sampling.temp", "temperature"},
                                                         {"general.sampling.penalty_repeat", "repetition_penalty"}};
  bool samples = false;
  for (const auto& [key, field] : numbers) {
    const auto number = gguf.get_f32(key);
    if (!number.ok() || !std::isfinite(*number)) continue;
    out[field] = std::stod(fmt::format("{}", *number));  // 0.7, not the double next to 0.7f
    samples = true;
  }
  if (const auto top_k = gguf.get_u32("general.sampling.top_k"); top_k.ok()) {
    out["top_k"] = *top_k;
    samples = true;
  }
  if (samples) out["do_sample"] = true;
  return out;
}

}  // namespace

Result<GgufSideFiles> make_side_files(const Gguf& gguf, const ModelConfig& config) {
  GgufSideFiles out;
  out.special_tokens = {.bos = try_token_id(gguf, "tokenizer.ggml.bos_token_id", config.V),
                        .eos = try_token_id(gguf, "tokenizer.ggml.eos_token_id", config.V),
                        .pad = try_token_id(gguf, "tokenizer.ggml.padding_token_id", config.V)};
  if (const Json generation = generation_config(gguf, out.special_tokens); !generation.empty()) {
    QN_TRY(SideFile file, side_file("generation_config.json", generation));
    out.files.push_back(std::move(file));
  }
  if (const auto chat_template = gguf.get_string("tokenizer.chat_template"); chat_template.ok()) {
    out.files.push_back({"chat_template.jinja", std::string(*chat_template)});
  }
  if (gguf.find("tokenizer.ggml.tokens") == nullptr) {
    out.note = fmt::format("{}: has no tokenizer: the folder gets none", gguf.file_names().front());
    return out;
  }
  QN_TRY(const GgufVocabulary vocabulary, read_vocabulary(gguf));
  QN_TRY(SideFile file, side_file("tokenizer_config.json", tokenizer_config(gguf, vocabulary, out.special_tokens)));
  out.files.push_back(std::move(file));
  QN_TRY(const std::string_view pre, gguf.get_string("tokenizer.ggml.pre"));
  const auto word_pattern = try_word_pattern(pre);
  if (!word_pattern) {
    out.note = fmt::format("{}: no tokenizer.json can be derived: the pre-tokenizer '{}' is none of the Qwen family's",
                           gguf.file_names().front(), printable(pre));
    return out;
  }
  QN_TRY(SideFile tokenizer, side_file("tokenizer.json", tokenizer_json(vocabulary, *word_pattern)));
  out.files.push_back(std::move(tokenizer));
  return out;
}

}  // namespace qnext
