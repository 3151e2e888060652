// qnext data: its commands, and of them those that read shards: a uniform subset, and what is in one.
#include <nlohmann/json.hpp>

#include "apps/console.h"
#include "apps/json_text.h"
#include "text/tokenizer.h"
#include "train/token_shard.h"
#include "train/tokenizer_hash.h"
#include "train_apps/commands.h"

namespace qnext {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::int64_t kPieceTokens = 1 << 16;  // of a document, read at a time

struct ShardOptions {
  std::string in, out, tokenizer;
  std::int64_t num_tokens = 0;
  std::uint64_t seed = 0;
  std::int64_t show = 3;
  bool json = false;
};

train::TokenDocument read_document(const train::TokenShard& shard, std::int64_t document) {
  train::TokenDocument out;
  const std::int64_t count = shard.document_tokens(document);
  std::vector<std::int64_t> tokens(static_cast<std::size_t>(std::min(count, kPieceTokens)));
  std::vector<float> learned(tokens.size());
  for (std::int64_t begin = 0; begin < count; begin += kPieceTokens) {
    const std::int64_t piece = std::min(kPieceTokens, count - begin);
    shard.copy(document, begin, piece, tokens.data(), learned.data());
    for (std::int64_t i = 0; i < piece; ++i) {
      out.tokens.push_back(static_cast<TokenId>(tokens[static_cast<std::size_t>(i)]));
      out.learned.push_back(learned[static_cast<std::size_t>(i)] > 0 ? 1 : 0);
    }
  }
  return out;
}

Result<ExitCode> sample(const ShardOptions& options) {
  QN_TRY(const train::ShardTokenizer tokenizer, train::shard_tokenizer(options.tokenizer));
  QN_TRY(const train::TokenShard shard, train::TokenShard::open(options.in, tokenizer));
  if (options.num_tokens > shard.num_tokens()) {
    return error("--tokens {}: {} has {}", options.num_tokens, options.in, shard.num_tokens());
  }
  std::vector<train::TokenDocument> documents;
  std::int64_t num_tokens = 0;
  for (const std::int64_t document : train::uniform_subset(shard, options.num_tokens, options.seed)) {
    documents.push_back(read_document(shard, document));
    num_tokens += shard.document_tokens(document);
  }
  QN_RETURN_IF_ERROR(train::write_token_shard(options.out, documents, tokenizer));
  write_stderr(fmt::format("{}: {} of {} documents, {} of {} tokens\n", options.out, documents.size(),
                           shard.num_documents(), num_tokens, shard.num_tokens()));
  return ExitCode::kDone;
}

std::vector<TokenId> learned_tokens(const train::TokenDocument& document) {
  std::vector<TokenId> out;
  for (std::size_t i = 0; i < document.tokens.size(); ++i) {
    if (document.learned[i] != 0) out.push_back(document.tokens[i]);
  }
  return out;
}

Result<ExitCode> inspect(const ShardOptions& options) {
  QN_TRY(const Tokenizer tokenizer, Tokenizer::load_file(options.tokenizer));
  QN_TRY(const train::ShardTokenizer hash, train::shard_tokenizer(options.tokenizer, tokenizer));
  QN_TRY(const train::TokenShard shard, train::TokenShard::open(options.in, hash));
  std::vector<std::int64_t> lengths;
  for (std::int64_t document = 0; document < shard.num_documents(); ++document)
    lengths.push_back(shard.document_tokens(document));
  std::ranges::sort(lengths);
  Json documents = Json::array();
  std::string text =
      fmt::format("{} documents, {} tokens; {} to {} a document, {} in the middle\n", shard.num_documents(),
                  shard.num_tokens(), lengths.front(), lengths.back(), lengths[lengths.size() / 2]);
  for (std::int64_t document = 0; document < std::min(options.show, shard.num_documents()); ++document) {
    const train::TokenDocument content = read_document(shard, document);
    QN_TRY(const std::string decoded, tokenizer.decode(content.tokens));
    QN_TRY(const std::string learned, tokenizer.decode(learned_tokens(content)));
    documents.push_back({{"tokens", content.tokens.size()}, {"text", decoded}, {"learned", learned}});
    text += fmt::format("\n[{}] {} tokens: {}\n", document, content.tokens.size(), escaped(decoded));
  }
  const Json object = {{"documents", shard.num_documents()}, {"tokens", shard.num_tokens()},
                       {"shortest", lengths.front()},        {"median", lengths[lengths.size() / 2]},
                       {"longest", lengths.back()},          {"first", documents}};
  QN_RETURN_IF_ERROR(write_stdout(options.json ? json_line(object) : text));
  return ExitCode::kDone;
}

void add_sample_command(CLI::App& data, Action& action) {
  auto options = std::make_shared<ShardOptions>();
  CLI::App& command = *data.add_subcommand("sample", "A uniform subset of a shard's documents.");
  command.add_option("IN", options->in, "A token shard")->required();
  command.add_option("OUT", options->out, "The subset, NAME.safetensors")->required();
  command.add_option("--tokens", options->num_tokens, "Tokens that it shall have, or just more")
      ->required()
      ->check(CLI::PositiveNumber);
  command.add_option("--seed", options->seed, "Which subset; the same seed draws the same")->capture_default_str();
  add_tokenizer_option(command, options->tokenizer);
  command.callback([options, &action] { action = [options] { return sample(*options); }; });
}

void add_shard_inspect_command(CLI::App& data, Action& action) {
  auto options = std::make_shared<ShardOptions>();
  CLI::App& command = *data.add_subcommand("inspect", "What is in a shard: counts, lengths, its first documents.");
  command.add_option("IN", options->in, "A token shard")->required();
  add_tokenizer_option(command, options->tokenizer);
  command.add_option("--show", options->show, "Documents to print")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command.add_flag("--json", options->json, "Print one JSON object");
  command.callback([options, &action] { action = [options] { return inspect(*options); }; });
}

}  // namespace

void add_shard_command(CLI::App& root, Action& action) {
  CLI::App& data =
      *root.add_subcommand("data", "Make what training reads, texts and token shards of them, and look at it.");
  data.require_subcommand(1);
  data.footer(
      "Examples:\n"
      "  qnext data synth --out texts --kind stories --count 100000\n"
      "  qnext data tokenizer own/ texts/stories.jsonl --vocab-size 4096\n"
      "  qnext data pack corpus.safetensors texts/stories.jsonl --tokenizer own/tokenizer.json\n"
      "  qnext data sample corpus.safetensors subset.safetensors --tokens 1000000 --tokenizer own/tokenizer.json\n"
      "  qnext data inspect subset.safetensors --tokenizer own/tokenizer.json");
  add_tokenizer_command(data, action);
  add_pack_command(data, action);
  add_sample_command(data, action);
  add_shard_inspect_command(data, action);
  add_synth_command(data, action);
}

}  // namespace qnext
