// Products of packed weights, with the vectors of packed_lanes*-inl.h. Included by one file for each instruction set,
// within its target attributes and an unnamed namespace.
//
// Lane r of a vector belongs to row r of a group (or of a half of it). For 32 columns the codes of column pairs, in 16
// bits each, are multiplied by the same pair of a token's activations in every lane; the exact integer sums are then
// scaled and added to the f32 sums. Up to eight tokens share a run's codes as they are unpacked: all of it stays in
// registers, and unpacking again for the next eight costs less than to keep unpacked codes in memory.

// ---- A block as vectors: codes of column pairs, scales, mins. `part` says which kLanes of the group's rows. ----

// Column pairs 4 * quad + [0, 4) of a run's 16, in 16 bits each.
struct Quad {
  Ints of[4];
};
inline constexpr std::size_t kQuads = kRun / 8;

inline Quad unpack_bits4(const PackedBits4& codes, std::size_t quad, std::size_t part) {
  const Ints mask = all_halves(0xf);
  const Ints packed = load(codes[quad], part);
  return {{bit_and(packed, mask), bit_and(shift_halves<-4>(packed), mask), bit_and(shift_halves<-8>(packed), mask),
           shift_halves<-12>(packed)}};
}

// Adds the bits above the lower four: those of pair j lie kBits * (kFirst + j) up in a half of `packed`.
template <int kBits, int kFirst>
inline void add_high_bits(Quad& pairs, Ints packed) {
  const Ints mask = all_halves(((1 << kBits) - 1) << 4);
  pairs.of[0] = or_masked(pairs.of[0], shift_halves<4 - kBits * kFirst>(packed), mask);
  pairs.of[1] = or_masked(pairs.of[1], shift_halves<4 - kBits*(kFirst + 1)>(packed), mask);
  pairs.of[2] = or_masked(pairs.of[2], shift_halves<4 - kBits*(kFirst + 2)>(packed), mask);
  pairs.of[3] = or_masked(pairs.of[3], shift_halves<4 - kBits*(kFirst + 3)>(packed), mask);
}

template <std::size_t kQuad>
inline Quad unpack(const PackedQ4K& block, std::size_t run, std::size_t part) {
  return unpack_bits4(block.codes[run], kQuad, part);
}

template <std::size_t kQuad>
inline Quad unpack(const PackedQ5K& block, std::size_t run, std::size_t part) {
  Quad pairs = unpack_bits4(block.codes[run], kQuad, part);
  add_high_bits<1, 4 * kQuad>(pairs, load(block.high_bits[run], part));
  return pairs;
}

template <std::size_t kQuad>
inline Quad unpack(const PackedQ6K& block, std::size_t run, std::size_t part) {
  Quad pairs = unpack_bits4(block.low_bits[run], kQuad, part);
  add_high_bits<2, 4 * (kQuad % 2)>(pairs, load(block.high_bits[run][kQuad / 2], part));
  return pairs;
}

template <std::size_t kQuad>
inline Quad unpack(const PackedQ8_0& block, std::size_t run, std::size_t part) {
  const Ints first = load(block.codes[run][2 * kQuad], part), second = load(block.codes[run][2 * kQuad + 1], part);
  return {{high_bytes_signed(shift_halves<8>(first)), high_bytes_signed(first),
           high_bytes_signed(shift_halves<8>(second)), high_bytes_signed(second)}};
}

template <std::size_t kQuad>
inline Quad unpack(const PackedQ4_0& block, std::size_t run, std::size_t part) {
  return unpack_bits4(block.codes[run], kQuad, part);
}

// Formats with levels.
template <std::size_t kQuad, class Packed>
requires requires {
  Packed::kLevels;
}
inline Quad unpack(const Packed& block, std::size_t run, std::size_t part) {
  const Ints levels = bit_xor(all_bytes(Packed::kLevels), all_halves(0x8080));  // + 128
  const Ints high_byte = all_halves(0x8000);                                    // index 128 and more makes it 0
  Quad pairs = unpack_bits4(block.codes[run], kQuad, part);
  for (Ints& pair : pairs.of) pair = look_up(levels, bit_or(pair, high_byte));
  return pairs;
}

// The factors of sub-block `sub` of a block.
struct Scales {
  Floats scale;
  Floats min;  // where Packed::kMins
};

template <class Packed>
requires requires(Packed block) {
  block.scales;
}
inline Scales scales_of(const Packed& block, std::size_t sub, std::size_t part) {
  const auto times = [part](const std::uint16_t* d, const auto* codes) {
    return multiply(halves_to_floats(d, part), to_floats(bytes_to_ints(codes, part)));
  };
  if constexpr (Packed::kMins) return {times(block.d, block.scales[sub]), times(block.dmin, block.mins[sub])};
  return {times(block.d, block.scales[sub]), Floats{}};
}
inline Scales scales_of(const PackedQ8_0& block, std::size_t sub, std::size_t part) {
  return {halves_to_floats(block.d[sub], part), Floats{}};
}
inline Scales scales_of(const PackedQ4_0& block, std::size_t sub, std::size_t part) {
  return {halves_to_floats(block.d[sub], part), Floats{}};
}
// mxfp4_scale(): 2^(exponent - 127) / 2, where exponent 0 is a subnormal and 255 a NaN.
inline Scales scales_of(const PackedMXFP4& block, std::size_t sub, std::size_t part) {
  const Ints exponents = bytes_to_ints(block.exponents[sub], part);
  Ints bits = replace_equal(shift_ints_left<23>(exponents), exponents, 0, 0x00400000);
  bits = replace_equal(bits, exponents, 255, 0x7fc00000);
  return {multiply(as_floats(bits), all_floats(0.5f)), Floats{}};
}

// ---- A group's products with up to eight tokens ----

inline constexpr std::size_t kTileTokens = 8;

// Of weights ahead, into L2: into L1, or at another distance, the formats reach 3% to 20% less of the bandwidth.
inline constexpr std::size_t kPrefetchBytes = 8192;

// What the sums of sub-block `sub` of a run start from: its codes' offsets times its activations, negative.
template <class Packed>
inline Ints take_offset_off(const ActivationBlock& x, std::size_t sub) {
  if constexpr (Packed::kOffset == 0) return Ints{};
  const std::int32_t minus_sum = Packed::kSubBlock == kRun ? x.minus_sum[0] + x.minus_sum[1] : x.minus_sum[sub];
  return all_ints(Packed::kOffset * minus_sum);
}

inline Ints add_pair(Ints sum, Ints codes, const ActivationBlock& x, std::size_t pair) {
  std::int32_t both;
  __builtin_memcpy(&both, x.codes + 2 * pair, sizeof(both));
  return add_products(sum, codes, all_ints(both));
}

// Integer sums of some tokens: for few, several chains each, so that none waits for its own last addition.
template <std::size_t kTokens>
struct Dots {
  static constexpr std::size_t kChains = kTokens <= 2 ? 4 : kTokens <= 4 ? 2 : 1;
  Ints of[kTokens][kChains];
};

template <std::size_t kQuad, class Packed, std::size_t kTokens>
inline void add_quad(Dots<kTokens>& dots, const Packed& block, std::size_t run, std::size_t part,
                     const ActivationBlock* const* x) {
  const Quad pairs = unpack<kQuad>(block, run, part);
#pragma GCC unroll 8
  for (std::size_t t = 0; t < kTokens; ++t) {
#pragma GCC unroll 4
    for (std::size_t i = 0; i < 4; ++i) {
      Ints& sum = dots.of[t][i % Dots<kTokens>::kChains];
      sum = add_pair(sum, pairs.of[i], *x[t], 4 * kQuad + i);
    }
  }
}

// Adds to sums[t] the products of sub-block kSub of a run.
template <std::size_t kSub, class Packed, std::size_t kTokens>
inline void add_sub_block(Floats* sums, const Packed& block, std::size_t run, std::size_t part,
                          const ActivationBlock* const* x) {
  Dots<kTokens> dots;
#pragma GCC unroll 8
  for (std::size_t t = 0; t < kTokens; ++t) {
    for (Ints& chain : dots.of[t]) chain = Ints{};
    dots.of[t][0] = take_offset_off<Packed>(*x[t], kSub);
  }
  constexpr std::size_t kSubQuads = kQuads * Packed::kSubBlock / kRun, kFirst = kSub * kSubQuads;
  add_quad<kFirst>(dots, block, run, part, x);
  add_quad<kFirst + 1>(dots, block, run, part, x);
  if constexpr (kSubQuads == 4) {
    add_quad<kFirst + 2>(dots, block, run, part, x);
    add_quad<kFirst + 3>(dots, block, run, part, x);
  }
  const Scales scales = scales_of(block, run * (kRun / Packed::kSubBlock) + kSub, part);
#pragma GCC unroll 8
  for (std::size_t t = 0; t < kTokens; ++t) {
    Ints dot = dots.of[t][0];
    for (std::size_t c = 1; c < Dots<kTokens>::kChains; ++c) dot = add(dot, dots.of[t][c]);
    sums[t] = multiply_add(to_floats(dot), multiply(scales.scale, all_floats(x[t]->scale)), sums[t]);
    if constexpr (Packed::kMins) sums[t] = multiply_subtract(scales.min, all_floats(x[t]->sum), sums[t]);
  }
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

// out[t] = x[t] . the rows of a group that are in its vectors' part `part`.    out : [kTokens, kGroupRows]
template <class Packed, std::size_t kTokens>
inline void multiply_part(float* out, const Packed* blocks, std::size_t num_blocks, std::size_t part,
                          const ActivationBlock* const* x) {
  Floats sums[kTokens] = {};
  for (std::size_t block_idx = 0; block_idx < num_blocks; ++block_idx) {
    const Packed& block = blocks[block_idx];
#pragma GCC unroll 2
    for (std::size_t run = 0; run < kRuns; ++run) {
      if (part == 0) prefetch_ahead(block, run);
      const ActivationBlock* run_x[kTokens];
#pragma GCC unroll 8
      for (std::size_t t = 0; t < kTokens; ++t) run_x[t] = x[t] + kRuns * block_idx + run;
      add_sub_block<0, Packed, kTokens>(sums, block, run, part, run_x);
      if constexpr (Packed::kSubBlock < kRun) add_sub_block<1, Packed, kTokens>(sums, block, run, part, run_x);
    }
  }
#pragma GCC unroll 8
  for (std::size_t t = 0; t < kTokens; ++t) store(out + t * kGroupRows + part * kLanes, sums[t]);
}

template <class Packed, std::size_t kTokens>
void multiply_tile(float* out, const Packed* blocks, std::size_t num_blocks, const ActivationBlock* const* x) {
#pragma GCC unroll 2
  for (std::size_t part = 0; part < kGroupRows / kLanes; ++part) {
    multiply_part<Packed, kTokens>(out, blocks, num_blocks, part, x);
  }
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

// Products of a group with those tokens, in registers. (packed_tiles-inl.h has another such class.)
class InRegisters {
 public:
  InRegisters(const Weight& w, const TokenRows& tokens) : w_(w), tokens_(tokens) {}

  // sums[t] = x[t] . group group_idx's rows of w.    sums : [tokens.count, kGroupRows]
  void operator()(float* sums, std::size_t group_idx) const {
    const std::size_t num_blocks = w_.cols / kSuperBlock;
    with_packed_layout(w_.type, [&]<class Packed>(std::type_identity<Packed>) {
      const auto* blocks = reinterpret_cast<const Packed*>(w_.packed) + group_idx * num_blocks;
      for (std::size_t t = 0; t < tokens_.count; t += kTileTokens) {
        const auto tile = kTiles<Packed>[std::min(kTileTokens, tokens_.count - t) - 1];
        tile(sums + t * kGroupRows, blocks, num_blocks, tokens_.x.data() + t);
      }
    });
  }

  // As PackedProducts::peak.
  static std::size_t peak(std::size_t rounds) {
    constexpr std::size_t kChains = 12;  // more than the additions in flight: none waits for its own last one
    Ints sums[kChains] = {};
#pragma GCC unroll 12
    for (Ints& sum : sums) keep(sum);  // else the compiler runs equal chains once
    Ints codes = all_halves(3);
    for (std::size_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
      for (Ints& sum : sums) {
        keep(codes);  // another value, for all that the compiler knows
        sum = add_products(sum, codes, codes);
      }
    }
    Ints total = sums[0];
    for (std::size_t c = 1; c < kChains; ++c) total = add(total, sums[c]);
    float out[kLanes];
    store(out, to_floats(total));
    asm volatile("" : : "r"(out) : "memory");  // used, for all that the compiler knows
    return rounds * kChains * kLanes * 4;
  }

 private:
  const Weight& w_;
  const TokenRows& tokens_;
};

// For each group of rows in `outputs`, which begin at one: emit(first row, its number of rows, sums).
template <class Multiply, class Emit>
void for_each_group(const Weight& w, Range outputs, const TokenRows& tokens, const Emit& emit) {
  alignas(64) float sums[kBlockTokens * kGroupRows];
  const Multiply multiply(w, tokens);
  for (std::size_t row = outputs.begin; row < outputs.end; row += kGroupRows) {
    multiply(sums, row / kGroupRows);
    emit(row, std::min(kGroupRows, outputs.end - row), sums);
  }
}

// dst += weight * sums, for the rows that there are: nearly always kGroupRows, of which the compiler makes vectors.
inline void add_times(float* __restrict dst, float weight, const float* __restrict sums, std::size_t num_rows) {
  if (num_rows == kGroupRows) {
    for (std::size_t r = 0; r < kGroupRows; ++r) dst[r] += weight * sums[r];
  } else {
    for (std::size_t r = 0; r < num_rows; ++r) dst[r] += weight * sums[r];
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
  std::uint32_t largest_bits = 0;  // magnitudes are in the order of their bits; an infinity or a NaN is above all else
  for (std::size_t i = 0; i < kActivationBlock; ++i) {
    largest_bits = std::max(largest_bits, std::bit_cast<std::uint32_t>(x[i]) & 0x7fffffff);
  }
  const bool strange = largest_bits >= 0x7f800000;
  const float scale = std::bit_cast<float>(largest_bits) / 32767.0f;
  // A scale that underflows to a subnormal has lost the bits to round by.
  const bool finite = !strange && scale >= std::numeric_limits<float>::min();
  const float inverse = finite ? 1.0f / scale : 0.0f;
  std::int32_t sums[2] = {};
  for (std::size_t half = 0; half < 2; ++half) {
    for (std::size_t i = 16 * half; i < 16 * half + 16; ++i) {
      // 1 / scale is rounded: the product may pass 32767.5 by a few units in its last place.
      const float bounded = std::min(std::max(x[i] * inverse, -32767.0f), 32767.0f);
      const std::int32_t code = finite ? static_cast<std::int32_t>(std::rint(bounded)) : 0;
      out.codes[i] = static_cast<std::int16_t>(code);
      sums[half] += code;
    }
  }
  out.scale = strange ? std::numeric_limits<float>::quiet_NaN() : finite ? scale : 0.0f;
  out.sum = out.scale * static_cast<float>(sums[0] + sums[1]);
  out.minus_sum[0] = -sums[0];
  out.minus_sum[1] = -sums[1];
}

void quantise(View<ActivationBlock> out, View<const float> x, Range rows) {
  for (std::size_t t = rows.begin; t < rows.end; ++t) {
    for (std::size_t i = 0; i < out.dim(1); ++i) quantise_block(out(t, i), x.row(t) + kActivationBlock * i);
  }
}

// ---- One matrix, and experts ----

template <class Multiply>
void matmul(View<float> out, View<const ActivationBlock> x, const Weight& w, Range outputs, Write write) {
  const std::size_t num_tokens = x.dim(0);
  for (std::size_t first = 0; first < num_tokens; first += kBlockTokens) {
    TokenRows tokens;
    tokens.count = std::min(kBlockTokens, num_tokens - first);
    for (std::size_t t = 0; t < tokens.count; ++t) tokens.x[t] = x.row(first + t);
    for_each_group<Multiply>(w, outputs, tokens, [&](std::size_t row, std::size_t num_rows, const float* sums) {
      for (std::size_t t = 0; t < tokens.count; ++t) {
        float* dst = out.row(first + t) + row;
        const float* sum = sums + t * kGroupRows;
        if (write == Write::kAdd) {
          add_times(dst, 1, sum, num_rows);
        } else {
          std::copy_n(sum, num_rows, dst);
        }
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

template <class Multiply>
void expert_rows(View<float> out, View<const ActivationBlock> x, const Routing& routing,
                 std::span<const Weight> experts, Range outputs) {
  for (std::size_t e = 0; e < experts.size(); ++e) {
    const std::size_t end = routing.expert_begin[e + 1];
    for (std::size_t first = routing.expert_begin[e]; first < end; first += kBlockTokens) {
      const TokenRows tokens = rows_of_pairs(x, first, end, [&](std::size_t i) { return routing.pair_token[i]; });
      for_each_group<Multiply>(experts[e], outputs, tokens,
                               [&](std::size_t row, std::size_t num_rows, const float* sums) {
                                 for (std::size_t t = 0; t < tokens.count; ++t) {
                                   std::copy_n(sums + t * kGroupRows, num_rows, out.row(first + t) + row);
                                 }
                               });
    }
  }
}

template <class Multiply>
void expert_output(View<float> out, View<const ActivationBlock> hidden, const Routing& routing,
                   std::span<const Weight> experts, Range outputs) {
  for (std::size_t e = 0; e < experts.size(); ++e) {
    const std::size_t end = routing.expert_begin[e + 1];
    for (std::size_t first = routing.expert_begin[e]; first < end; first += kBlockTokens) {
      const TokenRows tokens = rows_of_pairs(hidden, first, end, [](std::size_t i) { return i; });
      for_each_group<Multiply>(experts[e], outputs, tokens,
                               [&](std::size_t row, std::size_t num_rows, const float* sums) {
                                 for (std::size_t t = 0; t < tokens.count; ++t) {
                                   float* dst = out.row(routing.pair_token[first + t]) + row;
                                   add_times(dst, routing.pair_weight[first + t], sums + t * kGroupRows, num_rows);
                                 }
                               });
    }
  }
}

template <class Multiply>
inline constexpr PackedProducts kProducts = {
    packs,         packed_bytes, pack, quantise, matmul<Multiply>, expert_rows<Multiply>, expert_output<Multiply>,
    Multiply::peak};
