#pragma once
// tokenizer_config.json and chat_template.jinja: the rest of what a checkpoint says about its text.

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace qnext {

struct TokenizerConfig {
  std::optional<std::string> bos_token;
  std::optional<std::string> eos_token;
  std::optional<std::string> pad_token;
  std::optional<bool> add_bos_token;
  std::optional<std::string> chat_template;  // of several named ones, the one called "default"
};

// Reads the text of a tokenizer_config.json; `where` names it in errors. Fields of other types than expected are
// errors.
Result<TokenizerConfig> parse_tokenizer_config(std::string_view json, std::string_view where);

// Both files of a checkpoint's folder; chat_template.jinja goes before the config's template. A missing file is no
// error.
Result<TokenizerConfig> load_tokenizer_config(const std::filesystem::path& folder);

// A whole file of at most max_bytes.
Result<std::string> load_text_file(const std::filesystem::path& path, std::size_t max_bytes);

}  // namespace qnext
