// Products of packed weights with AVX-512 VNNI.
//
// A group of 16 rows is a vector: lane r belongs to row r. For 32 columns the codes of column pairs, in 16 bits each,
// are multiplied by the same pair of a token's activations in every lane; the exact integer sums are then scaled and
// added to the f32 sums. Up to eight tokens share a run's codes as they are unpacked: all of it stays in registers, and
// unpacking again for the next eight costs less than to keep unpacked codes in memory.

#include "kernels/x86/packed.h"

#if defined(__x86_64__)

#include <hwy/base.h>
#include <immintrin.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>

#include "base/check.h"
#include "kernels/x86/packed_formats.h"

// gcc 12 takes the undefined operands inside its own intrinsics for ours.
#ifndef __clang__
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
HWY_PUSH_ATTRIBUTES("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")
namespace qnext {
namespace {

#include "kernels/x86/packed_blocks-inl.h"

// ---- One sum: 32 columns of a group times a token's ----

inline __m512i add_pair(__m512i sum, __m512i codes, const ActivationBlock& x, std::size_t pair) {
  std::int32_t both;
  __builtin_memcpy(&both, x.codes + 2 * pair, sizeof(both));
  return _mm512_dpwssd_epi32(sum, codes, _mm512_set1_epi32(both));
}

// What sums of sub-block `sub` of a run start from: its codes' offsets times its activations, negative.
template <class Packed>
inline __m512i take_offset_off(const ActivationBlock& x, std::size_t sub) {
  if constexpr (Packed::kOffset == 0) return _mm512_setzero_si512();
  const std::int32_t minus_sum = Packed::kSubBlock == kRun ? x.minus_sum[0] + x.minus_sum[1] : x.minus_sum[sub];
  return _mm512_set1_epi32(Packed::kOffset * minus_sum);
}

inline __m512 add_scaled(__m512 sum, __m512i dot, __m512 scale, const ActivationBlock& x) {
  return _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), _mm512_mul_ps(scale, _mm512_set1_ps(x.scale)), sum);
}

inline __m512 subtract_min(__m512 sum, __m512 min, const ActivationBlock& x) {
  return _mm512_fnmadd_ps(min, _mm512_set1_ps(x.sum), sum);
}

// ---- A group's products with up to eight tokens ----

inline constexpr std::size_t kTileTokens = 8;

// Of weights ahead, into L2: into L1, or at another distance, the formats reach 3% to 20% less of the bandwidth.
inline constexpr std::size_t kPrefetchBytes = 8192;

// Chains of integer sums, so that none waits for its own last addition.
template <class Packed>
inline __m512 add_run(__m512 sum, const Pairs& pairs, const Packed& block, const BlockScales& shared, std::size_t run,
                      const ActivationBlock& x) {
  constexpr std::size_t kSubs = kRun / Packed::kSubBlock, kPairs = 16 / kSubs, kChains = 4 / kSubs;
#pragma GCC unroll 2
  for (std::size_t sub = 0; sub < kSubs; ++sub) {
    __m512i dots[kChains] = {take_offset_off<Packed>(x, sub)};
#pragma GCC unroll 16
    for (std::size_t i = 0; i < kPairs; ++i) {
      dots[i % kChains] = add_pair(dots[i % kChains], pairs[sub * kPairs + i], x, sub * kPairs + i);
    }
    __m512i dot = _mm512_add_epi32(dots[0], dots[1]);
    if constexpr (kChains == 4) dot = _mm512_add_epi32(dot, _mm512_add_epi32(dots[2], dots[3]));
    const Scales s = scales_of(block, shared, run * kSubs + sub);
    sum = add_scaled(sum, dot, s.scale, x);
    if constexpr (Packed::kMins) sum = subtract_min(sum, s.min, x);
  }
  return sum;
}

// Asks for run `run`'s share of a block some way ahead: the CPU's own prefetchers lose track of codes that lie in
// several places of a block. An address beyond the weights is harmless.
template <class Packed>
inline void prefetch_ahead(const Packed& block, std::size_t run) {
  constexpr std::size_t kLine = 64, kLines = ceil_div(sizeof(Packed), kLine * kRuns);
  const char* ahead = reinterpret_cast<const char*>(&block) + kPrefetchBytes + run * kLines * kLine;
#pragma GCC unroll 8
  for (std::size_t i = 0; i < kLines; ++i) _mm_prefetch(ahead + i * kLine, _MM_HINT_T1);
}

// sums[t] = x[t] . the group's rows.    sums : [kTokens, kGroupRows]
template <class Packed, std::size_t kTokens>
void multiply_tile(float* sums, const Packed* blocks, std::size_t num_blocks, const ActivationBlock* const* x) {
  __m512 sum[kTokens] = {};
  for (std::size_t block_idx = 0; block_idx < num_blocks; ++block_idx) {
    const Packed& block = blocks[block_idx];
    const BlockScales shared = block_scales(block);
#pragma GCC unroll 2
    for (std::size_t run = 0; run < kRuns; ++run) {
      prefetch_ahead(block, run);
      Pairs pairs;
      unpack(pairs, block, run);
#pragma GCC unroll 8
      for (std::size_t t = 0; t < kTokens; ++t) {
        sum[t] = add_run(sum[t], pairs, block, shared, run, x[t][kRuns * block_idx + run]);
      }
    }
  }
#pragma GCC unroll 8
  for (std::size_t t = 0; t < kTokens; ++t) _mm512_storeu_ps(sums + t * kGroupRows, sum[t]);
}

// The tiles of 1 to kTileTokens tokens.
template <class Packed, std::size_t... kIndex>
constexpr auto make_tiles(std::index_sequence<kIndex...>) {
  return std::array{&multiply_tile<Packed, kIndex + 1>...};
}
template <class Packed>
inline constexpr auto kTiles = make_tiles<Packed>(std::make_index_sequence<kTileTokens>());

// ---- A group's products with many tokens ----

inline constexpr std::size_t kBlockTokens = 96;  // their x stays in L2: 480 KB at 2,048 columns

// The x rows of at most kBlockTokens tokens, wherever they lie.
struct TokenRows {
  std::array<const ActivationBlock*, kBlockTokens> x;
  std::size_t count = 0;
};

// sums[t] = x[t] . group group_idx's rows of w.    sums : [tokens.count, kGroupRows]
void multiply_group(float* sums, const Weight& w, std::size_t group_idx, const TokenRows& tokens) {
  const std::size_t num_blocks = w.cols / kSuperBlock;
  with_packed_layout(w.type, [&]<class Packed>(std::type_identity<Packed>) {
    const auto* blocks = reinterpret_cast<const Packed*>(w.packed) + group_idx * num_blocks;
    for (std::size_t t = 0; t < tokens.count; t += kTileTokens) {
      const auto tile = kTiles<Packed>[std::min(kTileTokens, tokens.count - t) - 1];
      tile(sums + t * kGroupRows, blocks, num_blocks, tokens.x.data() + t);
    }
  });
}

// For each group of rows in `outputs`, which begin at one: emit(row, mask of the group's rows that there are, sums).
template <class Emit>
void for_each_group(const Weight& w, Range outputs, const TokenRows& tokens, const Emit& emit) {
  alignas(64) float sums[kBlockTokens * kGroupRows];
  for (std::size_t row = outputs.begin; row < outputs.end; row += kGroupRows) {
    multiply_group(sums, w, row / kGroupRows, tokens);
    const std::size_t num_rows = std::min(kGroupRows, outputs.end - row);
    emit(row, static_cast<__mmask16>((1u << num_rows) - 1), sums);
  }
}

// ---- Packing and rounding ----

bool packs(const Weight& w) {
  return has_packed_layout(w.type) && w.cols % kSuperBlock == 0;
}

std::size_t packed_bytes(const Weight& w) {
  return ceil_div(w.rows, kGroupRows) * packed_group_bytes(w);
}

void pack(std::byte* out, const Weight& w, Range groups) {
  for (std::size_t group_idx = groups.begin; group_idx < groups.end; ++group_idx) {
    pack_group(out + (group_idx - groups.begin) * packed_group_bytes(w), w, group_idx);
  }
}

void quantise_block(ActivationBlock& out, const float* x) {
  const __m512 low = _mm512_loadu_ps(x), high = _mm512_loadu_ps(x + 16);
  const __m512 magnitude = _mm512_max_ps(_mm512_abs_ps(low), _mm512_abs_ps(high));
  // Exponents all ones: an infinity or a NaN, which _mm512_max_ps may have dropped.
  const __mmask16 strange = _mm512_fpclass_ps_mask(low, 0x99) | _mm512_fpclass_ps_mask(high, 0x99);
  const float largest = _mm512_reduce_max_ps(magnitude);
  const float scale = largest / 32767.0f;
  // A scale that underflows to a subnormal has lost the bits to round by.
  const bool finite = strange == 0 && scale >= std::numeric_limits<float>::min();
  const __m512 inverse = _mm512_set1_ps(finite ? 1.0f / scale : 0.0f);
  // 1 / scale is rounded: the product may pass 32767.5 by a few units in its last place.
  const __m512i limit = _mm512_set1_epi32(32767);
  const __m512i codes_low = _mm512_min_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(low, inverse)), limit);
  const __m512i codes_high = _mm512_min_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(high, inverse)), limit);
  const __m512i floor = _mm512_set1_epi32(-32767);
  const __m512i bounded_low = _mm512_max_epi32(codes_low, floor), bounded_high = _mm512_max_epi32(codes_high, floor);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out.codes), _mm512_cvtepi32_epi16(bounded_low));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out.codes + 16), _mm512_cvtepi32_epi16(bounded_high));
  const std::int32_t sum_low = finite ? _mm512_reduce_add_epi32(bounded_low) : 0;
  const std::int32_t sum_high = finite ? _mm512_reduce_add_epi32(bounded_high) : 0;
  out.scale = strange != 0 ? std::numeric_limits<float>::quiet_NaN() : finite ? scale : 0.0f;
  out.sum = out.scale * static_cast<float>(sum_low + sum_high);
  out.minus_sum[0] = -sum_low;
  out.minus_sum[1] = -sum_high;
}

void quantise(View<ActivationBlock> out, View<const float> x, Range rows) {
  for (std::size_t t = rows.begin; t < rows.end; ++t) {
    for (std::size_t i = 0; i < out.dim(1); ++i) quantise_block(out(t, i), x.row(t) + kActivationBlock * i);
  }
}

// ---- One matrix, and experts ----

void matmul(View<float> out, View<const ActivationBlock> x, const Weight& w, Range outputs, Write write) {
  const std::size_t num_tokens = x.dim(0);
  for (std::size_t first = 0; first < num_tokens; first += kBlockTokens) {
    TokenRows tokens;
    tokens.count = std::min(kBlockTokens, num_tokens - first);
    for (std::size_t t = 0; t < tokens.count; ++t) tokens.x[t] = x.row(first + t);
    for_each_group(w, outputs, tokens, [&](std::size_t row, __mmask16 rows, const float* sums) {
      for (std::size_t t = 0; t < tokens.count; ++t) {
        float* dst = out.row(first + t) + row;
        __m512 sum = _mm512_load_ps(sums + t * kGroupRows);
        if (write == Write::kAdd) sum = _mm512_add_ps(_mm512_maskz_loadu_ps(rows, dst), sum);
        _mm512_mask_storeu_ps(dst, rows, sum);
      }
    });
  }
}

// The x rows of pairs [first, ..) of one expert, at most kBlockTokens; `row_of` numbers them.
template <class RowOf>
TokenRows rows_of_pairs(View<const ActivationBlock> x, std::size_t first, std::size_t end, const RowOf& row_of) {
  TokenRows out;
  for (std::size_t i = first; i < end && out.count < kBlockTokens; ++i) out.x[out.count++] = x.row(row_of(i));
  return out;
}

void expert_rows(View<float> out, View<const ActivationBlock> x, const Routing& routing,
                 std::span<const Weight> experts, Range outputs) {
  for (std::size_t e = 0; e < experts.size(); ++e) {
    const std::size_t end = routing.expert_begin[e + 1];
    for (std::size_t first = routing.expert_begin[e]; first < end; first += kBlockTokens) {
      const TokenRows tokens = rows_of_pairs(x, first, end, [&](std::size_t i) { return routing.pair_token[i]; });
      for_each_group(experts[e], outputs, tokens, [&](std::size_t row, __mmask16 rows, const float* sums) {
        for (std::size_t t = 0; t < tokens.count; ++t) {
          _mm512_mask_storeu_ps(out.row(first + t) + row, rows, _mm512_load_ps(sums + t * kGroupRows));
        }
      });
    }
  }
}

void expert_output(View<float> out, View<const ActivationBlock> hidden, const Routing& routing,
                   std::span<const Weight> experts, Range outputs) {
  for (std::size_t e = 0; e < experts.size(); ++e) {
    const std::size_t end = routing.expert_begin[e + 1];
    for (std::size_t first = routing.expert_begin[e]; first < end; first += kBlockTokens) {
      const TokenRows tokens = rows_of_pairs(hidden, first, end, [](std::size_t i) { return i; });
      for_each_group(experts[e], outputs, tokens, [&](std::size_t row, __mmask16 rows, const float* sums) {
        for (std::size_t t = 0; t < tokens.count; ++t) {
          const __m512 weight = _mm512_set1_ps(routing.pair_weight[first + t]);
          float* dst = out.row(routing.pair_token[first + t]) + row;
          const __m512 before = _mm512_maskz_loadu_ps(rows, dst);
          _mm512_mask_storeu_ps(dst, rows,
                                _mm512_add_ps(before, _mm512_mul_ps(weight, _mm512_load_ps(sums + t * kGroupRows))));
        }
      });
    }
  }
}

std::size_t peak(std::size_t rounds) {
  constexpr std::size_t kChains = 12;  // more than the additions in flight: none waits for its own last one
  __m512i sums[kChains] = {};
#pragma GCC unroll 12
  for (std::size_t c = 0; c < kChains; ++c) asm("" : "+v"(sums[c]));  // else the compiler runs equal chains once
  __m512i codes = _mm512_set1_epi16(3);
  for (std::size_t i = 0; i < rounds; ++i) {
    asm("" : "+v"(codes));  // another value, for all that the compiler knows
#pragma GCC unroll 12
    for (std::size_t c = 0; c < kChains; ++c) sums[c] = _mm512_dpwssd_epi32(sums[c], codes, codes);
  }
#pragma GCC unroll 12
  for (std::size_t c = 0; c < kChains; ++c) asm volatile("" : : "v"(sums[c]));
  return rounds * kChains * 32 * 2;
}

constexpr PackedProducts kProducts = {packs, packed_bytes, pack, quantise, matmul, expert_rows, expert_output, peak};

}  // namespace
}  // namespace qnext
HWY_POP_ATTRIBUTES
#ifndef __clang__
#pragma GCC diagnostic pop
#endif

namespace qnext {

const PackedProducts* vnni_products() {
  const bool has = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                   __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                   __builtin_cpu_supports("avx512vnni");
  return has ? &kProducts : nullptr;
}

}  // namespace qnext

#else

namespace qnext {

const PackedProducts* vnni_products() {
  return nullptr;
}

}  // namespace qnext

#endif
