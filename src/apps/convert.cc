#include "apps/convert.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <system_error>

#include "apps/command.h"
#include "apps/console.h"
#include "apps/convert_text.h"
#include "apps/progress.h"
#include "base/cpu.h"
#include "model/export_metadata.h"
#include "model/export_plan.h"

namespace qnext {
namespace fs = std::filesystem;

namespace {

constexpr std::size_t kMaxThreads = 1024;
constexpr std::size_t kMaxConfigBytes = std::size_t{16} << 20;

bool is_gguf_path(const std::string& path) {
  return fs::path(path).extension() == ".gguf";
}

std::string type_names(const std::vector<DType>& types) {
  std::vector<std::string_view> names;
  for (const DType type : types) names.push_back(dtype_info(type).name);
  return fmt::format("{}", fmt::join(names, ", "));
}

// What the command line asks for, its parts understood.
struct ConvertRequest {
  bool to_gguf = true;
  DType type = DType::kBF16;
  GgufTypeRules rules = {};
};

Result<ConvertRequest> parse_request(const ConvertOptions& options) {
  ConvertRequest request{.to_gguf = is_gguf_path(options.dst)};
  if (!options.importance_matrix.empty()) {
    return error("--imatrix {}: importance matrices are not supported; leave the option out",
                 options.importance_matrix);
  }
  if (fs::path(options.dst).extension() == ".safetensors") {
    return error("{}: expected a folder (for safetensors with their config) or a name that ends in .gguf", options.dst);
  }
  QN_TRY(request.type,
         parse_export_type(options.type, request.to_gguf ? gguf_export_types() : safetensors_export_types()));
  request.rules.type = request.type;
  for (const std::string& text : options.tensor_types) {
    QN_TRY(TypeOverride type_override, parse_type_override(text));
    request.rules.overrides.push_back(std::move(type_override));
  }
  if (!request.to_gguf && !options.tensor_types.empty()) {
    return error("--tensor-type {}: safetensors are written in one type, by --type; expected a destination *.gguf",
                 options.tensor_types.front());
  }
  if (!options.name.empty() && (!request.to_gguf || is_gguf_path(options.src))) {
    return error("--name {}: only GGUF files have one, and one made from another keeps it", options.name);
  }
  return request;
}

std::string summary(const std::string& dst, const ExportPlan& plan) {
  struct Sum {
    std::size_t num_tensors = 0;
    std::uint64_t num_bytes = 0;
  };
  std::map<DType, Sum> sums;
  for (const ExportTensor& tensor : plan.tensors) {
    Sum& sum = sums[tensor.spec.type];
    ++sum.num_tensors;
    sum.num_bytes += *try_tensor_bytes(tensor.spec.type, tensor.spec.shape);
  }
  std::string text =
      fmt::format("wrote {}: {} in {} tensors\n", dst, bytes_text(plan.total_bytes), plan.tensors.size());
  for (const auto& [type, sum] : sums) {
    text +=
        fmt::format("  {:<8} {:>6} tensors  {}\n", dtype_info(type).name, sum.num_tensors, bytes_text(sum.num_bytes));
  }
  return text;
}

// The folder that safetensors lie in.
fs::path folder_of(const std::string& src) {
  return fs::is_directory(src) ? fs::path(src) : fs::path(src).parent_path();
}

// Shows how far a conversion is; Ctrl-C stops it.
struct ShownBy {
  Progress& progress;
  bool operator()(std::uint64_t done_bytes, std::uint64_t total_bytes) const {
    progress.update(done_bytes, total_bytes);
    return !interrupted();
  }
};

class Conversion {
 public:
  Conversion(const ConvertOptions& options, const ConvertRequest& request, const ExportSource& source)
      : options_(options),
        request_(request),
        source_(source),
        pool_(options.num_threads != 0 ? options.num_threads : usable_cores()) {}

  Status to_gguf() {
    QN_TRY(const ExportPlan plan, plan_gguf(source_, request_.rules));
    GgufHeader header;
    if (source_.gguf() != nullptr) {
      add_requantised_metadata(header, *source_.gguf(), request_.type);
    } else {
      QN_TRY(const TextParts text, load_text_parts(folder_of(options_.src), source_.config().V));
      if (!text.vocabulary) {
        write_stderr(fmt::format("qnext: {}: no tokenizer.json here: the GGUF gets no tokenizer\n", options_.src));
      }
      add_gguf_metadata(header, source_.config(), plan,
                        {.name = options_.name, .sampling = text.sampling, .type = request_.type});
      add_text_metadata(header, text);
    }
    Progress progress("converting");
    QN_RETURN_IF_ERROR(export_gguf(options_.dst, std::move(header), plan, pool_, ShownBy{progress}));
    done_ = summary(options_.dst, plan);
    return success();
  }

  Status to_safetensors() {
    const ExportPlan plan = plan_safetensors(source_, request_.type);
    std::error_code failure;
    const bool is_new = fs::create_directory(options_.dst, failure);
    if (failure) return error("{}: cannot create this folder: {}", options_.dst, failure.message());
    Status status = write_folder(plan);
    if (!status.ok() && is_new) fs::remove(options_.dst, failure);  // only when nothing is in it
    return status;
  }

  const std::string& done() const { return done_; }

 private:
  Status write_folder(const ExportPlan& plan) {
    QN_TRY(std::vector<SideFile> files, side_files());
    {
      Progress progress("converting");
      QN_RETURN_IF_ERROR(export_safetensors(options_.dst, plan, pool_, ShownBy{progress}));
    }
    for (const SideFile& file : files) QN_RETURN_IF_ERROR(write_file(fs::path(options_.dst) / file.name, file.content));
    done_ = summary(options_.dst, plan);
    return success();
  }

  // All that a folder has beside its weights.
  Result<std::vector<SideFile>> side_files() {
    if (source_.gguf() == nullptr) {
      const fs::path folder = folder_of(options_.src);
      QN_TRY(std::vector<SideFile> files, load_side_files(folder));
      QN_TRY(const std::string config, read_file(folder / "config.json", kMaxConfigBytes));
      files.push_back({"config.json", retyped_config_json(config, request_.type)});
      return files;
    }
    QN_TRY(GgufSideFiles from_gguf, make_side_files(*source_.gguf(), source_.config()));
    if (!from_gguf.note.empty()) write_stderr(fmt::format("qnext: {}\n", from_gguf.note));
    from_gguf.files.push_back(
        {"config.json", config_json_text(source_.config(), request_.type, from_gguf.special_tokens)});
    return std::move(from_gguf.files);
  }

  const ConvertOptions& options_;
  const ConvertRequest& request_;
  const ExportSource& source_;
  ThreadPool pool_;
  std::string done_;
};

Result<ExitCode> convert(const ConvertOptions& options) {
  const Result<ConvertRequest> request = parse_request(options);
  if (!request.ok()) return usage_error(request.message());
  catch_interrupts();
  QN_TRY(const ExportSource source, ExportSource::open(options.src));
  QN_RETURN_IF_ERROR(check_destination(options.dst, source.file_names(), request->to_gguf, options.force));
  Conversion conversion(options, *request, source);
  const Status status = request->to_gguf ? conversion.to_gguf() : conversion.to_safetensors();
  if (!status.ok() && interrupted()) {
    write_stderr(fmt::format("qnext: {}\n", status.message()));
    return ExitCode::kInterrupted;
  }
  if (!status.ok()) return Error{status.message()};
  write_stderr(conversion.done());
  return ExitCode::kDone;
}

constexpr const char* kFooter = R"(Types for GGUF: {}; for safetensors: {}.
Vectors (norms, router, conv, shared gate) stay f32 in GGUF. Below q6_k, token_embd and output are q6_k; below q8_0,
ssm_ba, attn_k, attn_v and the MTP block are q8_0. Rows that are no multiple of 256 take q4_k to q5_0, q5_k to q5_1,
q6_k to q8_0, and q2_k, q3_k and iq4_xs to iq4_nl; no multiple of 32: bf16.

Examples:
  qnext convert Qwen3-Next-80B-A3B-Instruct/ next-q4.gguf --type q4_k
  qnext convert next-bf16.gguf next.gguf --type q4_k --tensor-type 'ffn_down_exps=q5_k' --tensor-type 'blk\.0\.=q8_0'
  qnext convert next-bf16.gguf next-folder/          back to safetensors, bf16
Ctrl-C stops it; what is not complete is removed.)";

}  // namespace

Result<DType> parse_export_type(std::string_view name, const std::vector<DType>& allowed) {
  const auto type = dtype_from_name(name);
  if (type && std::find(allowed.begin(), allowed.end(), *type) != allowed.end()) return *type;
  return error("type \"{}\": expected one of {}", name, type_names(allowed));
}

Result<TypeOverride> parse_type_override(const std::string& text) {
  const std::size_t equals = text.rfind('=');
  if (equals == std::string::npos || equals == 0) {
    return error("--tensor-type {}: expected REGEX=TYPE, such as ffn_down_exps=q6_k", text);
  }
  const auto type = parse_export_type(text.substr(equals + 1), gguf_export_types());
  if (!type.ok()) return error("--tensor-type {}: {}", text, type.message());
  auto pattern = NamePattern::parse(text.substr(0, equals));
  if (!pattern.ok()) return error("--tensor-type {}: {}", text, pattern.message());
  return TypeOverride{.text = text, .pattern = std::move(*pattern), .type = *type};
}

Status check_destination(const std::string& dst, const std::vector<std::string>& source_files, bool to_gguf,
                         bool force) {
  std::error_code ignored;  // what cannot be looked at is reported by the writers
  for (const fs::path file : source_files) {
    const bool folder_matters = !to_gguf && file.extension() == ".safetensors";
    const fs::path folder = file.has_parent_path() ? file.parent_path() : fs::path(".");
    if (fs::equivalent(dst, folder_matters ? folder : file, ignored)) {
      return error("{}: is the source itself: choose another destination", dst);
    }
  }
  if (!fs::exists(dst, ignored)) return success();
  if (fs::is_directory(dst, ignored) == to_gguf) {
    return error("{}: expected {}, found {}", dst, to_gguf ? "a file" : "a folder", to_gguf ? "a folder" : "a file");
  }
  const bool occupied = to_gguf || !fs::is_empty(dst, ignored);
  if (occupied && !force) return error("{}: is there already: choose another destination, or give --force", dst);
  return success();
}

void add_convert_command(CLI::App& root, Action& action) {
  auto options = std::make_shared<ConvertOptions>();
  CLI::App& command = *root.add_subcommand(
      "convert", "Rewrite a checkpoint in another format or type: safetensors or GGUF, either way.");
  command
      .add_option("SRC", options->src,
                  "A folder with config.json and safetensors, or a .gguf file (any part of a split one), or OWNER/NAME "
                  "that was pulled")
      ->transform(pulled_model())
      ->required();
  command.add_option("DST", options->dst, "NAME.gguf, or a folder for safetensors with config and tokenizer files")
      ->required();
  command.add_option("--type", options->type, "Element type of the matrices (default: bf16)")->type_name("TYPE");
  command
      .add_option("--tensor-type", options->tensor_types,
                  "Another type for the GGUF tensors whose name matches; may be repeated, the last match wins")
      ->type_name("REGEX=TYPE")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  command.add_option("--name", options->name, "The model's name in the GGUF")->type_name("NAME");
  command.add_flag("--force", options->force, "Replace DST when it is there");
  command.add_option("--imatrix", options->importance_matrix, "Importance matrices are not supported: refused")
      ->type_name("FILE");
  command
      .add_option("--threads", options->num_threads,
                  fmt::format("Threads that compute (default: the {} that this process may use)", usable_cores()))
      ->check(CLI::Range(std::size_t{1}, kMaxThreads))
      ->type_name("N");
  command.footer(
      fmt::format(fmt::runtime(kFooter), type_names(gguf_export_types()), type_names(safetensors_export_types())));
  command.callback([options, &action] { action = [options] { return convert(*options); }; });
}

}  // namespace qnext
