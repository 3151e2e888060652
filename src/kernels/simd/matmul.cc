// Dot products of decoded weight rows with rows of x, one matrix or many experts.
//
// A (row, token) pair is summed in one way, whatever it is computed with: in each block of kDotBlock columns one
// vector accumulator takes fused multiply-adds in column order, then its lanes are summed; the blocks' sums are added
// in turn. One token goes through dot_four_rows (decode and multiply in one go), more through dot_panel (decode a chunk
// of rows once, then multiply by all tokens).

#include "kernels/simd/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/simd/matmul.cc"
#include <hwy/foreach_target.h>

#include <hwy/highway.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>

#include "base/check.h"
#include "kernels/kernels.h"
#include "kernels/simd/decode_k-inl.h"
#include "kernels/simd/math-inl.h"
#include "kernels/simd/simd_kernels.h"

HWY_BEFORE_NAMESPACE();
namespace qnext::HWY_NAMESPACE {
namespace {

// ---- Rows of weights ----

// One row of a weight in this format: whole steps, and what a row of a plain type has beyond them.
template <class Format>
struct Row {
  const std::byte* data;
  const float* scales = nullptr;  // one a step: FP8 only, and optional there

  HWY_INLINE Row(const Weight& w, std::size_t row_idx) : data(w.row(row_idx)) {
    if (w.block_scales != nullptr) scales = w.block_scales + row_idx / kFp8ScaleBlock * w.scales_per_row;
  }

  HWY_INLINE float scale_of(std::size_t step_idx) const { return scales == nullptr ? 1.0f : scales[step_idx]; }

  HWY_INLINE typename Format::Step step(std::size_t step_idx) const {
    const std::byte* bytes = data + step_idx * Format::kStepBytes;
    if constexpr (Format::kType == DType::kF8E4M3) {
      return {bytes, scale_of(step_idx)};
    } else {
      return typename Format::Step{bytes};
    }
  }

  // Asks for the bytes that lie so far after the step, which need not exist.
  HWY_INLINE void prefetch(std::size_t step_idx, std::size_t ahead_bytes) const {
    constexpr int kToL2 = 2;
    const std::byte* ahead = data + step_idx * Format::kStepBytes + ahead_bytes;
    for (std::size_t i = 0; i < Format::kStepBytes; i += 64) __builtin_prefetch(ahead + i, 0, kToL2);
  }

  // The first `count` values of the step, then zeros to the end of its last vector.
  template <class Emit>
  HWY_INLINE void tail(std::size_t step_idx, std::size_t count, Emit emit) const {
    alignas(64) float values[Format::kStep] = {};
    decode_blocks(values, data + step_idx * Format::kStepBytes, Format::kType, count);
    const FloatVec scale = hn::Set(FloatTag(), Format::kType == DType::kF8E4M3 ? scale_of(step_idx) : 1.0f);
    for (std::size_t k = 0; k < count; k += kLanes) {
      emit(k, hn::Mul(hn::Load(FloatTag(), values + k), scale));
    }
  }
};

struct StoreEmit {
  float* out;
  HWY_INLINE void operator()(std::size_t k, FloatVec v) const { hn::StoreU(v, FloatTag(), out + k); }
};

struct DotEmit {
  FloatVec& sum;
  const float* x;
  HWY_INLINE void operator()(std::size_t k, FloatVec v) const {
    sum = hn::MulAdd(v, hn::LoadU(FloatTag(), x + k), sum);
  }
};

HWY_INLINE float reduce_sum(FloatVec v) {
  return hn::GetLane(hn::SumOfLanes(FloatTag(), v));
}

// ---- One token: four rows at once ----

inline constexpr std::size_t kDotRows = 4;
using DotRowIds = std::array<std::size_t, kDotRows>;  // row ids; may repeat

// How far ahead the rows are prefetched, at least: in whole groups of four rows, since the three others are being read.
// Rows lie densely and callers go through them in order; the hardware alone loses track of four streams in a page.
// Measured on Sapphire Rapids, Q4_K from memory, one thread: 5.4 GB/s without, 9.1 with, and no more from further
// ahead.
inline constexpr std::size_t kPrefetchBytes = 2048;

// sums[i] = x . row rows[i]. The four chains of additions overlap out of order, which hides their latency.
template <class Format>
HWY_NOINLINE void dot_four_rows(float* HWY_RESTRICT sums, const Weight& w, const DotRowIds& rows,
                                const float* HWY_RESTRICT x) {
  constexpr std::size_t kStep = Format::kStep;
  const Row<Format> row0(w, rows[0]), row1(w, rows[1]), row2(w, rows[2]), row3(w, rows[3]);
  const std::size_t prefetch_bytes = round_up(kPrefetchBytes, kDotRows * w.row_bytes);
  std::fill_n(sums, kDotRows, 0.0f);
  for (std::size_t begin = 0; begin < w.cols; begin += kDotBlock) {
    const std::size_t end = std::min(begin + kDotBlock, w.cols);
    FloatVec sum0 = hn::Zero(FloatTag()), sum1 = sum0, sum2 = sum0, sum3 = sum0;
    for (std::size_t step_idx = begin / kStep; step_idx < end / kStep; ++step_idx) {
      const float* x_step = x + step_idx * kStep;
      const auto step0 = row0.step(step_idx), step1 = row1.step(step_idx);
      const auto step2 = row2.step(step_idx), step3 = row3.step(step_idx);
      row0.prefetch(step_idx, prefetch_bytes);
      row1.prefetch(step_idx, prefetch_bytes);
      row2.prefetch(step_idx, prefetch_bytes);
      row3.prefetch(step_idx, prefetch_bytes);

      HWY_UNROLL(4)
      for (std::size_t p = 0; p < Format::kParts; ++p) {
        step0.part(p, DotEmit{sum0, x_step});
        step1.part(p, DotEmit{sum1, x_step});
        step2.part(p, DotEmit{sum2, x_step});
        step3.part(p, DotEmit{sum3, x_step});
      }
    }
    if (const std::size_t tail = end % kStep; tail != 0) {
      alignas(64) float x_tail[kStep] = {};
      std::copy_n(x + end - tail, tail, x_tail);
      row0.tail(end / kStep, tail, DotEmit{sum0, x_tail});
      row1.tail(end / kStep, tail, DotEmit{sum1, x_tail});
      row2.tail(end / kStep, tail, DotEmit{sum2, x_tail});
      row3.tail(end / kStep, tail, DotEmit{sum3, x_tail});
    }
    sums[0] += reduce_sum(sum0);
    sums[1] += reduce_sum(sum1);
    sums[2] += reduce_sum(sum2);
    sums[3] += reduce_sum(sum3);
  }
}

// out[0, columns.count()) = those columns of a row; `columns` begins at a multiple of kStep.
template <class Format>
HWY_NOINLINE void decode_columns(float* HWY_RESTRICT out, const Weight& w, std::size_t row_idx, Range columns) {
  constexpr std::size_t kStep = Format::kStep;
  const Row<Format> row(w, row_idx);
  for (std::size_t step_idx = columns.begin / kStep; step_idx < columns.end / kStep; ++step_idx) {
    const auto step = row.step(step_idx);
    HWY_UNROLL(4)
    for (std::size_t p = 0; p < Format::kParts; ++p) step.part(p, StoreEmit{out + step_idx * kStep - columns.begin});
  }
  if (const std::size_t tail = columns.end % kStep; tail != 0) {
    alignas(64) float values[kStep];
    row.tail(columns.end / kStep, tail, StoreEmit{values});
    std::copy_n(values, tail, out + columns.end - tail - columns.begin);
  }
}

// ---- By type ----

struct FormatKernels {
  void (*dot_four_rows)(float* HWY_RESTRICT, const Weight&, const DotRowIds&, const float* HWY_RESTRICT);
  void (*decode_columns)(float* HWY_RESTRICT, const Weight&, std::size_t, Range);
};

template <class Format>
constexpr FormatKernels kernels_of() {
  return {&dot_four_rows<Format>, &decode_columns<Format>};
}

inline FormatKernels kernels_for(DType type) {
  switch (type) {
    case DType::kF32:
      return kernels_of<FormatF32>();
    case DType::kF16:
      return kernels_of<FormatF16>();
    case DType::kBF16:
      return kernels_of<FormatBF16>();
    case DType::kF8E4M3:
      return kernels_of<FormatF8E4M3>();
    case DType::kQ4_0:
      return kernels_of<FormatQ4_0>();
    case DType::kQ4_1:
      return kernels_of<FormatQ4_1>();
    case DType::kQ5_0:
      return kernels_of<FormatQ5_0>();
    case DType::kQ5_1:
      return kernels_of<FormatQ5_1>();
    case DType::kQ8_0:
      return kernels_of<FormatQ8_0>();
    case DType::kQ2_K:
      return kernels_of<FormatQ2_K>();
    case DType::kQ3_K:
      return kernels_of<FormatQ3_K>();
    case DType::kQ4_K:
      return kernels_of<FormatQ4_K>();
    case DType::kQ5_K:
      return kernels_of<FormatQ5_K>();
    case DType::kQ6_K:
      return kernels_of<FormatQ6_K>();
    case DType::kIQ4_NL:
      return kernels_of<FormatIQ4_NL>();
    case DType::kIQ4_XS:
      return kernels_of<FormatIQ4_XS>();
    case DType::kMXFP4:
      return kernels_of<FormatMXFP4>();
    case DType::kI32:
    case DType::kI64:
    case DType::kU8:
    case DType::kI16:
      break;
  }
  QN_CHECK(false, "{} is not a type of weights", dtype_info(type).name);
}

// ---- Many tokens: a panel of decoded rows times tiles of tokens ----

// A tile of kDotRows rows and kDotTokens tokens keeps its accumulators in registers. A chunk of columns of the panel
// (kPanelRows x kChunk floats, 16 KB) and of a tile's tokens stay in L1 while the tiles of the panel's rows pass;
// between chunks the accumulators rest on the stack.
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_NEON
inline constexpr std::size_t kDotTokens = 6;  // 32 registers
#else
inline constexpr std::size_t kDotTokens = 3;  // 16 registers
#endif
inline constexpr std::size_t kPanelRows = 2 * kDotRows;
inline constexpr std::size_t kChunk = 512;
inline constexpr std::size_t kBlockTokens = 72;  // x of a block stays in L2: 576 KB at 2,048 columns
static_assert(kDotBlock % kChunk == 0 && kBlockTokens % kDotTokens == 0);

// Where a tile stands: column chunk [0, count) of the panel rows and x rows given.
struct TileArgs {
  const float* panel;      // kDotRows rows of kChunk, zeros after the last column
  const float* const* x;   // rows of the tile's tokens
  std::size_t k;           // the chunk's first column
  std::size_t count;       // its columns
  float* saved;            // [kDotRows, kTokens, kLanes]: accumulators between chunks
  bool is_first, is_last;  // chunk of a dot block
  float* sums;             // [kDotRows, sums_stride]
  std::size_t sums_stride;
};

template <std::size_t kTokens>
HWY_NOINLINE void dot_tile(const TileArgs& tile) {
  const FloatTag tag;
  FloatVec sum[kDotRows][kTokens];
  HWY_UNROLL(8)
  for (std::size_t r = 0; r < kDotRows; ++r) {
    HWY_UNROLL(8)
    for (std::size_t t = 0; t < kTokens; ++t) {
      sum[r][t] = tile.is_first ? hn::Zero(tag) : hn::Load(tag, tile.saved + (r * kTokens + t) * kLanes);
    }
  }
  const float* x[kTokens];
  for (std::size_t t = 0; t < kTokens; ++t) x[t] = tile.x[t] + tile.k;
  const float* panel = tile.panel;

  std::size_t k = 0;
  for (; k + kLanes <= tile.count; k += kLanes) {
    FloatVec x_vec[kTokens];
    HWY_UNROLL(8)
    for (std::size_t t = 0; t < kTokens; ++t) x_vec[t] = hn::LoadU(tag, x[t] + k);
    HWY_UNROLL(8)
    for (std::size_t r = 0; r < kDotRows; ++r) {
      const FloatVec weights = hn::Load(tag, panel + r * kChunk + k);
      HWY_UNROLL(8)
      for (std::size_t t = 0; t < kTokens; ++t) sum[r][t] = hn::MulAdd(weights, x_vec[t], sum[r][t]);
    }
  }
  if (k < tile.count) {  // x ends inside the vector; the panel has zeros there
    HWY_UNROLL(8)
    for (std::size_t t = 0; t < kTokens; ++t) {
      alignas(64) float padded[kLanes] = {};
      std::copy_n(x[t] + k, tile.count - k, padded);
      const FloatVec x_vec = hn::Load(tag, padded);
      HWY_UNROLL(8)
      for (std::size_t r = 0; r < kDotRows; ++r) {
        sum[r][t] = hn::MulAdd(hn::Load(tag, panel + r * kChunk + k), x_vec, sum[r][t]);
      }
    }
  }

  HWY_UNROLL(8)
  for (std::size_t r = 0; r < kDotRows; ++r) {
    HWY_UNROLL(8)
    for (std::size_t t = 0; t < kTokens; ++t) {
      if (tile.is_last) {
        tile.sums[r * tile.sums_stride + t] += reduce_sum(sum[r][t]);
      } else {
        hn::Store(sum[r][t], tag, tile.saved + (r * kTokens + t) * kLanes);
      }
    }
  }
}

// dot_tile for this many tokens, at most kDotTokens.
inline auto tile_for(std::size_t num_tokens) -> void (*)(const TileArgs&) {
  switch (num_tokens) {
    case 1:
      return &dot_tile<1>;
    case 2:
      return &dot_tile<2>;
    case 3:
      return &dot_tile<3>;
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_NEON
    case 4:
      return &dot_tile<4>;
    case 5:
      return &dot_tile<5>;
    case 6:
      return &dot_tile<6>;
#endif
    default:
      QN_CHECK(false, "a tile of {} tokens", num_tokens);
  }
}

// The x rows of at most kBlockTokens tokens, wherever they lie.
struct TokenRows {
  std::array<const float*, kBlockTokens> x;
  std::size_t count = 0;
};

// sums[r, t] = x[t] . row rows.begin + r, for at most kPanelRows rows.       sums : [kPanelRows, tokens.count]
// Rows beyond the range are computed as its last one, so that tiles are whole.
inline void dot_panel(float* HWY_RESTRICT sums, const Weight& w, Range rows, const TokenRows& tokens) {
  const FormatKernels format = kernels_for(w.type);
  const std::size_t num_rows = round_up(rows.count(), kDotRows);
  const auto row_idx = [&](std::size_t r) { return std::min(rows.begin + r, rows.end - 1); };
  if (tokens.count == 1) {
    for (std::size_t r = 0; r < num_rows; r += kDotRows) {
      format.dot_four_rows(sums + r, w, {row_idx(r), row_idx(r + 1), row_idx(r + 2), row_idx(r + 3)}, tokens.x[0]);
    }
    return;
  }
  alignas(64) float panel[kPanelRows * kChunk];
  alignas(64) float saved[kPanelRows * kBlockTokens * kLanes];
  std::fill_n(sums, num_rows * tokens.count, 0.0f);
  for (std::size_t k = 0; k < w.cols; k += kChunk) {
    const Range columns{k, std::min(k + kChunk, w.cols)};
    for (std::size_t r = 0; r < num_rows; ++r) {
      format.decode_columns(panel + r * kChunk, w, row_idx(r), columns);
      std::fill(panel + r * kChunk + columns.count(), panel + r * kChunk + round_up(columns.count(), kLanes), 0.0f);
    }
    for (std::size_t t = 0; t < tokens.count; t += kDotTokens) {
      const std::size_t num_tokens = std::min(kDotTokens, tokens.count - t);
      const auto tile_kernel = tile_for(num_tokens);
      for (std::size_t r = 0; r < num_rows; r += kDotRows) {
        tile_kernel({.panel = panel + r * kChunk,
                     .x = tokens.x.data() + t,
                     .k = k,
                     .count = columns.count(),
                     .saved = saved + (r * kBlockTokens + t * kDotRows) * kLanes,
                     .is_first = k % kDotBlock == 0,
                     .is_last = columns.end % kDotBlock == 0 || columns.end == w.cols,
                     .sums = sums + r * tokens.count + t,
                     .sums_stride = tokens.count});
      }
    }
  }
}

// ---- One matrix ----

void decode_rows(View<float> out, std::span<const TokenId> row_ids, const Weight& w) {
  const FormatKernels format = kernels_for(w.type);
  for (std::size_t i = 0; i < row_ids.size(); ++i) {
    format.decode_columns(out.row(i), w, static_cast<std::size_t>(row_ids[i]), {0, w.cols});
  }
}

void matmul(View<float> out, View<const float> x, const Weight& w, Range outputs, Write write) {
  const std::size_t num_tokens = x.dim(0);
  for (std::size_t first = 0; first < num_tokens; first += kBlockTokens) {
    TokenRows tokens;
    tokens.count = std::min(kBlockTokens, num_tokens - first);
    for (std::size_t t = 0; t < tokens.count; ++t) tokens.x[t] = x.row(first + t);
    for (std::size_t o = outputs.begin; o < outputs.end; o += kPanelRows) {
      const Range rows{o, std::min(o + kPanelRows, outputs.end)};
      float sums[kPanelRows * kBlockTokens];
      dot_panel(sums, w, rows, tokens);
      for (std::size_t t = 0; t < tokens.count; ++t) {
        float* out_row = out.row(first + t) + rows.begin;
        for (std::size_t r = 0; r < rows.count(); ++r) {
          const float sum = sums[r * tokens.count + t];
          out_row[r] = write == Write::kAdd ? out_row[r] + sum : sum;
        }
      }
    }
  }
}

// ---- Experts ----

// work(expert_idx, pairs): the pairs of every expert that has some, at most kBlockTokens at a time.
template <class Work>
void for_each_pair_block(const Routing& routing, const Work& work) {
  for (std::size_t e = 0; e + 1 < routing.expert_begin.size(); ++e) {
    const std::size_t end = routing.expert_begin[e + 1];
    for (std::size_t first = routing.expert_begin[e]; first < end; first += kBlockTokens) {
      work(e, Range{first, std::min(first + kBlockTokens, end)});
    }
  }
}

// work(rows): `columns` in parts of a panel.
template <class Work>
void for_each_panel(Range columns, const Work& work) {
  for (std::size_t row = columns.begin; row < columns.end; row += kPanelRows) {
    work(Range{row, std::min(row + kPanelRows, columns.end)});
  }
}

void expert_hidden(View<float> hidden, View<const float> x, const Routing& routing, const ExpertWeights& experts,
                   Range columns) {
  for_each_pair_block(routing, [&](std::size_t e, Range pairs) HWY_ATTR {
    TokenRows tokens;
    for (std::size_t i = pairs.begin; i < pairs.end; ++i) tokens.x[tokens.count++] = x.row(routing.pair_token[i]);
    for_each_panel(columns, [&](Range rows) HWY_ATTR {
      float gate[kPanelRows * kBlockTokens];
      float up[kPanelRows * kBlockTokens];
      dot_panel(gate, experts.gate[e], rows, tokens);
      dot_panel(up, experts.up[e], rows, tokens);
      for_each_vector({0, rows.count() * tokens.count}, [&](auto d, std::size_t i) HWY_ATTR {
        hn::StoreU(hn::Mul(silu(d, hn::LoadU(d, gate + i)), hn::LoadU(d, up + i)), d, gate + i);
      });
      for (std::size_t t = 0; t < tokens.count; ++t) {
        float* out = hidden.row(pairs.begin + t) + rows.begin;
        for (std::size_t r = 0; r < rows.count(); ++r) out[r] = gate[r * tokens.count + t];
      }
    });
  });
}

void expert_output(View<float> out, View<const float> hidden, const Routing& routing, const ExpertWeights& experts,
                   Range columns) {
  for_each_pair_block(routing, [&](std::size_t e, Range pairs) HWY_ATTR {
    TokenRows tokens;
    for (std::size_t i = pairs.begin; i < pairs.end; ++i) tokens.x[tokens.count++] = hidden.row(i);
    for_each_panel(columns, [&](Range rows) HWY_ATTR {
      float sums[kPanelRows * kBlockTokens];
      dot_panel(sums, experts.down[e], rows, tokens);
      for (std::size_t t = 0; t < tokens.count; ++t) {
        const float weight = routing.pair_weight[pairs.begin + t];
        float* out_row = out.row(routing.pair_token[pairs.begin + t]) + rows.begin;
        for (std::size_t r = 0; r < rows.count(); ++r) out_row[r] += weight * sums[r * tokens.count + t];
      }
    });
  });
}

}  // namespace

void AddMatmul(KernelTable& table) {
  table.decode_rows = decode_rows;
  table.matmul = matmul;
  table.expert_hidden = expert_hidden;
  table.expert_output = expert_output;
}

}  // namespace qnext::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qnext {

HWY_EXPORT(AddMatmul);

void add_simd_matmul(KernelTable& table) {
  HWY_DYNAMIC_DISPATCH(AddMatmul)(table);
}

}  // namespace qnext
#endif
