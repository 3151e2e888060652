// qnext tokenize: text to token ids, and back.
#include "apps/command.h"
#include "apps/console.h"
#include "apps/json_text.h"
#include "apps/model_files.h"

namespace qnext {
namespace {

constexpr std::size_t kMaxTextBytes = std::size_t{1} << 30;

struct TokenizeOptions {
  std::string model;
  std::optional<std::string> text;
  std::vector<TokenId> decode;
  bool no_special = false;
  bool json = false;
};

using Json = nlohmann::ordered_json;

// One token a line: id, then its bytes, quoted, with what is not printable escaped.
std::string token_lines(const Tokenizer& tokenizer, std::span<const TokenId> ids) {
  std::string out;
  for (TokenId id : ids) out += fmt::format("{:>7}  \"{}\"\n", id, escaped(tokenizer.token_bytes(id)));
  return out;
}

Json tokens_json(const Tokenizer& tokenizer, std::span<const TokenId> ids) {
  Json tokens = Json::array();
  for (TokenId id : ids) {
    const std::string_view bytes = tokenizer.token_bytes(id);
    Json numbers = Json::array();
    for (char byte : bytes) numbers.push_back(static_cast<unsigned char>(byte));
    tokens.push_back({{"id", id}, {"text", bytes}, {"bytes", numbers}, {"special", tokenizer.is_special(id)}});
  }
  return tokens;
}

Result<ExitCode> decode(const TokenizeOptions& options, const Tokenizer& tokenizer) {
  for (TokenId id : options.decode) {
    if (id < 0 || static_cast<std::size_t>(id) >= tokenizer.vocab_size()) {
      return error("--decode {}: expected ids from 0 to {}", id, tokenizer.vocab_size() - 1);
    }
  }
  QN_TRY(const std::string text, tokenizer.decode(options.decode));
  const Json object = {{"text", text}, {"ids", options.decode}};
  QN_RETURN_IF_ERROR(write_stdout(options.json ? json_line(object) : text + "\n"));
  return ExitCode::kDone;
}

Result<ExitCode> tokenize(const TokenizeOptions& options) {
  if (!options.text && options.decode.empty()) return usage_error("tokenize: expected TEXT, - or --decode IDS");
  QN_TRY(const TextFiles files, load_text_files(options.model));
  QN_TRY(const Tokenizer* tokenizer, require_tokenizer(files, options.model));
  if (!options.decode.empty()) return decode(options, *tokenizer);
  QN_TRY(const std::string text, text_argument(*options.text, kMaxTextBytes));
  QN_TRY(const std::vector<TokenId> ids, tokenizer->encode(text, {.parse_special = !options.no_special}));
  if (options.json) {
    const Json object = {{"count", ids.size()}, {"ids", ids}, {"tokens", tokens_json(*tokenizer, ids)}};
    QN_RETURN_IF_ERROR(write_stdout(json_line(object)));
  } else {
    QN_RETURN_IF_ERROR(write_stdout(token_lines(*tokenizer, ids)));
    write_stderr(fmt::format("{} tokens\n", ids.size()));
  }
  return ExitCode::kDone;
}

}  // namespace

void add_tokenize_command(CLI::App& root, Action& action) {
  auto options = std::make_shared<TokenizeOptions>();
  CLI::App& command = *root.add_subcommand("tokenize", "Show the tokens of a text, or the text of tokens.");
  add_model_option(command, options->model, "A folder with a tokenizer.json, or a .gguf file");
  CLI::Option* text = command.add_option("TEXT", options->text, "The text; - reads it from stdin");
  command.add_option("--decode", options->decode, "Token ids to turn into text")
      ->delimiter(',')
      ->excludes(text)
      ->type_name("ID,ID,...");
  command.add_flag("--no-special", options->no_special,
                   "Take <|im_end|> and the like for plain text, as in text that a user wrote");
  command.add_flag("--json", options->json, "Print one JSON object (docs/cli.md)");
  command.footer(
      "Prints an id and its bytes a line; the number of tokens goes to stderr.\n\n"
      "Examples:\n"
      "  qnext tokenize model.gguf 'Hello, world'\n"
      "  qnext tokenize model.gguf - --json < book.txt | jq .count\n"
      "  qnext tokenize model.gguf --decode 9707,11,1879");
  command.callback([options, &action] { action = [options] { return tokenize(*options); }; });
}

}  // namespace qnext
