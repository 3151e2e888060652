#pragma once
// Where a network's weights come from: random ones to begin with, and safetensors in the released layout, read and
// written, so that transformers and the engine open what the trainer wrote, and the trainer what others did.

#include <filesystem>
#include <string>
#include <vector>

#include "base/result.h"
#include "tensor/safetensors.h"
#include "train/network.h"

namespace qnext::train {

struct InitOptions {
  std::uint64_t seed = 0;
  bool has_mtp = true;
  // Router rows of one length, so that no expert is chosen more often for being louder ("balanced"); false: as drawn.
  bool balanced_router = true;
};

// Normal values of deviation 0.02, over sqrt(2 layers) where a result joins the residual stream; zero-centred norms 0,
// the DeltaNet's norm 1, conv uniform within 1/sqrt(taps); A uniform in (0, 16], dt_bias the inverse softplus of a
// log-uniform step in [0.001, 0.1] (Yang et al. 2024: half of the heads then remember 11 tokens or more).
NetworkWeights init_weights(const ModelConfig& config, const InitOptions& options);

// Tensors of the right shapes, not filled.
NetworkWeights make_weights(const ModelConfig& config, bool has_mtp);

// What a released checkpoint holds of one of our tensors: experts one by one, gates and ups apart. The views share its
// memory, in the order of the file.
struct ReleasedTensor {
  std::string name;
  Tensor view;
};
std::vector<ReleasedTensor> released_tensors(const NamedWeight& weight);

// Of a folder with safetensors in F32, F16 or BF16, or one .safetensors file. MTP as the file has it. Errors: a tensor
// missing, left over, of another shape than the config says or another type, or not finite, by name.
Result<NetworkWeights> load_weights(const std::filesystem::path& folder, const ModelConfig& config);

// The same with the config.json beside them.
Result<Network> load_network(const std::filesystem::path& folder);

// model.safetensors in the existing `folder`, in released names and `type` (F32 or BF16, rounded to nearest even).
// Errors: AtomicFile's; nothing is replaced then.
Status export_weights(const NetworkWeights& weights, DType type, const std::filesystem::path& folder);

// Fills `out` from the entry's bytes. Errors: shape, type, a value that is not finite.
Status read_tensor(const TensorEntry& entry, const std::string& file, Tensor out);

std::vector<std::size_t> sizes_of(const Tensor& tensor);

}  // namespace qnext::train
