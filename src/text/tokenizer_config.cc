#include "text/tokenizer_config.h"

#include <fstream>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>

namespace qnext {
namespace {

constexpr std::size_t kMaxConfigBytes = std::size_t{64} << 20;  // the largest we know has 1 MB

// A token is text, or an object with its "content"; null and absent are the same.
Status read_token(std::optional<std::string>& out, const nlohmann::json& config, const char* field,
                  std::string_view where) {
  const auto found = config.find(field);
  if (found == config.end() || found->is_null()) return success();
  const nlohmann::json* token = &*found;
  if (token->is_object() && token->contains("content")) token = &(*token)["content"];
  if (!token->is_string()) {
    return error("{}: {}: expected text or an object with \"content\", found {}", where, field, found->type_name());
  }
  out = token->get<std::string>();
  return success();
}

Status read_template(std::optional<std::string>& out, const nlohmann::json& config, std::string_view where) {
  const auto found = config.find("chat_template");
  if (found == config.end() || found->is_null()) return success();
  if (found->is_string()) {
    out = found->get<std::string>();
    return success();
  }
  if (!found->is_array())
    return error("{}: chat_template: expected text or a list, found {}", where, found->type_name());
  for (const nlohmann::json& named : *found) {
    const auto text = [&](const char* field) {
      return named.is_object() && named.contains(field) && named[field].is_string() ? named[field].get<std::string>()
                                                                                    : "";
    };
    if (text("name") == "default") out = text("template");
  }
  if (!out) return error("{}: chat_template: expected a template named \"default\" in the list, found none", where);
  return success();
}

// Reads a file that need not be there.
Result<std::optional<std::string>> try_load_text_file(const std::filesystem::path& path) {
  std::error_code failure;
  if (!std::filesystem::exists(path, failure)) return std::optional<std::string>();
  QN_TRY(std::string text, load_text_file(path, kMaxConfigBytes));
  return std::optional<std::string>(std::move(text));
}

}  // namespace

Result<std::string> load_text_file(const std::filesystem::path& path, std::size_t max_bytes) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  const std::streamoff num_bytes = file ? static_cast<std::streamoff>(file.tellg()) : -1;
  if (num_bytes < 0) return error("{}: cannot be read: check that it is there and readable", path.string());
  if (static_cast<std::uintmax_t>(num_bytes) > max_bytes) {
    return error("{}: has {} bytes: expected at most {}", path.string(), num_bytes, max_bytes);
  }
  std::string text(static_cast<std::size_t>(num_bytes), '\0');
  file.seekg(0);
  if (!file.read(text.data(), num_bytes)) return error("{}: reading failed", path.string());
  return text;
}

Result<TokenizerConfig> parse_tokenizer_config(std::string_view json, std::string_view where) {
  const nlohmann::json config = nlohmann::json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (!config.is_object()) return error("{}: expected a JSON object; check that the file is complete", where);
  TokenizerConfig out;
  QN_RETURN_IF_ERROR(read_token(out.bos_token, config, "bos_token", where));
  QN_RETURN_IF_ERROR(read_token(out.eos_token, config, "eos_token", where));
  QN_RETURN_IF_ERROR(read_token(out.pad_token, config, "pad_token", where));
  QN_RETURN_IF_ERROR(read_template(out.chat_template, config, where));
  if (const auto add_bos = config.find("add_bos_token"); add_bos != config.end() && !add_bos->is_null()) {
    if (!add_bos->is_boolean()) {
      return error("{}: add_bos_token: expected true or false, found {}", where, add_bos->type_name());
    }
    out.add_bos_token = add_bos->get<bool>();
  }
  return out;
}

Result<TokenizerConfig> load_tokenizer_config(const std::filesystem::path& folder) {
  TokenizerConfig config;
  const std::filesystem::path json_path = folder / "tokenizer_config.json";
  QN_TRY(const std::optional<std::string> json, try_load_text_file(json_path));
  if (json) {
    QN_TRY(config, parse_tokenizer_config(*json, json_path.string()));
  }
  QN_TRY(std::optional<std::string> chat_template, try_load_text_file(folder / "chat_template.jinja"));
  if (chat_template) config.chat_template = std::move(chat_template);
  return config;
}

}  // namespace qnext
