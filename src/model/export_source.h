#pragma once
// ExportSource: a checkpoint of either kind, opened to be converted: each tensor of its network (export_network.h) as
// rows of what the file has. Opening it verifies it as loading does.

#include <string>
#include <variant>
#include <vector>

#include "base/result.h"
#include "model/config.h"
#include "model/export_network.h"
#include "model/export_rows.h"
#include "model/weights.h"
#include "tensor/gguf.h"
#include "tensor/safetensors.h"

namespace qnext {

struct SourceTensor {
  RowList rows;                        // of gguf_shape, all axes but the last as one
  ValueForm form = ValueForm::kPlain;  // of the stored numbers
};

class ExportSource {
 public:
  // `path`: a folder with config.json and safetensors, a .safetensors file beside its config.json, or a .gguf file.
  // Errors: what load_weights() refuses: a missing, extra or mis-shaped tensor, a config that makes no sense.
  // Reads metadata only; memory is a few dozen bytes a tensor, and the scales of FP8 checkpoints.
  static Result<ExportSource> open(const std::string& path);

  const ModelConfig& config() const { return config_; }
  const std::vector<NetworkTensor>& network() const { return network_; }
  const std::vector<SourceTensor>& tensors() const { return tensors_; }  // in step with network()

  const Gguf* gguf() const { return std::get_if<Gguf>(&file_); }  // null when it is safetensors
  const std::vector<std::string>& file_names() const;

  // What was read so far leaves our resident set: a conversion of any size then runs in the memory of its buffers.
  void release_pages() const;

 private:
  ExportSource() = default;
  Status open_gguf(const std::string& path);
  Status open_safetensors(const std::string& path, bool is_folder);

  ModelConfig config_;
  std::vector<NetworkTensor> network_;
  std::vector<SourceTensor> tensors_;
  std::variant<std::monostate, Safetensors, Gguf> file_;
  OwnedBytes owned_;  // FP8 scales
};

}  // namespace qnext
