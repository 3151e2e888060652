#include "train_apps/run_folder.h"

#include <cerrno>
#include <cstring>

#include "apps/console.h"
#include "tensor/atomic_file.h"
#include "train/network_files.h"

namespace qnext {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr std::size_t kMaxTokenizerBytes = std::size_t{256} << 20;

}  // namespace

Result<StepLog> StepLog::open(const fs::path& path, std::int64_t steps_done) {
  std::string kept;
  std::ifstream old(path);
  std::string line;
  while (std::getline(old, line)) {
    const Json report = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (report.is_object() && report.value("step", std::int64_t{0}) <= steps_done) kept += line + "\n";
  }
  remove_abandoned_temporaries(path);
  QN_RETURN_IF_ERROR(write_file(path, kept));
  StepLog out;
  out.path_ = path;
  out.file_.open(path, std::ios::app);
  return out;
}

Status StepLog::add(const Json& report) {
  file_ << report.dump() << "\n" << std::flush;
  if (!file_) return error("{}: cannot write: {}", path_.string(), std::strerror(errno));
  return success();
}

StepProgress::~StepProgress() {
  if (line_open_) write_stderr("\n");
}

void StepProgress::show(std::int64_t step, const std::string& what) {
  const auto now = Clock::now();
  const auto pause = std::chrono::milliseconds(stderr_is_terminal() ? 250 : 5000);
  if (step != last_ && step != first_ && now - drawn_ < pause) return;
  drawn_ = now;
  const double elapsed_s = std::chrono::duration<double>(now - started_).count();
  const auto done = static_cast<double>(step - first_ + 1), left = static_cast<double>(last_ - step);
  const std::string text = fmt::format("step {} of {}, {}, {:.0f} s left", step, last_, what, elapsed_s / done * left);
  line_open_ = stderr_is_terminal();
  write_stderr(line_open_ ? "\r\x1b[K" + text : text + "\n");
}

Result<bool> goes_on(const fs::path& checkpoint, bool resume) {
  const bool is_there = fs::exists(checkpoint);
  if (resume && !is_there) return error("{}: there is no checkpoint to resume from", checkpoint.string());
  if (!resume && is_there) {
    return error("{}: a run is here already: --resume goes on with it, another --out begins a new one",
                 checkpoint.string());
  }
  return is_there;
}

ExitCode say_stopped(std::int64_t step) {
  write_stderr(fmt::format("\nqnext: stopped after step {}; --resume goes on from here\n", step));
  return ExitCode::kInterrupted;
}

Status export_model(const train::NetworkWeights& weights, const train::Recipe& recipe, DType type,
                    const fs::path& out) {
  remove_abandoned_temporaries(out / "model.safetensors");
  QN_RETURN_IF_ERROR(train::export_weights(weights, type, out));
  QN_RETURN_IF_ERROR(write_file(out / "config.json", recipe.model_json));
  for (const char* name :
       {"tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"}) {
    const fs::path source = recipe.tokenizer.parent_path() /
                            (std::string_view(name) == "tokenizer.json" ? recipe.tokenizer.filename() : fs::path(name));
    if (!fs::exists(source)) continue;
    QN_TRY(const std::string text, read_file(source, kMaxTokenizerBytes));
    QN_RETURN_IF_ERROR(write_file(out / name, text));
  }
  return write_stdout(fmt::format("{}\n", (out / "model.safetensors").string()));
}

}  // namespace qnext
