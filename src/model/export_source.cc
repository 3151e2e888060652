#include "model/export_source.h"

#include <filesystem>
#include <numeric>
#include <system_error>

#include "model/tensor_reader.h"
#include "tensor/mapped_file.h"

namespace qnext {
namespace fs = std::filesystem;

namespace {

std::size_t rows_of(const std::vector<std::size_t>& shape) {
  return std::accumulate(shape.begin(), shape.end() - 1, std::size_t{1}, std::multiplies<>());
}

// The parts of in_proj_qkvz that one GGUF tensor has, taken out of their groups. `first_row`s count within a group.
RowList ungroup(const RowList& qkvz, const QkvzGroups& groups, TensorRelation relation) {
  RowList out;
  const auto append = [&](std::size_t first_row, std::size_t num_rows) {
    for (std::size_t group_idx = 0; group_idx < groups.num_groups; ++group_idx) {
      const std::size_t begin = group_idx * groups.group_rows() + first_row;
      out.append(qkvz.slice({begin, begin + num_rows}));
    }
  };
  if (relation == TensorRelation::kDeltaGate) {
    append(2 * groups.key_rows + groups.value_rows, groups.value_rows);
  } else {
    append(0, groups.key_rows);
    append(groups.key_rows, groups.key_rows);
    append(2 * groups.key_rows, groups.value_rows);
  }
  return out;
}

// A tensor whose GGUF and Hugging Face shapes differ in axes of 1 only.
Result<RowList> whole(TensorReader& reader, const std::string& name, const std::vector<std::size_t>& shape) {
  QN_TRY(const Weight weight, reader.matrix(name, rows_of(shape), shape.back()));
  return RowList(weight);
}

Result<std::vector<SourceTensor>> read_safetensors(TensorReader& reader, const ModelConfig& config,
                                                   const std::vector<NetworkTensor>& network) {
  std::vector<SourceTensor> out;
  RowList qkvz;  // of the layer under way
  for (const NetworkTensor& tensor : network) {
    SourceTensor& source = out.emplace_back();
    source.form = tensor.hf_form;
    switch (tensor.relation) {
      case TensorRelation::kSame: {
        QN_TRY(source.rows, whole(reader, tensor.hf_name, tensor.gguf_shape));
        break;
      }
      case TensorRelation::kExperts:
        for (std::size_t expert_idx = 0; expert_idx < config.E; ++expert_idx) {
          QN_TRY(const RowList expert, whole(reader, tensor.expert_name(expert_idx), tensor.hf_shape));
          source.rows.append(expert);
        }
        break;
      case TensorRelation::kDeltaQkv: {
        QN_TRY(qkvz, whole(reader, tensor.hf_name, tensor.hf_shape));
        source.rows = ungroup(qkvz, QkvzGroups(config), tensor.relation);
        break;
      }
      case TensorRelation::kDeltaGate:
        source.rows = ungroup(qkvz, QkvzGroups(config), tensor.relation);
        break;
    }
  }
  if (config.tied_head) reader.ignore("lm_head.weight");  // some exporters write the tied copy too
  return out;
}

// Experts stacked in one tensor, or as the upper or lower half of each matrix of ffn_gate_up_exps.
class GgufExperts {
 public:
  explicit GgufExperts(TensorReader& reader) : reader_(reader) {}

  Result<RowList> rows(const NetworkTensor& tensor) {
    const std::string& name = tensor.gguf_name;
    const std::size_t kind_at = name.find("ffn_");
    const std::string fused_name = name.substr(0, kind_at) + "ffn_gate_up_exps.weight";
    const bool is_gate = name.compare(kind_at, 9, "ffn_gate_") == 0;
    const bool is_up = name.compare(kind_at, 7, "ffn_up_") == 0;
    const std::size_t num_experts = tensor.gguf_shape[0];
    const std::size_t num_rows = tensor.gguf_shape[1];
    const bool fused = (is_gate || is_up) && reader_.has(fused_name);
    if (!fused || is_gate) {
      QN_TRY(matrices_, reader_.stacked(fused ? fused_name : name, num_experts, fused ? 2 * num_rows : num_rows,
                                        tensor.gguf_shape[2]));
    }
    RowList out;
    const std::size_t begin = fused && is_up ? num_rows : 0;
    for (const Weight& matrix : matrices_) out.append(RowList(matrix).slice({begin, begin + num_rows}));
    return out;
  }

 private:
  TensorReader& reader_;
  std::vector<Weight> matrices_;  // of the tensor read last: the gate's are the up projection's too when fused
};

Result<std::vector<SourceTensor>> read_gguf(TensorReader& reader, const ModelConfig& config,
                                            const std::vector<NetworkTensor>& network) {
  std::vector<SourceTensor> out;
  GgufExperts experts(reader);
  std::optional<RowList> fused_qkvz;  // of the layer under way, when the file is an older one
  for (const NetworkTensor& tensor : network) {
    SourceTensor& source = out.emplace_back();
    if (tensor.relation == TensorRelation::kExperts) {
      QN_TRY(source.rows, experts.rows(tensor));
      continue;
    }
    if (tensor.relation == TensorRelation::kDeltaQkv) {
      fused_qkvz.reset();
      const std::string fused_name = tensor.gguf_name.substr(0, tensor.gguf_name.find("attn_")) + "ssm_in.weight";
      if (reader.has(fused_name)) {
        QN_TRY(fused_qkvz, whole(reader, fused_name, tensor.hf_shape));
      }
    }
    if (fused_qkvz && tensor.relation != TensorRelation::kSame) {
      source.rows = ungroup(*fused_qkvz, QkvzGroups(config), tensor.relation);
      continue;
    }
    QN_TRY(source.rows, whole(reader, tensor.gguf_name, tensor.gguf_shape));
  }
  return out;
}

}  // namespace

Status ExportSource::open_gguf(const std::string& path) {
  QN_TRY(file_, Gguf::open(path));
  const Gguf& file = std::get<Gguf>(file_);
  QN_TRY(config_, parse_config_gguf(file));
  network_ = network_tensors(config_);
  TensorReader reader(file.table(), file.file_names(), owned_);
  QN_TRY(tensors_, read_gguf(reader, config_, network_));
  return reader.expect_all_taken();
}

Status ExportSource::open_safetensors(const std::string& path, bool is_folder) {
  const fs::path config_path = (is_folder ? fs::path(path) : fs::path(path).parent_path()) / "config.json";
  QN_TRY(const MappedFile config_file, MappedFile::open(config_path));
  const std::string_view text(reinterpret_cast<const char*>(config_file.bytes().data()), config_file.bytes().size());
  QN_TRY(config_, parse_config_json(text, config_path.string()));
  QN_TRY(file_, Safetensors::open(path));
  const Safetensors& file = std::get<Safetensors>(file_);
  TensorReader reader(file.table(), file.file_names(), owned_);
  config_.has_mtp = reader.has("mtp.fc.weight");
  QN_RETURN_IF_ERROR(check_config(config_, config_path.string()));
  network_ = network_tensors(config_);
  QN_TRY(tensors_, read_safetensors(reader, config_, network_));
  return reader.expect_all_taken();
}

Result<ExportSource> ExportSource::open(const std::string& path) {
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return error("{}: no such file or directory", path);
  const bool is_folder = fs::is_directory(path, ignored);
  const std::string extension = fs::path(path).extension().string();
  if (!is_folder && extension != ".safetensors" && extension != ".gguf") {
    return error(
        "{}: expected a folder with config.json and safetensors, a .safetensors file beside its config.json, "
        "or a .gguf file",
        path);
  }
  ExportSource out;
  if (!is_folder && extension == ".gguf") {
    QN_RETURN_IF_ERROR(out.open_gguf(path));
  } else {
    QN_RETURN_IF_ERROR(out.open_safetensors(path, is_folder));
  }
  return out;
}

const std::vector<std::string>& ExportSource::file_names() const {
  if (const Gguf* file = gguf()) return file->file_names();
  return std::get<Safetensors>(file_).file_names();
}

void ExportSource::release_pages() const {
  const std::vector<MappedFile>& files = gguf() != nullptr ? gguf()->files() : std::get<Safetensors>(file_).files();
  for (const MappedFile& file : files) file.advise(AccessPattern::kDoneForNow);
}

}  // namespace qnext
