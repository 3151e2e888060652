#pragma once
// Trace: what a network computed for consecutive tokens, from its embeddings to its logits; read from a golden file, or
// noted while a model runs. Two traces of one token list are what `compare` compares.

#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/units.h"
#include "eval/compare_logits.h"
#include "eval/direct_runner.h"

namespace qnext {

struct LayerTrace {
  std::vector<float> hidden;          // [T, D] before the layer; the last layer's successor: after the final norm
  std::vector<float> experts;         // [T, A]; empty for dense layers and where the source does not say
  std::vector<float> router_weights;  // likewise
};

struct Trace {
  std::size_t num_tokens = 0;
  std::size_t V = 0, D = 0, A = 0;
  std::vector<float> logits;       // [T, V]
  std::vector<LayerTrace> layers;  // one more than the network has; empty where the source does not say

  Trace slice(Range tokens) const;
};

// A .safetensors file with a reference's answers to one token list.
struct GoldenFile {
  std::vector<TokenId> input_ids;  // [T]
  Trace trace;                     // logits always; "hidden.N", "router.N.experts", "router.N.weights" where present
  std::vector<TokenId> greedy;     // the reference's greedy continuation, or empty
};

// Reads input_ids (I32 or I64), logits [T, V] (F32) and, where present, the keys above. Errors: missing, mis-typed or
// mis-shaped tensors, by name.
Result<GoldenFile> load_golden_file(const std::string& path);

// Runs the next tokens through the runner's single sequence and notes everything.
Trace trace_step(DirectRunner& runner, std::span<const TokenId> token_ids);

struct Comparison {
  LogitDifference logits;
  std::vector<LayerDifference> layers;  // empty when the two networks differ in depth or width
};

// Told how many tokens are done; false stops the work, which then is an error.
using TokensDone = FunctionRef<bool(std::size_t num_tokens)>;

// Feeds the golden file's input_ids to the model, as they are. Errors: another vocabulary; ids beyond it.
Result<Comparison> compare_with_golden(DirectRunner& runner, const GoldenFile& golden, TokensDone done);

// Feeds token_ids to both. Errors: vocabularies of different size; ids beyond them.
Result<Comparison> compare_models(DirectRunner& runner, DirectRunner& reference, std::span<const TokenId> token_ids,
                                  TokensDone done);

}  // namespace qnext
