// qnext data synth: the project's own corpus (src/corpus), as lines of JSON.
#include <filesystem>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "apps/console.h"
#include "corpus/corpus.h"
#include "corpus/random.h"
#include "tensor/atomic_file.h"
#include "train_apps/commands.h"

namespace qnext {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr std::uint64_t kMaxRepeats = 200;  // documents in a row that were there before: the kind has no more

struct SynthOptions {
  std::string out, kind, split = "train";
  std::uint64_t count = 0;
  std::uint64_t seed = 0;
};

Json json_of(const corpus::Document& document) {
  if (!document.text.empty()) return {{"text", document.text}};
  Json messages = Json::array();
  for (const corpus::Message& message : document.messages)
    messages.push_back({{"role", message.role}, {"content", message.content}});
  Json object = {{"messages", messages}};
  if (document.answer.empty()) return object;
  Json answer = {{"questions", document.questions}};
  for (const auto& [name, numbers] : document.answer) answer[name] = numbers;
  object["answer"] = answer;
  return object;
}

// All lines, no two alike. Memory: the corpus; 100,000 stories are 100 MB.
Result<std::string> synthesise(const SynthOptions& options, corpus::Kind kind, corpus::Split split) {
  std::string lines;
  std::unordered_set<std::uint64_t> seen;
  std::uint64_t index = 0, repeats = 0;
  for (std::uint64_t made = 0; made < options.count; ++index) {
    if (interrupted()) return error("interrupted");
    const std::string line = json_of(corpus::make_document(kind, options.seed, index, split)).dump();
    if (!seen.insert(corpus::text_hash(line)).second) {
      if (++repeats == kMaxRepeats) {
        return error("--count {}: {} {} documents are all that seed {} gives of this kind without repeating itself",
                     options.count, made, options.kind, options.seed);
      }
      continue;
    }
    repeats = 0;
    lines += line;
    lines += '\n';
    ++made;
  }
  return lines;
}

Result<ExitCode> synth(const SynthOptions& options) {
  const corpus::Kind kind = *corpus::kind_named(options.kind);
  const bool train = options.split == "train";
  QN_TRY(const std::string lines, synthesise(options, kind, train ? corpus::Split::kTrain : corpus::Split::kHeldOut));
  std::error_code failure;
  fs::create_directories(options.out, failure);
  if (failure) return error("{}: cannot make the folder: {}", options.out, failure.message());
  const fs::path path = fs::path(options.out) / fmt::format("{}{}.jsonl", options.kind, train ? "" : ".held-out");
  QN_RETURN_IF_ERROR(write_file(path, lines));
  write_stderr(fmt::format("{}: {} documents, {} bytes\n", path.string(), options.count, lines.size()));
  return ExitCode::kDone;
}

}  // namespace

void add_synth_command(CLI::App& data, Action& action) {
  auto options = std::make_shared<SynthOptions>();
  CLI::App& command =
      *data.add_subcommand("synth", "Write a corpus of simple English, sums and problems: docs/corpus.md.");
  const auto kinds = corpus::kind_names();
  command.add_option("--out", options->out, "The folder; the file in it is KIND.jsonl, or KIND.held-out.jsonl")
      ->required();
  command.add_option("--kind", options->kind, "What to write")
      ->required()
      ->check(CLI::IsMember(std::vector<std::string>(kinds.begin(), kinds.end())));
  command.add_option("--count", options->count, "Documents")->required()->check(CLI::Range(1, 100'000'000));
  command.add_option("--seed", options->seed, "The same seed writes the same bytes")->capture_default_str();
  command.add_option("--split", options->split, "held-out: patterns and numbers that train has not")
      ->check(CLI::IsMember({"train", "held-out"}))
      ->capture_default_str();
  command.footer(
      "Examples:\n"
      "  qnext data synth --out corpus --kind stories --count 100000\n"
      "  qnext data synth --out corpus --kind problems --count 1000 --seed 1 --split held-out");
  command.callback([options, &action] { action = [options] { return synth(*options); }; });
}

}  // namespace qnext
