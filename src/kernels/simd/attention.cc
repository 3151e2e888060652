#include "kernels/simd/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/simd/attention.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include "kernels/simd/attention-inl.h"
#include "kernels/simd/attention_i16-inl.h"
#include "kernels/simd/decode-inl.h"
#include "kernels/simd/math-inl.h"
#include "kernels/simd/simd_kernels.h"
#include "kernels/simd/tile-inl.h"
#include "tensor/float_formats.h"

HWY_BEFORE_NAMESPACE();
namespace qnext {
namespace HWY_NAMESPACE {
namespace {

// ---- Keys and values in their pages: floats, the bits of bfloat16s, or blocks of q8_0 -------------------------------

template <class Element>
constexpr std::size_t kElementValues = 1;
template <>
constexpr std::size_t kElementValues<BlockQ8_0> = kSmallBlock;

// Where the vector of a position and K/V head begins, `base` being kv.keys or kv.values.
template <class Element>
Element* kv_row(const KvPages& kv, std::byte* base, std::size_t position, std::size_t kv_head_idx) {
  const std::size_t page = kv.pages[position / kv.page_tokens].value;
  const std::size_t vector_idx = kv_head_idx * kv.page_tokens + position % kv.page_tokens;
  return reinterpret_cast<Element*>(base + page * kv.page_stride_bytes) +
         vector_idx * kv.head_dim / kElementValues<Element>;
}

void store_row(float* to, const float* from, std::size_t num_values) {
  std::copy_n(from, num_values, to);
}
void store_row(std::uint16_t* to, const float* from, std::size_t num_values) {
  for (std::size_t i = 0; i < num_values; ++i) to[i] = f32_to_bf16(from[i]);
}
// encode_blocks' operations (tensor/quantize.cc) on vectors: the same bytes.
void store_row(BlockQ8_0* to, const float* from, std::size_t num_values) {
  const FloatTag d;
  const hn::Rebind<std::int8_t, FloatTag> code_tag;
  for (const float* end = from + num_values; from < end; from += kSmallBlock, ++to) {
    FloatVec largest = hn::Zero(d), zeros = hn::Zero(d);
    for (std::size_t i = 0; i < kSmallBlock; i += kLanes) {
      const FloatVec value = hn::LoadU(d, from + i);
      largest = hn::Max(largest, hn::Abs(value));
      zeros = hn::MulAdd(value, hn::Zero(d), zeros);  // NaN for ever after a NaN or an infinity
    }
    if (!hn::AllTrue(d, hn::Eq(zeros, zeros))) {
      *to = {.d = kF16Nan, .codes = {}};
      continue;
    }
    const float scale = hn::GetLane(hn::MaxOfLanes(d, largest)) / 127;
    const FloatVec inverse = hn::Set(d, scale > 0x1p-120f ? 1 / scale : 0.0f);
    to->d = f32_to_f16(std::min(scale, kMaxF16));
    for (std::size_t i = 0; i < kSmallBlock; i += kLanes) {
      const FloatVec code = hn::Mul(hn::LoadU(d, from + i), inverse);
      const FloatVec below_half = hn::CopySign(hn::Set(d, 0x1.fffffep-2f), code);  // rounds as std::round does
      hn::StoreU(hn::DemoteTo(code_tag, hn::ConvertTo(IntTag(), hn::Add(code, below_half))), code_tag, to->codes + i);
    }
  }
}

// use(Element()) of what the pages hold.
template <class Use>
void with_element_of(const KvPages& kv, const Use& use) {
  if (kv.type == DType::kF32) return use(float());
  if (kv.type == DType::kQ8_0) return use(BlockQ8_0());
  use(std::uint16_t());
}

template <class Element>
void store_rows(const KvPages& kv, View<const float> keys, View<const float> values, std::size_t first_position) {
  for (std::size_t t = 0; t < keys.dim(0); ++t) {
    for (std::size_t h = 0; h < kv.num_kv_heads; ++h) {
      store_row(kv_row<Element>(kv, kv.keys, first_position + t, h), keys.row(t, h), kv.head_dim);
      store_row(kv_row<Element>(kv, kv.values, first_position + t, h), values.row(t, h), kv.head_dim);
    }
  }
}

void store_kv(const KvPages& kv, View<const float> keys, View<const float> values, std::size_t first_position) {
  if (kv.type == DType::kI16) return i16::store_rows(kv, keys, values, first_position);
  with_element_of(kv, [&](auto element) { store_rows<decltype(element)>(kv, keys, values, first_position); });
}

// The values of a row from first + i on: d's lanes of them. `first` is where the row's block begins, or lies in it as
// well as first + i: what is taken from the block itself then does not depend on i, and is loaded once.
template <class D>
HWY_INLINE hn::Vec<D> load_values(D d, const float* row, std::size_t first, std::size_t i) {
  return hn::LoadU(d, row + first + i);
}
template <class D>
HWY_INLINE hn::Vec<D> load_values(D d, const std::uint16_t* row, std::size_t first, std::size_t i) {
  const hn::RebindToUnsigned<D> bits;
  const hn::Rebind<std::uint16_t, D> halves;
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(bits, hn::LoadU(halves, row + first + i))));
}
template <class D>
HWY_INLINE hn::Vec<D> load_values(D d, const BlockQ8_0* row, std::size_t first, std::size_t i) {
  const BlockQ8_0& block = row[first / kSmallBlock];
  const hn::RebindToSigned<D> words;
  const hn::Rebind<std::int8_t, D> bytes;
  const auto codes = hn::PromoteTo(words, hn::LoadU(bytes, block.codes + first % kSmallBlock + i));
  if constexpr (hn::MaxLanes(D()) == kLanes) {
    return hn::Mul(set_half(block.d), hn::ConvertTo(d, codes));
  } else {
    return hn::Mul(hn::Set(d, f16_to_f32(block.d)), hn::ConvertTo(d, codes));
  }
}

// ---- One block of positions -----------------------------------------------------------------------------------------

template <class Element>
struct Block {
  Range positions;
  const Element* keys[kAttendBlock];  // beyond the block's end the last one again: tiles of keys are read whole
  const Element* values[kAttendBlock];
};

template <class Element>
Block<Element> find_block(const KvPages& kv, std::size_t kv_head_idx, Range positions) {
  Block<Element> block;
  block.positions = positions;
  const std::size_t row_step = kv.head_dim / kElementValues<Element>;
  std::size_t i = 0;
  while (i < positions.count()) {  // page by page
    const std::size_t position = positions.begin + i;
    const std::size_t page_end = std::min(positions.count(), i + kv.page_tokens - position % kv.page_tokens);
    const Element* key = kv_row<Element>(kv, kv.keys, position, kv_head_idx);
    const Element* value = kv_row<Element>(kv, kv.values, position, kv_head_idx);
    for (; i < page_end; ++i, key += row_step, value += row_step) {
      block.keys[i] = key;
      block.values[i] = value;
    }
  }
  std::fill(block.keys + i, block.keys + kAttendBlock, block.keys[i - 1]);
  std::fill(block.values + i, block.values + kAttendBlock, block.values[i - 1]);
  return block;
}

// The query heads of one token that read one K/V head, and their running softmax. out[h] holds the sum so far of
// exp(score - largest[h]) V.
struct Group {
  std::size_t num_heads;
  std::size_t head_dim;
  const float* q;  // head h at q + h * q_stride
  std::size_t q_stride;
  float* out;
  std::size_t out_stride;
};

// scores[r][p] = q_r . k_p for kRows heads and kKeys positions: lanes along the head's width. Asks for the values
// there, unless they are null.
template <std::size_t kRows, class Element>
HWY_INLINE void score_tile(float* scores, const float* q, std::size_t q_stride, const Element* const* keys,
                           const Element* const* values, std::size_t head_dim) {
  constexpr std::size_t kKeys = num_key_rows(kRows);
  const hn::ScalableTag<float> d;
  using V = hn::Vec<decltype(d)>;
  Tile<kRows, kKeys, V> sums;
  fill_tile(sums, [&](std::size_t, std::size_t) HWY_ATTR { return hn::Zero(d); });
  constexpr std::size_t kStep = std::max(kLanes, kElementValues<Element>);  // a block's scale serves all its vectors
  std::size_t first = 0;
  for (; first + kStep <= head_dim; first += kStep) {
    HWY_UNROLL(8)
    for (std::size_t i = 0; i < kStep; i += kLanes) {
      V key[kKeys];
      HWY_UNROLL(8)
      for (std::size_t p = 0; p < kKeys; ++p) {
        key[p] = load_values(d, keys[p], first, i);
        if (values != nullptr) prefetch(values[p] + (first + i) / kElementValues<Element>);
      }
      HWY_UNROLL(8)
      for (std::size_t r = 0; r < kRows; ++r) {
        const V query = hn::LoadU(d, q + r * q_stride + first + i);
        HWY_UNROLL(8)
        for (std::size_t p = 0; p < kKeys; ++p) sums.at[r][p] = hn::MulAdd(query, key[p], sums.at[r][p]);
      }
    }
  }
  store_lane_sums(d, scores, sums);
  const hn::CappedTag<float, 1> one_lane;
  for (; first < head_dim; ++first) {  // widths that fill no vector
    for (std::size_t r = 0; r < kRows; ++r) {
      for (std::size_t p = 0; p < kKeys; ++p) {
        scores[r * kAttendBlock + p] += q[r * q_stride + first] * hn::GetLane(load_values(one_lane, keys[p], first, 0));
      }
    }
  }
}

// Those of positions [range.begin, range.end) of a block.
template <class Element>
HWY_INLINE void score_keys(float (*scores)[kAttendBlock], const Group& group, const Block<Element>& block, Range range,
                           bool asks_for_values) {
  for_each_row_tile<kHeadTile>(group.num_heads, [&](auto num_rows, std::size_t h) HWY_ATTR {
    constexpr std::size_t kRows = decltype(num_rows)::value;
    for (std::size_t p = range.begin; p < range.end; p += num_key_rows(kRows)) {
      score_tile<kRows>(scores[h] + p, group.q + h * group.q_stride, group.q_stride, block.keys + p,
                        asks_for_values && h == 0 ? block.values + p : nullptr, group.head_dim);
    }
  });
}

// Turns one head's scores into weights exp(scale * score - largest), 0 beyond num_positions, and brings the running
// softmax up to date. Returns what the sums so far have to be multiplied by.
float weigh_block(float* scores, std::size_t num_positions, float scale, float& largest, float& sum) {
  const hn::ScalableTag<float> d;
  std::fill(scores + num_positions, scores + kAttendBlock, -std::numeric_limits<float>::infinity());
  auto block_largest = hn::Set(d, largest);
  for (std::size_t p = 0; p < kAttendBlock; p += hn::Lanes(d)) {
    const auto score = hn::Mul(hn::LoadU(d, scores + p), hn::Set(d, scale));
    hn::StoreU(score, d, scores + p);
    block_largest = hn::Max(block_largest, score);
  }
  const auto new_largest = hn::MaxOfLanes(d, block_largest);
  auto block_sum = hn::Zero(d);
  for (std::size_t p = 0; p < kAttendBlock; p += hn::Lanes(d)) {
    const auto weight = exp(d, hn::Sub(hn::LoadU(d, scores + p), new_largest));
    hn::StoreU(weight, d, scores + p);
    block_sum = hn::Add(block_sum, weight);
  }
  const float kept = hn::GetLane(exp(d, hn::Sub(hn::Set(d, largest), new_largest)));
  largest = hn::GetLane(new_largest);
  sum = sum * kept + hn::GetLane(hn::SumOfLanes(d, block_sum));
  return kept;
}

// One token's part in a block.
struct Visit {
  Group group;
  std::size_t num_positions;  // that it sees
  Softmax* softmax;
  float (*weights)[kAttendBlock];  // scores first
  float* kept;
};

// out[h] <- kept[h] * out[h] + sum_p weights[h][p] * V[p], in the columns of num_vecs vectors of d. Asks for as much of
// the next block's keys, unless next_keys is null.
template <class D, class NumVecs, class Element>
HWY_INLINE void add_values(D d, NumVecs, std::size_t column, const Visit& visit, const Block<Element>& block,
                           Ahead<Element, kElementValues<Element>>* next_keys) {
  const std::size_t lanes = hn::Lanes(d);
  const Group& group = visit.group;
  for_each_row_tile<kHeadTile>(group.num_heads, [&](auto num_rows, std::size_t h) HWY_ATTR {
    Tile<decltype(num_rows)::value, NumVecs::value, hn::Vec<D>> tile;
    const float* weights = visit.weights[h];
    Ahead<Element, kElementValues<Element>>* ahead = h == 0 ? next_keys : nullptr;  // once a position
    const auto out_at = [&](std::size_t r, std::size_t v)
                            HWY_ATTR { return group.out + (h + r) * group.out_stride + column + v * lanes; };
    fill_tile(tile, [&](std::size_t r, std::size_t v) HWY_ATTR {
      return block.positions.begin == 0 ? hn::Zero(d)
                                        : hn::Mul(hn::Set(d, visit.kept[h + r]), hn::LoadU(d, out_at(r, v)));
    });
    add_products(
        tile, visit.num_positions, [&](std::size_t r, std::size_t p) HWY_ATTR { return weights[r * kAttendBlock + p]; },
        [&](std::size_t p, std::size_t v) HWY_ATTR {
          if (ahead != nullptr) ahead->ask_for(lanes);
          return load_values(d, block.values[p], column, v * lanes);
        });
    use_tile(tile, [&](std::size_t r, std::size_t v, auto sum) HWY_ATTR { hn::StoreU(sum, d, out_at(r, v)); });
  });
}

// ---- Blocks times tokens --------------------------------------------------------------------------------------------

template <class Element>
void attend_tile(const AttendTask& task, const KvPages& kv, Range tokens, Range heads) {
  Softmax softmax[kTileTokens];
  for (Softmax& of_token : softmax) {
    std::fill_n(of_token.largest, kGroupHeads, -std::numeric_limits<float>::infinity());
    std::fill_n(of_token.sum, kGroupHeads, 0.0f);
  }
  HWY_ALIGN float scores[kTileTokens][kGroupHeads][kAttendBlock];
  float kept[kTileTokens][kGroupHeads];
  const std::size_t end = task.first_position + tokens.end;  // what the last token sees
  const auto find = [&](std::size_t begin) {
    return find_block<Element>(kv, task.kv_head_idx, {begin, std::min(begin + kAttendBlock, end)});
  };
  Block<Element> next = find(0);
  Visit visits[kTileTokens];
  for (std::size_t begin = 0; begin < end; begin += kAttendBlock) {
    const Block<Element> block = next;
    if (begin + kAttendBlock < end) next = find(begin + kAttendBlock);
    std::size_t num_visits = 0;
    for (std::size_t t = tokens.begin; t < tokens.end; ++t) {
      const std::size_t seen = task.first_position + t + 1, i = t - tokens.begin;
      if (seen <= begin) continue;
      visits[num_visits++] = {.group = {.num_heads = heads.count(),
                                        .head_dim = kv.head_dim,
                                        .q = task.q.row(t, heads.begin),
                                        .q_stride = task.q.stride(1),
                                        .out = task.out.row(t, heads.begin),
                                        .out_stride = task.out.stride(1)},
                              .num_positions = std::min(seen - begin, kAttendBlock),
                              .softmax = &softmax[i],
                              .weights = scores[i],
                              .kept = kept[i]};
    }
    const std::span all(visits, num_visits);
    for (std::size_t p = 0; p < block.positions.count(); p += kKeysAtOnce) {
      for (const Visit& visit : all) {
        score_keys(visit.weights, visit.group, block, {p, std::min(p + kKeysAtOnce, visit.num_positions)},
                   &visit == visits);
      }
    }
    for (const Visit& visit : all) {
      for (std::size_t h = 0; h < heads.count(); ++h) {
        visit.kept[h] = weigh_block(visit.weights[h], visit.num_positions, task.scale, visit.softmax->largest[h],
                                    visit.softmax->sum[h]);
      }
    }
    Ahead<Element, kElementValues<Element>> next_keys = {.rows = next.keys, .head_dim = kv.head_dim};
    for_each_column_tile<kValueVecs>(kv.head_dim, [&](auto d, auto num_vecs, std::size_t column) HWY_ATTR {
      for (const Visit& visit : all)
        add_values(d, num_vecs, column, visit, block, &visit == visits ? &next_keys : nullptr);
    });
  }
  for (std::size_t t = tokens.begin; t < tokens.end; ++t) {
    for (std::size_t h = 0; h < heads.count(); ++h) {
      float* out = task.out.row(t, heads.begin + h);
      const float share = 1.0f / softmax[t - tokens.begin].sum[h];
      for_each_vector({0, kv.head_dim}, [&](auto d, std::size_t i) HWY_ATTR {
        hn::StoreU(hn::Mul(hn::LoadU(d, out + i), hn::Set(d, share)), d, out + i);
      });
    }
  }
}

template <bool kVnni>
void attend(View<float> out, View<const float> q, const KvPages& kv, std::size_t first_position, float scale,
            std::size_t kv_head_idx, Range tokens) {
  const AttendTask task = {
      .out = out, .q = q, .first_position = first_position, .scale = scale, .kv_head_idx = kv_head_idx};
  if (kv.type == DType::kI16) return i16::attend<kVnni>(task, kv, tokens);
  with_element_of(kv, [&](auto element) {
    for_each_tile(task, kv, tokens, [&](Range tile_tokens, Range heads) {
      attend_tile<decltype(element)>(task, kv, tile_tokens, heads);
    });
  });
}

}  // namespace

void AddAttention(KernelTable& table, bool has_vnni) {
  table.store_kv = store_kv;
  table.attend = attend<false>;
#if HWY_TARGET == HWY_AVX3
  if (has_vnni) table.attend = attend<true>;
#else
  (void)has_vnni;
#endif
}

}  // namespace HWY_NAMESPACE
}  // namespace qnext
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qnext {

HWY_EXPORT(AddAttention);
void add_simd_attention(KernelTable& table, bool has_vnni) {
  HWY_DYNAMIC_DISPATCH(AddAttention)(table, has_vnni);
}

}  // namespace qnext
#endif
