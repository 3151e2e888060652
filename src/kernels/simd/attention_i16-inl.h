// Attention over keys and values of 16-bit integers (kernels.h, kI16): queries and weights are rounded to 16 bits, too,
// so that a block's scores and its part of the output are exact sums of integers, at twice the rate of floats.
// Included once a target: see Highway's guide on -inl.h files.

#if defined(QNEXT_KERNELS_SIMD_ATTENTION_I16_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef QNEXT_KERNELS_SIMD_ATTENTION_I16_INL_H_
#undef QNEXT_KERNELS_SIMD_ATTENTION_I16_INL_H_
#else
#define QNEXT_KERNELS_SIMD_ATTENTION_I16_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <span>

#include "kernels/simd/attention-inl.h"
#include "kernels/simd/math-inl.h"
#include "kernels/simd/tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace qnext {
namespace HWY_NAMESPACE {
namespace i16 {

using Code = std::int16_t;
using Floats = hn::ScalableTag<float>;
using Ints = hn::ScalableTag<std::int32_t>;
using Codes = hn::ScalableTag<Code>;
using IntVec = hn::Vec<Ints>;
using CodeVec = hn::Vec<Codes>;

inline constexpr std::size_t kCodeLanes = HWY_LANES(Code);
inline constexpr std::size_t kFloatLanes = HWY_LANES(float);

// ---- Codes and scales -----------------------------------------------------------------------------------------------

struct Row {
  Code* codes;
  std::byte* scale;  // a float, not aligned
};

// Where the vector of a position and K/V head lies, `base` being kv.keys or kv.values.
HWY_INLINE Row row_at(const KvPages& kv, std::byte* base, std::size_t position, std::size_t kv_head_idx) {
  std::byte* page = base + kv.pages[position / kv.page_tokens].value * kv.page_stride_bytes;
  const std::size_t vector_idx = kv_head_idx * kv.page_tokens + position % kv.page_tokens;
  return {reinterpret_cast<Code*>(page) + vector_idx * kv.head_dim,
          page + kv.num_kv_heads * kv.page_tokens * kv.head_dim * sizeof(Code) + vector_idx * sizeof(float)};
}

// Writes x's codes and returns their scale, which is the smallest that leaves the codes' length within max_length and
// each within max_code. The same operations as ref's.
inline float encode(Code* codes, const float* x, std::size_t num_values, float max_length, float max_code) {
  constexpr std::size_t kSums = 16 / kFloatLanes;
  const Floats d;
  hn::Vec<Floats> sums[kSums], largest = hn::Zero(d);
  HWY_UNROLL(4)
  for (auto& sum : sums) sum = hn::Zero(d);
  for (std::size_t i = 0; i < num_values; i += 16) {
    HWY_UNROLL(4)
    for (std::size_t s = 0; s < kSums; ++s) {
      const auto value = hn::LoadU(d, x + i + s * kFloatLanes);
      sums[s] = hn::Add(sums[s], hn::Mul(value, value));
      largest = hn::Max(largest, hn::Abs(value));
    }
  }
  float parts[16], squares = 0;
  for (std::size_t s = 0; s < kSums; ++s) hn::StoreU(sums[s], d, parts + s * kFloatLanes);
  for (const float part : parts) squares += part;
  float scale = std::numeric_limits<float>::quiet_NaN(), inverse = 0;
  if (std::isfinite(squares)) {
    const float most = hn::GetLane(hn::MaxOfLanes(d, largest));
    scale = most < kI16Zero ? 0.0f : std::max(std::sqrt(squares) / max_length, most / max_code);
    if (scale > 0) inverse = 1 / scale;
  }
  if (inverse == 0) {
    std::fill_n(codes, num_values, Code{0});
    return scale;
  }
  const hn::Rebind<Code, Floats> half;
  for (std::size_t i = 0; i < num_values; i += kFloatLanes) {
    const auto code = hn::NearestInt(hn::Mul(hn::LoadU(d, x + i), hn::Set(d, inverse)));
    hn::StoreU(hn::DemoteTo(half, code), half, codes + i);
  }
  return scale;
}

inline void store_rows(const KvPages& kv, View<const float> keys, View<const float> values,
                       std::size_t first_position) {
  for (std::size_t t = 0; t < keys.dim(0); ++t) {
    for (std::size_t h = 0; h < kv.num_kv_heads; ++h) {
      const Row key = row_at(kv, kv.keys, first_position + t, h), value = row_at(kv, kv.values, first_position + t, h);
      const float key_scale = encode(key.codes, keys.row(t, h), kv.head_dim, kI16Length, 32767);
      const float value_scale =
          encode(value.codes, values.row(t, h), kv.head_dim, std::numeric_limits<float>::infinity(), kI16Value);
      std::memcpy(key.scale, &key_scale, sizeof(float));
      std::memcpy(value.scale, &value_scale, sizeof(float));
    }
  }
}

// ---- One block of positions -----------------------------------------------------------------------------------------

struct Block {
  Range positions;
  const Code* keys[kAttendBlock];  // beyond the block's end the last one again: tiles and pairs are read whole
  const Code* values[kAttendBlock];
  float key_scales[kAttendBlock];  // beyond the block's end undefined
  float value_scales[kAttendBlock];
};

inline void find_block(Block& block, const KvPages& kv, std::size_t kv_head_idx, Range positions) {
  block.positions = positions;
  std::size_t i = 0;
  while (i < positions.count()) {  // page by page
    const std::size_t position = positions.begin + i;
    const std::size_t page_end = std::min(positions.count(), i + kv.page_tokens - position % kv.page_tokens);
    Row key = row_at(kv, kv.keys, position, kv_head_idx), value = row_at(kv, kv.values, position, kv_head_idx);
    std::memcpy(block.key_scales + i, key.scale, (page_end - i) * sizeof(float));
    std::memcpy(block.value_scales + i, value.scale, (page_end - i) * sizeof(float));
    for (; i < page_end; ++i, key.codes += kv.head_dim, value.codes += kv.head_dim) {
      block.keys[i] = key.codes;
      block.values[i] = value.codes;
    }
  }
  std::fill(block.keys + i, block.keys + kAttendBlock, block.keys[i - 1]);
  std::fill(block.values + i, block.values + kAttendBlock, block.values[i - 1]);
}

// One token's part in a block: the heads that read one K/V head.
struct Visit {
  std::size_t num_heads;
  std::size_t head_dim;
  std::size_t num_positions;  // that it sees
  const Code* q;              // head h at q + h * head_dim
  const float* q_scales;      // times attention's scale
  float* out;                 // what store_out puts in order
  std::size_t out_stride;
  Softmax* softmax;
  std::int32_t (*sums)[kAttendBlock];  // q . k in codes
  Code (*weights)[kAttendBlock];       // of a value's codes
  float* units;                        // what a weight of 1 stands for
  float* kept;
};

// sum[i] + a[2i] b[2i] + a[2i + 1] b[2i + 1], modulo 2^32. kVnni: in one instruction.
template <bool kVnni>
HWY_INLINE IntVec add_pairs(IntVec sum, CodeVec a, CodeVec b) {
#if HWY_TARGET == HWY_AVX3
  if constexpr (kVnni) {
    asm("vpdpwssd %2, %1, %0" : "+v"(sum.raw) : "v"(a.raw), "v"(b.raw));
    return sum;
  }
#endif
  const Ints d;
  IntVec more = hn::Zero(d);
  const IntVec products = hn::ReorderWidenMulAccumulate(d, a, b, hn::Zero(d), more);
  return hn::Add(sum, hn::RearrangeToOddPlusEven(products, more));
}

// sums[r][p] = q_r . k_p for kRows heads and some positions. Asks for the values there, unless they are null.
template <bool kVnni, std::size_t kRows>
HWY_INLINE void score_tile(std::int32_t* out, const Code* q, const Code* const* keys, const Code* const* values,
                           std::size_t head_dim) {
  constexpr std::size_t kKeys = num_key_rows(kRows);
  const Codes codes;
  const Ints d;
  Tile<kRows, kKeys, IntVec> sums;
  fill_tile(sums, [&](std::size_t, std::size_t) HWY_ATTR { return hn::Zero(d); });
  for (std::size_t i = 0; i < head_dim; i += kCodeLanes) {
    CodeVec key[kKeys];
    HWY_UNROLL(8)
    for (std::size_t p = 0; p < kKeys; ++p) {
      key[p] = hn::LoadU(codes, keys[p] + i);
      if (values != nullptr) prefetch(values[p] + i);
    }
    HWY_UNROLL(8)
    for (std::size_t r = 0; r < kRows; ++r) {
      const CodeVec query = hn::LoadU(codes, q + r * head_dim + i);
      HWY_UNROLL(8)
      for (std::size_t p = 0; p < kKeys; ++p) sums.at[r][p] = add_pairs<kVnni>(sums.at[r][p], query, key[p]);
    }
  }
  store_lane_sums(d, out, sums);
}

// Those of positions [range.begin, range.end) of a block.
template <bool kVnni>
HWY_INLINE void score_keys(const Visit& visit, const Block& block, Range range, bool asks_for_values) {
  for_each_row_tile<kHeadTile>(visit.num_heads, [&](auto num_rows, std::size_t h) HWY_ATTR {
    constexpr std::size_t kRows = decltype(num_rows)::value;
    for (std::size_t p = range.begin; p < range.end; p += num_key_rows(kRows)) {
      score_tile<kVnni, kRows>(visit.sums[h] + p, visit.q + h * visit.head_dim, block.keys + p,
                               asks_for_values && h == 0 ? block.values + p : nullptr, visit.head_dim);
    }
  });
}

// Turns one head's sums into weights exp(score - largest) times the value's scale, in whole units, 0 beyond what is
// seen, and brings the running softmax up to date.
inline void weigh_block(const Visit& visit, const Block& block, std::size_t h) {
  const Floats d;
  const Ints di;
  const auto seen = [&](std::size_t p)
                        HWY_ATTR { return hn::FirstN(d, visit.num_positions - std::min(p, visit.num_positions)); };
  HWY_ALIGN float weights[kAttendBlock];
  float &largest = visit.softmax->largest[h], &sum = visit.softmax->sum[h];
  auto block_largest = hn::Set(d, largest);
  for (std::size_t p = 0; p < kAttendBlock; p += kFloatLanes) {
    const auto unit = hn::Mul(hn::Set(d, visit.q_scales[h]), hn::LoadU(d, block.key_scales + p));
    const auto score = hn::Mul(hn::ConvertTo(d, hn::Load(di, visit.sums[h] + p)), unit);
    const auto masked = hn::IfThenElse(seen(p), score, hn::Set(d, -std::numeric_limits<float>::infinity()));
    hn::Store(masked, d, weights + p);
    block_largest = hn::Max(block_largest, masked);
  }
  const auto new_largest = hn::MaxOfLanes(d, block_largest);
  auto weight_sum = hn::Zero(d), scaled_sum = hn::Zero(d), most = hn::Zero(d);
  for (std::size_t p = 0; p < kAttendBlock; p += kFloatLanes) {
    const auto weight = exp(d, hn::Sub(hn::Load(d, weights + p), new_largest));
    const auto scaled = hn::IfThenElseZero(seen(p), hn::Mul(weight, hn::LoadU(d, block.value_scales + p)));
    hn::Store(scaled, d, weights + p);
    weight_sum = hn::Add(weight_sum, weight);
    scaled_sum = hn::Add(scaled_sum, scaled);
    most = hn::Max(most, scaled);
  }
  visit.kept[h] = hn::GetLane(exp(d, hn::Sub(hn::Set(d, largest), new_largest)));
  largest = hn::GetLane(new_largest);
  sum = sum * visit.kept[h] + hn::GetLane(hn::SumOfLanes(d, weight_sum));
  // A NaN is in the sum for certain, and stays in the unit: comparisons with it are false.
  const float of_sum = hn::GetLane(hn::SumOfLanes(d, scaled_sum)) * (1 / kI16WeightSum);
  const float unit = std::max(of_sum, hn::GetLane(hn::MaxOfLanes(d, most)) * (1.0f / 32767));
  const auto inverse = hn::Set(d, unit > 0x1p-100f ? 1 / unit : 0.0f);
  visit.units[h] = unit;
  const hn::Rebind<Code, Floats> half;
  for (std::size_t p = 0; p < kAttendBlock; p += kFloatLanes) {
    const auto code = hn::NearestInt(hn::Mul(hn::Load(d, weights + p), inverse));
    hn::StoreU(hn::DemoteTo(half, code), half, visit.weights[h] + p);
  }
}

// out[h] <- kept[h] * out[h] + units[h] * sum_p weights[h][p] V[p], in two vectors' columns: those of even groups of
// four columns, then those of odd ones, as they come out of interleaving. Asks for as much of the next block's keys,
// unless next_keys is null.
template <bool kVnni>
HWY_INLINE void add_values(std::size_t column, const Visit& visit, const Block& block, Ahead<Code>* next_keys) {
  const Floats d;
  const Ints di;
  const Codes codes;
  for_each_row_tile<kHeadTile>(visit.num_heads, [&](auto num_rows, std::size_t h) HWY_ATTR {
    constexpr std::size_t kRows = decltype(num_rows)::value;
    Tile<kRows, 2, IntVec> tile;
    fill_tile(tile, [&](std::size_t, std::size_t) HWY_ATTR { return hn::Zero(di); });
    Ahead<Code>* ahead = h == 0 ? next_keys : nullptr;  // once a position
    for (std::size_t p = 0; p < visit.num_positions; p += 2) {
      const CodeVec even = hn::LoadU(codes, block.values[p] + column);
      const CodeVec odd = hn::LoadU(codes, block.values[p + 1] + column);
      if (ahead != nullptr) ahead->ask_for(kCodeLanes);
      if (ahead != nullptr && p + 1 < visit.num_positions) ahead->ask_for(kCodeLanes);
      const CodeVec pairs[2] = {hn::InterleaveLower(codes, even, odd), hn::InterleaveUpper(codes, even, odd)};
      HWY_UNROLL(8)
      for (std::size_t r = 0; r < kRows; ++r) {
        std::int32_t two_weights;
        std::memcpy(&two_weights, visit.weights[h + r] + p, sizeof(two_weights));
        const CodeVec weights = hn::BitCast(codes, hn::Set(di, two_weights));
        HWY_UNROLL(2)
        for (std::size_t v = 0; v < 2; ++v) tile.at[r][v] = add_pairs<kVnni>(tile.at[r][v], weights, pairs[v]);
      }
    }
    use_tile(tile, [&](std::size_t r, std::size_t v, auto sums) HWY_ATTR {
      float* out = visit.out + (h + r) * visit.out_stride + column + v * kFloatLanes;
      auto sum = hn::Mul(hn::ConvertTo(d, sums), hn::Set(d, visit.units[h + r]));
      if (block.positions.begin != 0) sum = hn::MulAdd(hn::Set(d, visit.kept[h + r]), hn::LoadU(d, out), sum);
      hn::StoreU(sum, d, out);
    });
  });
}

// A row's columns in their own order, times `share`.
inline void store_out(float* out, std::size_t head_dim, float share) {
  float columns[kCodeLanes];
  for (std::size_t i = 0; i < head_dim; i += kCodeLanes) {
    for (std::size_t j = 0; j < kFloatLanes; j += 4) {
      std::copy_n(out + i + j, 4, columns + 2 * j);
      std::copy_n(out + i + kFloatLanes + j, 4, columns + 2 * j + 4);
    }
    for (std::size_t j = 0; j < kCodeLanes; ++j) out[i + j] = columns[j] * share;
  }
}

// ---- Blocks times tokens --------------------------------------------------------------------------------------------

// What a tile of tokens works on, on the stack.
struct Memory {
  HWY_ALIGN std::int32_t sums[kTileTokens][kGroupHeads][kAttendBlock];
  HWY_ALIGN Code weights[kTileTokens][kGroupHeads][kAttendBlock];
  HWY_ALIGN Code q[kTileTokens * kGroupHeads * kMaxI16Width];
  float q_scales[kTileTokens][kGroupHeads];
  float units[kTileTokens][kGroupHeads];
  float kept[kTileTokens][kGroupHeads];
  Softmax softmax[kTileTokens];
  Visit visits[kTileTokens];
  Block blocks[2];
};

// All visits of a tile's tokens, which see nothing yet.
inline std::span<Visit> make_visits(Memory& memory, const AttendTask& task, std::size_t head_dim, Range tokens,
                                    Range heads) {
  for (std::size_t i = 0; i < tokens.count(); ++i) {
    const std::size_t t = tokens.begin + i;
    Code* q = memory.q + i * heads.count() * head_dim;
    for (std::size_t h = 0; h < heads.count(); ++h) {
      memory.q_scales[i][h] =
          task.scale * encode(q + h * head_dim, task.q.row(t, heads.begin + h), head_dim, kI16Length, 32767);
    }
    std::fill_n(memory.softmax[i].largest, kGroupHeads, -std::numeric_limits<float>::infinity());
    std::fill_n(memory.softmax[i].sum, kGroupHeads, 0.0f);
    memory.visits[i] = {.num_heads = heads.count(),
                        .head_dim = head_dim,
                        .num_positions = 0,
                        .q = q,
                        .q_scales = memory.q_scales[i],
                        .out = task.out.row(t, heads.begin),
                        .out_stride = task.out.stride(1),
                        .softmax = &memory.softmax[i],
                        .sums = memory.sums[i],
                        .weights = memory.weights[i],
                        .units = memory.units[i],
                        .kept = memory.kept[i]};
  }
  return {memory.visits, tokens.count()};
}

template <bool kVnni>
void visit_block(std::span<const Visit> visits, const Block& block, const Block& next) {
  for (std::size_t p = 0; p < block.positions.count(); p += kKeysAtOnce) {
    for (const Visit& visit : visits) {
      score_keys<kVnni>(visit, block, {p, std::min(p + kKeysAtOnce, visit.num_positions)}, &visit == visits.data());
    }
  }
  for (const Visit& visit : visits) {
    for (std::size_t h = 0; h < visit.num_heads; ++h) weigh_block(visit, block, h);
  }
  const std::size_t head_dim = visits.front().head_dim;
  Ahead<Code> next_keys = {.rows = next.keys, .head_dim = head_dim};
  for (std::size_t column = 0; column < head_dim; column += kCodeLanes) {
    for (const Visit& visit : visits) {
      add_values<kVnni>(column, visit, block, &visit == visits.data() ? &next_keys : nullptr);
    }
  }
}

template <bool kVnni>
void attend_tile(const AttendTask& task, const KvPages& kv, Range tokens, Range heads) {
  Memory memory;
  const std::span<Visit> visits = make_visits(memory, task, kv.head_dim, tokens, heads);
  const std::size_t end = task.first_position + tokens.end;  // what the last token sees
  Block *block = &memory.blocks[0], *next = &memory.blocks[1];
  find_block(*next, kv, task.kv_head_idx, {0, std::min(kAttendBlock, end)});
  for (std::size_t begin = 0; begin < end; begin += kAttendBlock) {
    std::swap(block, next);
    const std::size_t next_begin = std::min(begin + kAttendBlock, end);
    if (next_begin < end) {
      find_block(*next, kv, task.kv_head_idx, {next_begin, std::min(next_begin + kAttendBlock, end)});
    }
    std::size_t num_blind = 0;  // tokens that see nothing of this block: the first ones
    for (std::size_t i = 0; i < visits.size(); ++i) {
      const std::size_t seen = task.first_position + tokens.begin + i + 1;
      if (seen <= begin) ++num_blind;
      visits[i].num_positions = std::min(std::max(seen, begin) - begin, kAttendBlock);
    }
    visit_block<kVnni>(visits.subspan(num_blind), *block, next_begin < end ? *next : *block);
  }
  for (const Visit& visit : visits) {
    for (std::size_t h = 0; h < heads.count(); ++h) {
      store_out(visit.out + h * visit.out_stride, kv.head_dim, 1.0f / visit.softmax->sum[h]);
    }
  }
}

template <bool kVnni>
void attend(const AttendTask& task, const KvPages& kv, Range tokens) {
  for_each_tile(task, kv, tokens,
                [&](Range tile_tokens, Range heads) { attend_tile<kVnni>(task, kv, tile_tokens, heads); });
}

}  // namespace i16
}  // namespace HWY_NAMESPACE
}  // namespace qnext
HWY_AFTER_NAMESPACE();

#endif  // the include guard's toggle
