// The chunked gated delta rule. With G the running sum of log_decay in the chunk and D_ij = exp(G_i - G_j) <= 1, the
// rows u that the tokens write solve a triangular system, and everything else is matrix products:
//   u_i  = beta_i (v_i - exp(G_i) k_i.S) - sum_{j < i} beta_i D_ij (k_i . k_j) u_j
//   o_i  = exp(G_i) q_i.S + sum_{j <= i} D_ij (q_i . k_j) u_j
//   S   <- exp(G_last) S + sum_j exp(G_last - G_j) outer(k_j, u_j)
// Only differences of G are exponentiated, so nothing overflows however strong the decay. Columns of S never meet: they
// are done a tile at a time. Source: Yang et al. 2024 (arXiv 2412.06464), section 3.3.

#include "kernels/simd/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/simd/delta_chunk.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>

#include "kernels/simd/math-inl.h"
#include "kernels/simd/simd_kernels.h"
#include "kernels/simd/tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace qnext {
namespace HWY_NAMESPACE {
namespace {

// Rows of one head, token i of the chunk at data + i * stride.
struct Rows {
  const float* data;
  std::size_t stride;
  const float* operator[](std::size_t i) const { return data + i * stride; }
};

Rows rows_of(View<const float> x, std::size_t first_token, std::size_t head_idx) {
  return {x.row(first_token, head_idx), x.stride(0)};
}

// One value head's tokens of one chunk, and what depends on them alone.
struct Chunk {
  std::size_t num_tokens;
  std::size_t key_width;
  Rows q, k, v;

  float beta[kDeltaChunk];
  float decay_to[kDeltaChunk];                      // exp(G_i): from the chunk's start to token i
  float decay_from[kDeltaChunk];                    // exp(G_last - G_i): from token i to the chunk's end
  HWY_ALIGN float write[kDeltaChunk][kDeltaChunk];  // -beta_i D_ij (k_i . k_j) for j < i
  HWY_ALIGN float read[kDeltaChunk][kDeltaChunk];   // D_ij (q_i . k_j) for j <= i, else 0: tiles read on
};

// exp(log_decay). Below exp(-87) nothing is left that f32 could show beside what was written later, and subnormal
// factors would slow the products down.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V decay_factor(D d, V log_decay) {
  return hn::IfThenElseZero(hn::Ge(log_decay, hn::Set(d, -87.0f)), exp(d, log_decay));
}

constexpr float kForgotten = -1e4f;  // exp() of this is 0, as of anything below

// Keys with tokens along the lanes: at[d][j] is component `first + d` of k_j. Key widths beyond kPanelDepth take turns.
constexpr std::size_t kPanelDepth = 128;
struct KeyPanel {
  HWY_ALIGN float at[kPanelDepth][kDeltaChunk];
  std::size_t first;
  std::size_t depth;
};

void pack_keys(KeyPanel& panel, const Chunk& chunk, std::size_t first) {
  panel.first = first;
  panel.depth = std::min(kPanelDepth, chunk.key_width - first);
  for (std::size_t j = 0; j < chunk.num_tokens; ++j) {
    for (std::size_t d = 0; d < panel.depth; ++d) panel.at[d][j] = chunk.k[j][first + d];
  }
  for (std::size_t d = 0; d < panel.depth; ++d) {
    std::fill(panel.at[d] + chunk.num_tokens, panel.at[d] + kDeltaChunk, 0.0f);
  }
}

// products[i][j] (+)= rows_i . k_j over the panel's part of Dk, for j up to the end of i's tile.
void add_key_products(float (*products)[kDeltaChunk], const Rows& rows, const KeyPanel& panel, std::size_t num_tokens) {
  const hn::ScalableTag<float> d;
  const std::size_t lanes = hn::Lanes(d);
  for_each_row_tile(num_tokens, [&](auto num_rows, std::size_t i) HWY_ATTR {
    constexpr std::size_t kRows = decltype(num_rows)::value;
    for (std::size_t j = 0; j < i + kRows; j += kTileVecs * lanes) {
      Tile<kRows, kTileVecs, hn::Vec<decltype(d)>> tile;
      fill_tile(tile, [&](std::size_t r, std::size_t v) HWY_ATTR {
        return panel.first == 0 ? hn::Zero(d) : hn::LoadU(d, products[i + r] + j + v * lanes);
      });
      add_products(
          tile, panel.depth, [&](std::size_t r, std::size_t k) HWY_ATTR { return rows[i + r][panel.first + k]; },
          [&](std::size_t k, std::size_t v) HWY_ATTR { return hn::LoadU(d, panel.at[k] + j + v * lanes); });
      use_tile(tile, [&](std::size_t r, std::size_t v, auto sum)
                         HWY_ATTR { hn::StoreU(sum, d, products[i + r] + j + v * lanes); });
    }
  });
}

// Fills everything below `v`.
void prepare_chunk(Chunk& chunk, KeyPanel& panel, const DeltaRuleInputs& in, std::size_t first_token,
                   std::size_t value_head) {
  for (std::size_t first = 0; first < chunk.key_width; first += kPanelDepth) {
    pack_keys(panel, chunk, first);
    add_key_products(chunk.write, chunk.k, panel, chunk.num_tokens);
    add_key_products(chunk.read, chunk.q, panel, chunk.num_tokens);
  }
  // In f64: with strong decays G is large, and its differences are what counts. Bounded, as infinities have none.
  double log_sum[kDeltaChunk] = {};
  for (std::size_t i = 0; i < chunk.num_tokens; ++i) {
    log_sum[i] = (i == 0 ? 0.0 : log_sum[i - 1]) + std::max(in.log_decay(first_token + i, value_head), kForgotten);
    chunk.beta[i] = in.beta(first_token + i, value_head);
  }
  const hn::ScalableTag<float> d;
  HWY_ALIGN float log_decay[kDeltaChunk];
  for (std::size_t i = 0; i < chunk.num_tokens; ++i) {
    const std::size_t num_columns = round_up(i + 1, kTileVecs * hn::Lanes(d));  // what add_key_products wrote
    for (std::size_t j = 0; j < num_columns; ++j) log_decay[j] = static_cast<float>(log_sum[i] - log_sum[j]);
    for (std::size_t j = 0; j < num_columns; j += hn::Lanes(d)) {
      const auto decay = decay_factor(d, hn::Load(d, log_decay + j));
      const auto read = hn::Mul(decay, hn::Load(d, chunk.read[i] + j));
      const auto known = hn::Mul(decay, hn::Load(d, chunk.write[i] + j));
      const auto is_past = hn::Le(hn::Iota(d, static_cast<float>(j)), hn::Set(d, static_cast<float>(i)));
      hn::Store(hn::IfThenElseZero(is_past, read), d, chunk.read[i] + j);
      hn::Store(hn::Mul(hn::Set(d, -chunk.beta[i]), known), d, chunk.write[i] + j);
    }
  }
  const double last = log_sum[chunk.num_tokens - 1];
  for (std::size_t i = 0; i < chunk.num_tokens; ++i) {
    chunk.decay_to[i] = static_cast<float>(log_sum[i]);
    chunk.decay_from[i] = static_cast<float>(last - log_sum[i]);
  }
  for_each_vector({0, chunk.num_tokens}, [&](auto lane_tag, std::size_t i) HWY_ATTR {
    hn::StoreU(decay_factor(lane_tag, hn::LoadU(lane_tag, chunk.decay_to + i)), lane_tag, chunk.decay_to + i);
    hn::StoreU(decay_factor(lane_tag, hn::LoadU(lane_tag, chunk.decay_from + i)), lane_tag, chunk.decay_from + i);
  });
}

// Where a tile of columns lies: rows of S, of the outputs (token i at out + i * out_stride) and of u.
template <class D, std::size_t kVecs>
struct Columns {
  D d;
  std::size_t first;
  float* state;
  std::size_t state_stride;
  float* out;
  std::size_t out_stride;
  HWY_ALIGN float u[kDeltaChunk][kVecs * hn::MaxLanes(D())];

  std::size_t offset(std::size_t v) const { return v * hn::Lanes(d); }
  auto state_row(std::size_t i, std::size_t v) const { return hn::LoadU(d, state + i * state_stride + offset(v)); }
  auto u_row(std::size_t i, std::size_t v) const { return hn::LoadU(d, u[i] + offset(v)); }
};

// u_i = beta_i (v_i - exp(G_i) k_i.S) + sum_{j < i} write_ij u_j, by forward substitution: a tile of rows takes what
// lies above it as a matrix product, then its own rows one from the other.
template <class D, std::size_t kVecs>
HWY_INLINE void find_writes(Columns<D, kVecs>& columns, const Chunk& chunk) {
  const D d = columns.d;
  for_each_row_tile(chunk.num_tokens, [&](auto num_rows, std::size_t i) HWY_ATTR {
    constexpr std::size_t kRows = decltype(num_rows)::value;
    Tile<kRows, kVecs, hn::Vec<D>> tile;
    fill_tile(tile, [&](std::size_t, std::size_t) HWY_ATTR { return hn::Zero(d); });
    add_products(
        tile, chunk.key_width, [&](std::size_t r, std::size_t k) HWY_ATTR { return chunk.k[i + r][k]; },
        [&](std::size_t k, std::size_t v) HWY_ATTR { return columns.state_row(k, v); });
    fill_tile(tile, [&](std::size_t r, std::size_t v) HWY_ATTR {
      const auto value = hn::LoadU(d, chunk.v[i + r] + columns.first + columns.offset(v));
      const auto surprise = hn::NegMulAdd(hn::Set(d, chunk.decay_to[i + r]), tile.at[r][v], value);
      return hn::Mul(hn::Set(d, chunk.beta[i + r]), surprise);
    });
    add_products(
        tile, i, [&](std::size_t r, std::size_t j) HWY_ATTR { return chunk.write[i + r][j]; },
        [&](std::size_t j, std::size_t v) HWY_ATTR { return columns.u_row(j, v); });
    HWY_UNROLL(8)
    for (std::size_t r = 1; r < kRows; ++r) {
      HWY_UNROLL(8)
      for (std::size_t s = 0; s < r; ++s) {
        const auto factor = hn::Set(d, chunk.write[i + r][i + s]);
        HWY_UNROLL(8)
        for (std::size_t v = 0; v < kVecs; ++v) tile.at[r][v] = hn::MulAdd(factor, tile.at[s][v], tile.at[r][v]);
      }
    }
    use_tile(tile, [&](std::size_t r, std::size_t v, auto u)
                       HWY_ATTR { hn::StoreU(u, d, columns.u[i + r] + columns.offset(v)); });
  });
}

// o_i = exp(G_i) q_i.S + sum_{j <= i} read_ij u_j
template <class D, std::size_t kVecs>
HWY_INLINE void read_outputs(const Columns<D, kVecs>& columns, const Chunk& chunk) {
  const D d = columns.d;
  for_each_row_tile(chunk.num_tokens, [&](auto num_rows, std::size_t i) HWY_ATTR {
    constexpr std::size_t kRows = decltype(num_rows)::value;
    Tile<kRows, kVecs, hn::Vec<D>> tile;
    fill_tile(tile, [&](std::size_t, std::size_t) HWY_ATTR { return hn::Zero(d); });
    add_products(
        tile, chunk.key_width, [&](std::size_t r, std::size_t k) HWY_ATTR { return chunk.q[i + r][k]; },
        [&](std::size_t k, std::size_t v) HWY_ATTR { return columns.state_row(k, v); });
    fill_tile(tile, [&](std::size_t r, std::size_t v)
                        HWY_ATTR { return hn::Mul(hn::Set(d, chunk.decay_to[i + r]), tile.at[r][v]); });
    add_products(
        tile, i + kRows, [&](std::size_t r, std::size_t j) HWY_ATTR { return chunk.read[i + r][j]; },
        [&](std::size_t j, std::size_t v) HWY_ATTR { return columns.u_row(j, v); });
    use_tile(tile, [&](std::size_t r, std::size_t v, auto sum) HWY_ATTR {
      hn::StoreU(sum, d, columns.out + (i + r) * columns.out_stride + columns.offset(v));
    });
  });
}

// S <- exp(G_last) S + sum_j k_j (exp(G_last - G_j) u_j); u is scaled in place, as its last use.
template <class D, std::size_t kVecs>
HWY_INLINE void update_state(Columns<D, kVecs>& columns, const Chunk& chunk, KeyPanel& panel) {
  const D d = columns.d;
  for (std::size_t j = 0; j < chunk.num_tokens; ++j) {
    for (std::size_t v = 0; v < kVecs; ++v) {
      const auto scaled = hn::Mul(hn::Set(d, chunk.decay_from[j]), columns.u_row(j, v));
      hn::StoreU(scaled, d, columns.u[j] + columns.offset(v));
    }
  }
  const auto decay = hn::Set(d, chunk.decay_to[chunk.num_tokens - 1]);
  for (std::size_t first = 0; first < chunk.key_width; first += kPanelDepth) {
    if (panel.first != first) pack_keys(panel, chunk, first);
    for_each_row_tile(panel.depth, [&](auto num_rows, std::size_t k) HWY_ATTR {
      constexpr std::size_t kRows = decltype(num_rows)::value;
      Tile<kRows, kVecs, hn::Vec<D>> tile;
      const std::size_t row = first + k;
      fill_tile(tile,
                [&](std::size_t r, std::size_t v) HWY_ATTR { return hn::Mul(decay, columns.state_row(row + r, v)); });
      add_products(
          tile, chunk.num_tokens, [&](std::size_t r, std::size_t j) HWY_ATTR { return panel.at[k + r][j]; },
          [&](std::size_t j, std::size_t v) HWY_ATTR { return columns.u_row(j, v); });
      use_tile(tile, [&](std::size_t r, std::size_t v, auto updated) HWY_ATTR {
        hn::StoreU(updated, d, columns.state + (row + r) * columns.state_stride + columns.offset(v));
      });
    });
  }
}

void delta_rule_chunk(View<float> out, View<float> state, const DeltaRuleInputs& in, Range heads) {
  const std::size_t heads_a_key = state.dim(0) / in.k.dim(1);
  Chunk chunk;
  KeyPanel panel;
  chunk.key_width = in.k.dim(2);
  // Chunks outside: neighbouring heads read neighbouring parts of the same 64 rows.
  for (std::size_t first = 0; first < out.dim(0); first += kDeltaChunk) {
    chunk.num_tokens = std::min(kDeltaChunk, out.dim(0) - first);
    for (std::size_t h = heads.begin; h < heads.end; ++h) {
      chunk.q = rows_of(in.q, first, h / heads_a_key);
      chunk.k = rows_of(in.k, first, h / heads_a_key);
      chunk.v = rows_of(in.v, first, h);
      prepare_chunk(chunk, panel, in, first, h);
      for_each_column_tile(out.dim(2), [&](auto d, auto num_vecs, std::size_t column) HWY_ATTR {
        Columns<decltype(d), decltype(num_vecs)::value> columns;
        columns.first = column;
        columns.state = state.row(h) + column;
        columns.state_stride = state.stride(1);
        columns.out = out.row(first, h) + column;
        columns.out_stride = out.stride(0);
        find_writes(columns, chunk);
        read_outputs(columns, chunk);
        update_state(columns, chunk, panel);
      });
    }
  }
}

}  // namespace

void AddDeltaChunk(KernelTable& table) {
  table.delta_rule_chunk = delta_rule_chunk;
}

}  // namespace HWY_NAMESPACE
}  // namespace qnext
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qnext {

HWY_EXPORT(AddDeltaChunk);
void add_simd_delta_chunk(KernelTable& table) {
  HWY_DYNAMIC_DISPATCH(AddDeltaChunk)(table);
}

}  // namespace qnext
#endif
