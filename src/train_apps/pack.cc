// qnext data pack: texts and conversations to a token shard.
#include "apps/console.h"
#include "text/tokenizer.h"
#include "text/tokenizer_config.h"
#include "train/chat_documents.h"
#include "train/token_shard.h"
#include "train/tokenizer_hash.h"
#include "train_apps/commands.h"
#include "train_apps/text_source.h"

namespace qnext {
namespace {

struct DataPackOptions {
  std::string out, tokenizer, end = "<|endoftext|>";
  std::vector<std::string> inputs;
};

// The chat template beside the tokenizer; none where there is none.
Result<std::optional<train::ChatFormat>> load_chat_format(const std::filesystem::path& tokenizer_json) {
  QN_TRY(const TokenizerConfig config, load_tokenizer_config(tokenizer_json.parent_path()));
  if (!config.chat_template) return std::optional<train::ChatFormat>();
  QN_TRY(ChatTemplate chat_template, ChatTemplate::parse(*config.chat_template));
  return std::optional(
      train::ChatFormat{std::move(chat_template), config.bos_token.value_or(""), config.eos_token.value_or("")});
}

// Texts as they become documents, each encoded by itself.
class Packer {
 public:
  Packer(const Tokenizer& tokenizer, TokenId end, std::optional<train::ChatFormat> chat)
      : tokenizer_(tokenizer), end_(end), chat_(std::move(chat)) {}

  Status add(const SourceDocument& source) {
    if (!source.messages.is_null()) return add_conversation(source);
    train::TextDocument document = {{source.text, source.answer.empty()}};
    if (!source.answer.empty()) document.push_back({source.answer, true});
    return add_text(document, source.where, /*ends_text=*/true);
  }

  const std::vector<train::TokenDocument>& documents() const { return documents_; }
  std::size_t num_tokens() const { return num_tokens_; }

 private:
  Status add_conversation(const SourceDocument& source) {
    if (!chat_) {
      return error(
          "{}: it is a conversation, and there is no chat_template.jinja beside the tokenizer to write it with",
          source.where);
    }
    const Result<std::vector<train::TextDocument>> documents = train::chat_documents(*chat_, source.messages);
    if (!documents.ok()) return error("{}: {}", source.where, documents.message());
    for (const train::TextDocument& document : *documents) {
      QN_RETURN_IF_ERROR(add_text(document, source.where, /*ends_text=*/false));
    }
    return success();
  }

  Status add_text(const train::TextDocument& text, const std::string& where, bool ends_text) {
    train::TokenDocument document;
    for (const train::TextPart& part : text) {
      const Result<std::vector<TokenId>> ids = tokenizer_.encode(part.text);
      if (!ids.ok()) return error("{}: {}", where, ids.message());
      document.tokens.insert(document.tokens.end(), ids->begin(), ids->end());
      document.learned.resize(document.tokens.size(), part.learned ? 1 : 0);
    }
    if (document.tokens.empty()) return success();
    if (ends_text) {
      document.tokens.push_back(end_);
      document.learned.push_back(1);
    }
    num_tokens_ += document.tokens.size();
    documents_.push_back(std::move(document));
    return success();
  }

  const Tokenizer& tokenizer_;
  TokenId end_;
  std::optional<train::ChatFormat> chat_;
  std::vector<train::TokenDocument> documents_;
  std::size_t num_tokens_ = 0;
};

Result<ExitCode> pack(const DataPackOptions& options) {
  QN_TRY(const Tokenizer tokenizer, Tokenizer::load_file(options.tokenizer));
  QN_TRY(const train::ShardTokenizer shard, train::shard_tokenizer(options.tokenizer, tokenizer));
  QN_TRY(std::optional<train::ChatFormat> chat, load_chat_format(options.tokenizer));
  const std::optional<TokenId> end = tokenizer.token_to_id(options.end);
  if (!end) {
    return error("{}: it has no token {} (--end names the one that ends a text)", options.tokenizer, options.end);
  }
  Packer packer(tokenizer, *end, std::move(chat));
  for (const std::string& input : options.inputs) {
    QN_RETURN_IF_ERROR(for_each_document(input, [&](const SourceDocument& document) { return packer.add(document); }));
  }
  QN_RETURN_IF_ERROR(train::write_token_shard(options.out, packer.documents(), shard));
  write_stderr(
      fmt::format("{}: {} documents, {} tokens\n", options.out, packer.documents().size(), packer.num_tokens()));
  return ExitCode::kDone;
}

}  // namespace

void add_pack_command(CLI::App& data, Action& action) {
  auto options = std::make_shared<DataPackOptions>();
  CLI::App& command = *data.add_subcommand("pack", "Texts to a token shard.");
  command.add_option("OUT", options->out, "The shard, NAME.safetensors")->required();
  command
      .add_option("TEXTS", options->inputs,
                  "Files, .gz and .zst too: .jsonl, a document a line ({\"text\"}; {\"prompt\", \"answer\"}, of "
                  "which the answer is learned; {\"messages\"}, of which the assistant's are); any other is one "
                  "document")
      ->required();
  add_tokenizer_option(command, options->tokenizer);
  command.add_option("--end", options->end, "The token that ends each text")->capture_default_str();
  command.callback([options, &action] { action = [options] { return pack(*options); }; });
}

}  // namespace qnext
