#include "eval/trace.h"

#include <algorithm>

namespace qnext {
namespace {

// Bounds the logits held at once: 128 rows of 151,936 are 74 MiB. At least kDeltaChunk, so that the chunked delta rule
// is what is compared.
constexpr std::size_t kStepTokens = 128;

std::vector<float> rows_of(const std::vector<float>& values, Range rows, std::size_t width) {
  if (values.empty()) return {};
  const auto begin = values.begin() + static_cast<std::ptrdiff_t>(rows.begin * width);
  return {begin, begin + static_cast<std::ptrdiff_t>(rows.count() * width)};
}

bool comparable(const Trace& reference, const Trace& actual) {
  return reference.layers.size() == actual.layers.size() && reference.D == actual.D;
}

void add_layers(std::vector<LayerDifference>& layers, const Trace& reference, const Trace& actual) {
  if (!comparable(reference, actual)) return;
  layers.resize(reference.layers.size());
  for (std::size_t layer_idx = 0; layer_idx < layers.size(); ++layer_idx) {
    const LayerTrace& expected = reference.layers[layer_idx];
    const LayerTrace& found = actual.layers[layer_idx];
    layers[layer_idx].hidden.add(expected.hidden, found.hidden);
    if (reference.A != actual.A || expected.experts.empty() || found.experts.empty()) continue;
    layers[layer_idx].routing.add({.experts = expected.experts, .weights = expected.router_weights},
                                  {.experts = found.experts, .weights = found.router_weights}, reference.A);
  }
}

// reference(range) gives the other side's trace of a range of token_ids.
Result<Comparison> compare(DirectRunner& runner, std::span<const TokenId> token_ids,
                           FunctionRef<Trace(Range)> reference, TokensDone done) {
  LogitComparison logits;
  Comparison out;
  for (std::size_t begin = 0; begin < token_ids.size(); begin += kStepTokens) {
    const Range range{begin, std::min(begin + kStepTokens, token_ids.size())};
    const Trace actual = trace_step(runner, token_ids.subspan(range.begin, range.count()));
    const Trace expected = reference(range);
    logits.add({expected.logits.data(), {range.count(), expected.V}},
               {actual.logits.data(), {range.count(), actual.V}});
    add_layers(out.layers, expected, actual);
    if (!done(range.end)) return error("stopped after {} of {} tokens", range.end, token_ids.size());
  }
  out.logits = logits.finish();
  return out;
}

Status expect_ids(std::span<const TokenId> token_ids, std::size_t V) {
  if (token_ids.empty()) return error("no tokens to compare on");
  for (TokenId id : token_ids) {
    if (id < 0 || static_cast<std::size_t>(id) >= V) {
      return error("token id {}: expected one below {}, the model's vocabulary", id, V);
    }
  }
  return success();
}

}  // namespace

Trace Trace::slice(Range tokens) const {
  QN_CHECK(tokens.end <= num_tokens, "tokens [{}, {}) of {}", tokens.begin, tokens.end, num_tokens);
  Trace out{.num_tokens = tokens.count(), .V = V, .D = D, .A = A, .logits = rows_of(logits, tokens, V), .layers = {}};
  for (const LayerTrace& layer : layers) {
    out.layers.push_back({.hidden = rows_of(layer.hidden, tokens, D),
                          .experts = rows_of(layer.experts, tokens, A),
                          .router_weights = rows_of(layer.router_weights, tokens, A)});
  }
  return out;
}

Trace trace_step(DirectRunner& runner, std::span<const TokenId> token_ids) {
  const ModelConfig& cfg = runner.model().config();
  Trace out{.num_tokens = token_ids.size(), .V = cfg.V, .D = cfg.D, .A = cfg.A, .logits = {}, .layers = {}};
  out.layers.resize(cfg.num_layers() + 1);
  const Probe probe = [&out](std::string_view name, std::size_t layer_idx, View<const float> values) {
    LayerTrace& layer = out.layers[layer_idx];
    if (name == "hidden") layer.hidden.assign(values.data(), values.data() + values.num_elements());
    if (name == "router.experts") layer.experts.assign(values.data(), values.data() + values.num_elements());
    if (name == "router.weights") layer.router_weights.assign(values.data(), values.data() + values.num_elements());
  };
  const View<float> hidden = runner.step(token_ids, &probe);
  const View<float> logits = runner.logits(hidden);
  out.logits.assign(logits.data(), logits.data() + logits.num_elements());
  return out;
}

Result<Comparison> compare_with_golden(DirectRunner& runner, const GoldenFile& golden, TokensDone done) {
  if (golden.trace.V != runner.model().config().V) {
    return error("the golden logits have {} columns, the model's vocabulary {} tokens: they belong to another model",
                 golden.trace.V, runner.model().config().V);
  }
  QN_RETURN_IF_ERROR(expect_ids(golden.input_ids, golden.trace.V));
  return compare(
      runner, golden.input_ids, [&](Range range) { return golden.trace.slice(range); }, done);
}

Result<Comparison> compare_models(DirectRunner& runner, DirectRunner& reference, std::span<const TokenId> token_ids,
                                  TokensDone done) {
  const std::size_t V = runner.model().config().V;
  if (reference.model().config().V != V) {
    return error("the models have vocabularies of {} and {} tokens: their logits cannot be compared", V,
                 reference.model().config().V);
  }
  QN_RETURN_IF_ERROR(expect_ids(token_ids, V));
  return compare(
      runner, token_ids,
      [&](Range range) { return trace_step(reference, token_ids.subspan(range.begin, range.count())); }, done);
}

}  // namespace qnext
