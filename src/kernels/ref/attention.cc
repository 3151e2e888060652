#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/ref/ref_kernels.h"
#include "tensor/block_formats.h"
#include "tensor/float_formats.h"
#include "tensor/quantize.h"

namespace qnext {
namespace {

// Where position p's vector of one K/V head begins, `base` being kv.keys or kv.values.
std::byte* kv_row(const KvPages& kv, std::byte* base, std::size_t position, std::size_t kv_head_idx) {
  const std::size_t page = kv.pages[position / kv.page_tokens].value;
  const std::size_t vector_idx = kv_head_idx * kv.page_tokens + position % kv.page_tokens;
  return base + page * kv.page_stride_bytes + dtype_bytes(kv.type, vector_idx * kv.head_dim);
}

// The encoder takes finite values only; what is not must not get lost in a block of small integers.
void store_q8_0(std::byte* row, const float* values, std::size_t num_elements) {
  for (std::size_t i = 0; i < num_elements; i += kSmallBlock, row += sizeof(BlockQ8_0)) {
    if (find_non_finite(values + i, kSmallBlock)) {
      const BlockQ8_0 block = {.d = kF16Nan, .codes = {}};
      std::memcpy(row, &block, sizeof(block));
    } else {
      encode_blocks(row, values + i, DType::kQ8_0, kSmallBlock);
    }
  }
}

void store_row(const KvPages& kv, std::byte* row, const float* values) {
  if (kv.type == DType::kQ8_0) return store_q8_0(row, values, kv.head_dim);
  if (kv.type == DType::kF32) {
    std::memcpy(row, values, kv.head_dim * sizeof(float));
    return;
  }
  for (std::size_t i = 0; i < kv.head_dim; ++i) {
    const std::uint16_t bits = f32_to_bf16(values[i]);
    std::memcpy(row + i * sizeof(bits), &bits, sizeof(bits));
  }
}

void store_kv(const KvPages& kv, View<const float> keys, View<const float> values, std::size_t first_position) {
  for (std::size_t t = 0; t < keys.dim(0); ++t) {
    for (std::size_t h = 0; h < kv.num_kv_heads; ++h) {
      store_row(kv, kv_row(kv, kv.keys, first_position + t, h), keys.row(t, h));
      store_row(kv, kv_row(kv, kv.values, first_position + t, h), values.row(t, h));
    }
  }
}

// One query row over positions [0, num_positions).
void attend_row(float* out, const float* q, const KvPages& kv, std::size_t num_positions, float scale,
                std::size_t kv_head_idx) {
  std::vector<double> weights(num_positions);
  std::vector<float> decoded(kv.head_dim);
  for (std::size_t p = 0; p < num_positions; ++p) {
    decode_blocks(decoded.data(), kv_row(kv, kv.keys, p, kv_head_idx), kv.type, kv.head_dim);
    double dot = 0.0;
    for (std::size_t i = 0; i < kv.head_dim; ++i) dot += static_cast<double>(q[i]) * decoded[i];
    weights[p] = scale * dot;
  }
  const double largest = *std::max_element(weights.begin(), weights.end());
  double weight_sum = 0.0;
  std::vector<double> sums(kv.head_dim, 0.0);
  for (std::size_t p = 0; p < num_positions; ++p) {
    decode_blocks(decoded.data(), kv_row(kv, kv.values, p, kv_head_idx), kv.type, kv.head_dim);
    const double weight = std::exp(weights[p] - largest);
    weight_sum += weight;
    for (std::size_t i = 0; i < kv.head_dim; ++i) sums[i] += weight * decoded[i];
  }
  for (std::size_t i = 0; i < kv.head_dim; ++i) out[i] = static_cast<float>(sums[i] / weight_sum);
}

void attend(View<float> out, View<const float> q, const KvPages& kv, std::size_t first_position, float scale,
            std::size_t kv_head_idx, Range tokens) {
  const std::size_t group = q.dim(1) / kv.num_kv_heads;
  for (std::size_t t = tokens.begin; t < tokens.end; ++t) {
    for (std::size_t h = kv_head_idx * group; h < (kv_head_idx + 1) * group; ++h) {
      attend_row(out.row(t, h), q.row(t, h), kv, first_position + t + 1, scale, kv_head_idx);
    }
  }
}

}  // namespace

void add_attention(KernelTable& table) {
  table.store_kv = store_kv;
  table.attend = attend;
}

}  // namespace qnext
