#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
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

// Where the f32 scale of position p's codes lies, type kI16.
std::byte* kv_scale(const KvPages& kv, std::byte* base, std::size_t position, std::size_t kv_head_idx) {
  const std::size_t page = kv.pages[position / kv.page_tokens].value;
  const std::size_t vector_idx = kv_head_idx * kv.page_tokens + position % kv.page_tokens;
  const std::size_t code_bytes = dtype_bytes(DType::kI16, kv.num_kv_heads * kv.page_tokens * kv.head_dim);
  return base + page * kv.page_stride_bytes + code_bytes + vector_idx * sizeof(float);
}

// The scale that kernels.h asks for; max_length is infinite where it does not matter.
float i16_scale(const float* values, std::size_t num_values, float max_length, float max_code) {
  float sums[16] = {};
  float largest = 0, sum = 0;
  for (std::size_t i = 0; i < num_values; ++i) {
    sums[i % 16] += values[i] * values[i];
    largest = std::max(largest, std::fabs(values[i]));
  }
  for (const float part : sums) sum += part;
  if (!std::isfinite(sum)) return std::numeric_limits<float>::quiet_NaN();
  if (largest < kI16Zero) return 0.0f;
  return std::max(std::sqrt(sum) / max_length, largest / max_code);
}

void store_i16(std::byte* row, std::byte* scale_at, const float* values, std::size_t num_values, float scale) {
  std::memcpy(scale_at, &scale, sizeof(scale));
  const float inverse = scale > 0 ? 1 / scale : 0.0f;
  for (std::size_t i = 0; i < num_values; ++i) {
    const auto code = static_cast<std::int16_t>(scale > 0 ? std::nearbyint(values[i] * inverse) : 0.0f);
    std::memcpy(row + i * sizeof(code), &code, sizeof(code));
  }
}

void decode_row(float* out, const KvPages& kv, std::byte* base, std::size_t position, std::size_t kv_head_idx) {
  const std::byte* row = kv_row(kv, base, position, kv_head_idx);
  if (kv.type != DType::kI16) return decode_blocks(out, row, kv.type, kv.head_dim);
  float scale;
  std::memcpy(&scale, kv_scale(kv, base, position, kv_head_idx), sizeof(scale));
  for (std::size_t i = 0; i < kv.head_dim; ++i) {
    std::int16_t code;
    std::memcpy(&code, row + i * sizeof(code), sizeof(code));
    out[i] = scale * static_cast<float>(code);
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
      const std::size_t position = first_position + t;
      const float *key = keys.row(t, h), *value = values.row(t, h);
      std::byte *key_at = kv_row(kv, kv.keys, position, h), *value_at = kv_row(kv, kv.values, position, h);
      if (kv.type == DType::kI16) {
        const float infinity = std::numeric_limits<float>::infinity();
        store_i16(key_at, kv_scale(kv, kv.keys, position, h), key, kv.head_dim,
                  i16_scale(key, kv.head_dim, kI16Length, 32767));
        store_i16(value_at, kv_scale(kv, kv.values, position, h), value, kv.head_dim,
                  i16_scale(value, kv.head_dim, infinity, kI16Value));
      } else {
        store_row(kv, key_at, key);
        store_row(kv, value_at, value);
      }
    }
  }
}

// One query row over positions [0, num_positions).
void attend_row(float* out, const float* q, const KvPages& kv, std::size_t num_positions, float scale,
                std::size_t kv_head_idx) {
  std::vector<double> weights(num_positions);
  std::vector<float> decoded(kv.head_dim);
  for (std::size_t p = 0; p < num_positions; ++p) {
    decode_row(decoded.data(), kv, kv.keys, p, kv_head_idx);
    double dot = 0.0;
    for (std::size_t i = 0; i < kv.head_dim; ++i) dot += static_cast<double>(q[i]) * decoded[i];
    weights[p] = scale * dot;
  }
  const double largest = *std::max_element(weights.begin(), weights.end());
  double weight_sum = 0.0;
  std::vector<double> sums(kv.head_dim, 0.0);
  for (std::size_t p = 0; p < num_positions; ++p) {
    decode_row(decoded.data(), kv, kv.values, p, kv_head_idx);
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
