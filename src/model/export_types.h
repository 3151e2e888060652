#pragma once
// Which element type each tensor of a converted model gets.
//
// GGUF. Vectors (norms, router, conv, decay, shared gate) are always f32. Matrices get the type asked for, but
//   - token_embd and output at least q6_k: every token passes through them, and they are 1 % of the weights;
//   - ssm_ba, attn_k, attn_v at least q8_0: a few rows that steer a whole layer (FP8 releases keep ssm_ba in bf16);
//   - the MTP block at least q8_0: quantised further, its drafts are no longer accepted (research/training.md 5.3).
// "At least" compares bits a weight. Overrides come last and win over these. What does not fit a tensor's rows falls
// back as in llama.cpp (llama-quant.cpp, tensor_type_fallback): rows that are no multiple of 256 take q2_k, q3_k and
// iq4_xs to iq4_nl, q4_k to q5_0, q5_k to q5_1, q6_k to q8_0; rows that are no multiple of 32 take all of these to
// bf16. safetensors. One type for everything, as released checkpoints have it.

#include <cstddef>
#include <string>
#include <vector>

#include "base/result.h"
#include "model/export_network.h"
#include "model/export_pattern.h"
#include "tensor/dtype.h"

namespace qnext {

struct TypeOverride {
  std::string text;     // as given, for errors
  NamePattern pattern;  // of GGUF names
  DType type = DType::kBF16;
};

struct GgufTypeRules {
  DType type = DType::kBF16;
  std::vector<TypeOverride> overrides;  // the last that matches wins
};

// The types that matrices of a GGUF, and tensors of safetensors, can be converted to.
const std::vector<DType>& gguf_export_types();
const std::vector<DType>& safetensors_export_types();

// One type a tensor. Errors: an override matches no matrix.
Result<std::vector<DType>> choose_gguf_types(const std::vector<NetworkTensor>& tensors, const GgufTypeRules& rules);

// general.file_type: the number by which llama.cpp names a mix after its main type (llama.h, enum llama_ftype).
std::uint32_t gguf_file_type(DType type);

}  // namespace qnext
