#pragma once
// For tests of drafting: next-tiny, changed so that its MTP block mostly says what the trunk says next. Every layer's
// output is made small, so that the last token decides nearly alone, and the block's fc passes that token's embedding
// on. The small rest still shows in the logits' bits: whoever mixes states or positions up gives himself away.

#include <cstring>

#include "engine/engine_test_support.h"
#include "model/weights.h"

namespace qnext::test {

inline float bf16_value(const std::byte* bytes) {
  std::uint16_t half = 0;
  std::memcpy(&half, bytes, sizeof(half));
  return std::bit_cast<float>(static_cast<std::uint32_t>(half) << 16);
}

// The weight with f(row, col, value) in place of each value; exact where that needs no more than bf16's bits.
template <typename F>
void change(Weight& weight, OwnedBytes& owned, F f) {
  QN_CHECK(weight.type == DType::kBF16, "expected bf16");
  std::byte* bytes = owned.allocate(weight.rows * weight.cols * 2);
  for (std::size_t r = 0; r < weight.rows; ++r) {
    for (std::size_t c = 0; c < weight.cols; ++c) {
      const auto bits = std::bit_cast<std::uint32_t>(static_cast<float>(f(r, c, bf16_value(weight.row(r) + 2 * c))));
      const auto half = static_cast<std::uint16_t>(bits >> 16);
      std::memcpy(bytes + (r * weight.cols + c) * 2, &half, sizeof(half));
    }
  }
  weight.data = bytes;
  weight.row_bytes = weight.cols * 2;
}

// `scale` of the layers' outputs, a power of two: the smaller, the more the block agrees.
inline ModelWeights agreeing_weights(float scale) {
  auto loaded = load_weights(data_path("golden/next-tiny"));
  QN_CHECK(loaded.ok(), "{}", loaded.message());
  ModelWeights weights = std::move(loaded).value();
  const auto shrink = [&](Weight& weight) {
    change(weight, weights.owned, [&](std::size_t, std::size_t, float value) { return value * scale; });
  };
  const auto shrink_layer = [&](LayerWeights& layer) {
    std::visit([&](auto& mixer) { shrink(mixer.out); }, layer.mixer);
    auto& moe = std::get<MoeWeights>(layer.ffn);
    for (Weight& down : moe.down) shrink(down);
    shrink(moe.shared->down);
  };
  for (LayerWeights& layer : weights.layers) shrink_layer(layer);
  MtpWeights& mtp = *weights.mtp;
  shrink_layer(mtp.layer);
  std::ranges::fill(mtp.embedding_norm, 1.0f);
  mtp.norm = weights.final_norm;
  change(mtp.fc, weights.owned, [](std::size_t r, std::size_t c, float) { return r == c ? 1 : 0; });
  return weights;
}

}  // namespace qnext::test
