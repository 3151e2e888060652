#include "apps/model_files.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "apps/console.h"
#include "model/weights.h"
#include "text/tokenizer_config.h"

namespace qnext {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr std::size_t kMaxGenerationConfigBytes = std::size_t{1} << 20;
constexpr std::size_t kMaxNoteBytes = 4096;
constexpr std::size_t kMaxStopTokens = 256;

bool is_gguf(const fs::path& path) {
  std::error_code ignored;
  return path.extension() == ".gguf" && !fs::is_directory(path, ignored);
}

fs::path folder_of(const fs::path& model_path) {
  std::error_code ignored;
  return fs::is_directory(model_path, ignored) ? model_path : model_path.parent_path();
}

// A number of a GGUF's metadata that need not be there. The authors' advice is not worth failing for: a value of
// another type is as if absent.
template <class T>
std::optional<T> optional_value(const Gguf& gguf, std::string_view key,
                                Result<T> (Gguf::*get)(std::string_view) const) {
  if (gguf.find(key) == nullptr) return std::nullopt;
  Result<T> value = (gguf.*get)(key);
  return value.ok() ? std::optional<T>(*value) : std::nullopt;
}

std::optional<TokenId> token_id(const Gguf& gguf, std::string_view key) {
  const auto id = optional_value(gguf, key, &Gguf::get_u32);
  if (!id || *id > static_cast<std::uint32_t>(std::numeric_limits<TokenId>::max())) return std::nullopt;
  return static_cast<TokenId>(*id);
}

void add_stop_token(GenerationDefaults& defaults, std::optional<TokenId> id) {
  auto& ids = defaults.stop_token_ids;
  if (id && std::find(ids.begin(), ids.end(), *id) == ids.end()) ids.push_back(*id);
}

// Typed access to generation_config.json; remembers the first error.
class GenerationFields {
 public:
  GenerationFields(const Json& root, const std::string& file) : root_(root), file_(file) {}

  std::optional<float> number(const char* key) {
    const Json* field = find(key);
    if (field == nullptr) return std::nullopt;
    const double value = field->is_number() ? field->get<double>() : NAN;
    if (!std::isfinite(value)) return fail(key, "a number", *field), std::nullopt;
    return static_cast<float>(value);
  }
  std::optional<std::size_t> count(const char* key) {
    const Json* field = find(key);
    if (field == nullptr) return std::nullopt;
    if (!field->is_number_unsigned()) return fail(key, "a non-negative whole number", *field), std::nullopt;
    return field->get<std::size_t>();
  }
  std::optional<bool> flag(const char* key) {
    const Json* field = find(key);
    if (field == nullptr) return std::nullopt;
    if (!field->is_boolean()) return fail(key, "true or false", *field), std::nullopt;
    return field->get<bool>();
  }
  // One id, or a list of them.
  void token_ids(const char* key, GenerationDefaults& out) {
    const Json* field = find(key);
    if (field == nullptr) return;
    const Json ids = field->is_array() ? *field : Json::array({*field});
    for (const Json& id : ids) {
      if (!id.is_number_unsigned() || id.get<std::uint64_t>() > std::numeric_limits<TokenId>::max() ||
          ids.size() > kMaxStopTokens) {
        return fail(key, "a token id, or a list of them", *field);
      }
      add_stop_token(out, id.get<TokenId>());
    }
  }
  Status status() const { return message_.empty() ? success() : Status(Error{message_}); }

 private:
  const Json* find(const char* key) const {
    const auto it = root_.find(key);
    return it == root_.end() || it->is_null() ? nullptr : &*it;
  }
  void fail(const char* key, std::string_view expected, const Json& found) {
    if (message_.empty()) {
      message_ = fmt::format("{}: {}: expected {}, found {}", file_, key, expected,
                             printable(found.dump(-1, ' ', true, Json::error_handler_t::replace)));
    }
  }

  const Json& root_;
  const std::string& file_;
  std::string message_;
};

// A value of tokenizer.ggml.*, or the error.
template <class T>
Status read(T& out, const Gguf& gguf, std::string_view key, Result<T> (Gguf::*get)(std::string_view) const) {
  QN_TRY(out, (gguf.*get)(key));
  (void)key;
  return success();
}

std::string token_text(const Vocabulary& vocabulary, std::optional<TokenId> id) {
  return id && static_cast<std::size_t>(*id) < vocabulary.tokens.size()
             ? vocabulary.tokens[static_cast<std::size_t>(*id)]
             : std::string();
}

Status set_template(TextFiles& out, std::string source) {
  QN_TRY(out.chat_template, ChatTemplate::parse(source));
  out.chat_template_source = std::move(source);
  return success();
}

Result<TextFiles> load_gguf_text(const fs::path& path) {
  QN_TRY(const Gguf gguf, Gguf::open(path));
  TextFiles out;
  out.generation = gguf_generation_defaults(gguf);
  QN_TRY(const auto vocabulary, gguf_vocabulary(gguf));
  if (vocabulary) {
    QN_TRY(out.tokenizer, Tokenizer::from_vocabulary(*vocabulary));
    // A GGUF names one end; a base model of the family ends texts with the other.
    for (const char* end : {"<|im_end|>", "<|endoftext|>"})
      add_stop_token(out.generation, out.tokenizer->token_to_id(end));
    out.bos_token = token_text(*vocabulary, vocabulary->special.bos);
    out.eos_token = token_text(*vocabulary, vocabulary->special.eos);
  }
  if (gguf.find("tokenizer.chat_template") != nullptr) {
    QN_TRY(const std::string_view source, gguf.get_string("tokenizer.chat_template"));
    QN_RETURN_IF_ERROR(set_template(out, std::string(source)));
  }
  return out;
}

Result<TextFiles> load_folder_text(const fs::path& folder) {
  TextFiles out;
  std::error_code ignored;
  if (fs::exists(folder / "generation_config.json", ignored)) {
    const fs::path path = folder / "generation_config.json";
    QN_TRY(const std::string json, load_text_file(path, kMaxGenerationConfigBytes));
    QN_TRY(out.generation, parse_generation_config(json, path.string()));
  }
  if (fs::exists(folder / "tokenizer.json", ignored)) {
    QN_TRY(out.tokenizer, Tokenizer::load_file(folder / "tokenizer.json"));
    add_stop_token(out.generation, out.tokenizer->special_ids().eos);
  }
  QN_TRY(TokenizerConfig config, load_tokenizer_config(folder));
  out.bos_token = config.bos_token.value_or("");
  out.eos_token = config.eos_token.value_or("");
  if (config.chat_template) QN_RETURN_IF_ERROR(set_template(out, std::move(*config.chat_template)));
  return out;
}

}  // namespace

Result<GenerationDefaults> parse_generation_config(std::string_view json, const std::string& file) {
  const Json root = Json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (!root.is_object()) return error("{}: expected a JSON object; check that the file is complete", file);
  GenerationFields fields(root, file);
  GenerationDefaults out;
  out.do_sample = fields.flag("do_sample");
  out.temperature = fields.number("temperature");
  out.top_k = fields.count("top_k");
  out.top_p = fields.number("top_p");
  out.min_p = fields.number("min_p");
  out.repetition_penalty = fields.number("repetition_penalty");
  fields.token_ids("eos_token_id", out);
  QN_RETURN_IF_ERROR(fields.status());
  return out;
}

Result<std::optional<Vocabulary>> gguf_vocabulary(const Gguf& gguf) {
  if (gguf.find("tokenizer.ggml.tokens") == nullptr) return std::optional<Vocabulary>();
  QN_TRY(const std::string_view model, gguf.get_string("tokenizer.ggml.model"));
  if (model != "gpt2") {
    return error("{}: tokenizer.ggml.model: expected gpt2 (byte-level BPE, as the family has), found {}",
                 gguf.file_names().front(), printable(model));
  }
  Vocabulary out;
  std::vector<std::string_view> tokens;
  std::vector<std::string_view> merges;
  std::string_view pre;
  QN_RETURN_IF_ERROR(read(tokens, gguf, "tokenizer.ggml.tokens", &Gguf::get_strings));
  QN_RETURN_IF_ERROR(read(out.token_types, gguf, "tokenizer.ggml.token_type", &Gguf::get_i32s));
  QN_RETURN_IF_ERROR(read(merges, gguf, "tokenizer.ggml.merges", &Gguf::get_strings));
  QN_RETURN_IF_ERROR(read(pre, gguf, "tokenizer.ggml.pre", &Gguf::get_string));
  out.tokens.assign(tokens.begin(), tokens.end());
  out.merges.assign(merges.begin(), merges.end());
  out.pre = pre;
  out.special = {.bos = token_id(gguf, "tokenizer.ggml.bos_token_id"),
                 .eos = token_id(gguf, "tokenizer.ggml.eos_token_id"),
                 .pad = token_id(gguf, "tokenizer.ggml.padding_token_id")};
  out.add_bos = optional_value(gguf, "tokenizer.ggml.add_bos_token", &Gguf::get_bool);
  return std::optional<Vocabulary>(std::move(out));
}

GenerationDefaults gguf_generation_defaults(const Gguf& gguf) {
  GenerationDefaults out;
  out.temperature = optional_value(gguf, "general.sampling.temp", &Gguf::get_f32);
  out.top_p = optional_value(gguf, "general.sampling.top_p", &Gguf::get_f32);
  out.min_p = optional_value(gguf, "general.sampling.min_p", &Gguf::get_f32);
  out.repetition_penalty = optional_value(gguf, "general.sampling.penalty_repeat", &Gguf::get_f32);
  if (const auto top_k = optional_value(gguf, "general.sampling.top_k", &Gguf::get_u64)) out.top_k = *top_k;
  add_stop_token(out, token_id(gguf, "tokenizer.ggml.eos_token_id"));
  add_stop_token(out, token_id(gguf, "tokenizer.ggml.eot_token_id"));
  return out;
}

Result<TextFiles> load_text_files(const std::string& model_path) {
  QN_RETURN_IF_ERROR(check_model_path(model_path));
  return is_gguf(model_path) ? load_gguf_text(model_path) : load_folder_text(folder_of(model_path));
}

Result<const Tokenizer*> require_tokenizer(const TextFiles& files, const std::string& model_path) {
  if (files.tokenizer) return &*files.tokenizer;
  return error("{}: expected a tokenizer ({}), found none; without one only token ids work (run --raw --ids 1,2,3)",
               model_path, is_gguf(model_path) ? "tokenizer.ggml.tokens in the metadata" : "tokenizer.json");
}

std::optional<std::string> model_note(const std::string& model_path) {
  const fs::path path = is_gguf(model_path) ? fs::path(model_path + ".note") : folder_of(model_path) / "NOTE";
  Result<std::string> note = read_file(path, kMaxNoteBytes);
  if (!note.ok()) return std::nullopt;
  std::erase_if(*note, [](char c) { return (static_cast<unsigned char>(c) < 0x20 && c != '\n') || c == '\x7f'; });
  while (note->ends_with('\n')) note->pop_back();
  return note->empty() || !expect_utf8(*note, "note").ok() ? std::nullopt : std::optional(*std::move(note));
}

}  // namespace qnext
