// qnext data tokenizer: a vocabulary of one's own, learnt from the texts that a model will be trained on.
#include <fmt/ranges.h>

#include <nlohmann/json.hpp>

#include "apps/console.h"
#include "apps/json_text.h"
#include "tensor/atomic_file.h"
#include "text/tokenizer.h"
#include "text/tokenizer_trainer.h"
#include "train_apps/commands.h"
#include "train_apps/text_source.h"

namespace qnext {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

struct TokenizerOptions {
  std::string out;
  std::vector<std::string> inputs;
  std::size_t vocab_size = 4096;
};

// The family's own that a chat, a thought and a tool call need.
const std::vector<AddedToken> kAddedTokens = {
    {"<|endoftext|>", true}, {"<|im_start|>", true},     {"<|im_end|>", true},
    {"<think>", false},      {"</think>", false},        {"<tool_call>", false},
    {"</tool_call>", false}, {"<tool_response>", false}, {"</tool_response>", false}};

Json tokenizer_config() {
  return {{"tokenizer_class", "Qwen2Tokenizer"},   {"bos_token", nullptr},   {"eos_token", "<|im_end|>"},
          {"pad_token", "<|endoftext|>"},          {"add_bos_token", false}, {"add_prefix_space", false},
          {"clean_up_tokenization_spaces", false}, {"errors", "replace"},    {"unk_token", nullptr}};
}

Result<ExitCode> train_tokenizer(const TokenizerOptions& options) {
  const fs::path folder = options.out;
  std::error_code failure;
  fs::create_directories(folder, failure);
  if (failure) return error("{}: cannot make the folder: {}", options.out, failure.message());
  TokenizerTrainer trainer;
  bool has_text = false;
  const auto count_words = [&](const SourceDocument& document) -> Status {
    const auto add = [&](const std::string& text) -> Status {
      has_text = has_text || !text.empty();
      const Status added = trainer.add(text);
      return added.ok() ? success() : error("{}: {}", document.where, added.message());
    };
    QN_RETURN_IF_ERROR(add(document.text));
    QN_RETURN_IF_ERROR(add(document.answer));
    for (const Json& message : document.messages) {
      if (message.is_object() && message.contains("content") && message["content"].is_string()) {
        QN_RETURN_IF_ERROR(add(message["content"].get<std::string>()));
      }
    }
    return success();
  };
  for (const std::string& input : options.inputs) QN_RETURN_IF_ERROR(for_each_document(input, count_words));
  if (!has_text) return error("{}: there is no text in it", fmt::join(options.inputs, ", "));
  QN_TRY(const std::string json, trainer.train(options.vocab_size, kAddedTokens));
  QN_TRY(const Tokenizer tokenizer, Tokenizer::from_json(json));
  QN_RETURN_IF_ERROR(write_file(folder / "tokenizer.json", json));
  QN_RETURN_IF_ERROR(write_file(folder / "tokenizer_config.json", json_indented(tokenizer_config())));
  write_stderr(fmt::format("{}: {} tokens\n", (folder / "tokenizer.json").string(), tokenizer.vocab_size()));
  return ExitCode::kDone;
}

}  // namespace

void add_tokenizer_command(CLI::App& data, Action& action) {
  auto options = std::make_shared<TokenizerOptions>();
  CLI::App& command = *data.add_subcommand("tokenizer", "A tokenizer of the family's form, trained on texts.");
  command.add_option("OUT", options->out, "The folder that gets tokenizer.json and tokenizer_config.json")->required();
  command.add_option("TEXTS", options->inputs, "Files, as of `data pack`")->required();
  command.add_option("--vocab-size", options->vocab_size, "Tokens, with the 256 bytes and the family's added ones")
      ->capture_default_str();
  command.callback([options, &action] { action = [options] { return train_tokenizer(*options); }; });
}

}  // namespace qnext
