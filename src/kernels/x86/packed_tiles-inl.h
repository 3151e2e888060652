// Products with many tokens in tiles (tiles.h), for packed_products-inl.h. Included by one file for each kind of tiles.
//
// An activation's 16 bits are two bytes, x = 256 * high + low, high signed, low not, and a code is a byte: two products
// of tiles, whose sum is the exact integer that the other products compute. It is scaled and added as they do: the same
// bits. Tiles hand their sums to vectors through memory, and what was stored a moment ago is slow to load: sums of some
// sub-blocks are computed before the first of them is scaled.

// Four columns of a group's rows make a row of a tile of codes: of a quad of pairs, a tile's rows are columns
// 0, 4, 1, 5 and 2, 6, 3, 7 of its eight. Activations lie in that order.
struct alignas(64) TokenTile {  // 32 columns of 16 tokens
  std::uint8_t low[kTileRows][kRun];
  std::uint8_t high[kTileRows][kRun];
  std::int32_t offset[2][kTileRows];  // take_offset_off() of the sub-blocks
  float scale[kTileRows];
  float sum[kTileRows];
};

// A token's 32 columns, as row `row` of a tile.
inline void put_codes(TokenTile& out, std::size_t row, const std::int16_t* codes) {
  const __m128i order = _mm_setr_epi8(0, 8, 2, 10, 4, 12, 6, 14, 1, 9, 3, 11, 5, 13, 7, 15);
  for (std::size_t c = 0; c < kRun; c += 8) {
    const __m128i bytes = _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + c)), order);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(out.low[row] + c), bytes);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(out.high[row] + c), _mm_unpackhi_epi64(bytes, bytes));
  }
}

inline Ints load_ints(const std::int32_t* p, std::size_t part) {
  return as_ints(load_floats(reinterpret_cast<const float*>(p) + part * kLanes));
}
inline void store_ints(std::int32_t* p, std::size_t part, Ints v) {
  store(reinterpret_cast<float*>(p) + part * kLanes, as_floats(v));
}

template <class Packed>
inline constexpr int kTileOffset = Packed::kSigned ? 128 : Packed::kOffset;

// Sub-blocks whose sums are computed before any is scaled.
inline constexpr std::size_t kStepSubs = 4;

template <class Packed>
struct StepShape {
  static constexpr std::size_t kSubRows = Packed::kSubBlock / 4;  // of a tile of codes
  static constexpr std::size_t kSubsOfRun = kRun / Packed::kSubBlock;
  static constexpr std::size_t kRuns = kStepSubs / kSubsOfRun;
};

// The codes of kStepSubs sub-blocks of a group: as many tiles, one after the other.
struct alignas(64) StepCodes {
  std::int32_t rows[kStepSubs * kRun / 4][kGroupRows];

  template <class Packed>
  void set(const Packed& block, std::size_t first_run) {
    for (std::size_t part = 0; part < kGroupRows / kLanes; ++part) {
      for (std::size_t r = 0; r < StepShape<Packed>::kRuns; ++r) {
        put_quad<0>(block, first_run, r, part);
        put_quad<1>(block, first_run, r, part);
        put_quad<2>(block, first_run, r, part);
        put_quad<3>(block, first_run, r, part);
      }
    }
  }

 private:
  template <std::size_t kQuad, class Packed>
  void put_quad(const Packed& block, std::size_t first_run, std::size_t r, std::size_t part) {
    Quad pairs = unpack<kQuad>(block, first_run + r, part);
    if constexpr (Packed::kSigned) {
      for (Ints& pair : pairs.of) pair = bit_and(bit_xor(pair, all_halves(0x80)), all_halves(0xff));  // + 128
    }
    std::int32_t(*out)[kGroupRows] = rows + r * (kRun / 4) + 2 * kQuad;
    store_ints(out[0], part, bit_or(pairs.of[0], shift_halves<8>(pairs.of[2])));
    store_ints(out[1], part, bit_or(pairs.of[1], shift_halves<8>(pairs.of[3])));
  }
};

// Sums of a step for 16 tokens, before they are scaled.
struct alignas(64) StepDots {
  std::int32_t low[kStepSubs][kTileRows][kGroupRows];
  std::int32_t high[kStepSubs][kTileRows][kGroupRows];
};

// Adds the sums of `count` tokens, scaled, to sums [count, kGroupRows].
template <class Packed>
inline void add_scaled(float* sums, const StepDots& dots, const Packed& block, std::size_t first_run, std::size_t part,
                       const TokenTile* x, std::size_t count) {
  constexpr std::size_t kEach = StepShape<Packed>::kSubsOfRun;
  Scales scales[kStepSubs];
#pragma GCC unroll 4
  for (std::size_t i = 0; i < kStepSubs; ++i) scales[i] = scales_of(block, first_run * kEach + i, part);
  for (std::size_t t = 0; t < count; ++t) {
    float* dst = sums + t * kGroupRows + part * kLanes;
    Floats sum = load_floats(dst);
#pragma GCC unroll 4
    for (std::size_t i = 0; i < kStepSubs; ++i) {
      const TokenTile& tile = x[i / kEach];
      Ints dot = add(load_ints(dots.low[i][t], part), shift_ints_left<8>(load_ints(dots.high[i][t], part)));
      if constexpr (kTileOffset<Packed> != 0) dot = add(dot, all_ints(tile.offset[i % kEach][t]));
      sum = multiply_add(to_floats(dot), multiply(scales[i].scale, all_floats(tile.scale[t])), sum);
      if constexpr (Packed::kMins) sum = multiply_subtract(scales[i].min, all_floats(tile.sum[t]), sum);
    }
    store(dst, sum);
  }
}

template <class Tiles>
class InTiles {
 public:
  InTiles(const Weight& w, const TokenRows& tokens) : w_(w), tokens_(tokens) {
    with_packed_layout(w.type, [&]<class Packed>(std::type_identity<Packed>) {
      if (tokens.count >= kFewest<Packed>) arrange<Packed>();
    });
  }
  ~InTiles() {
    if (token_tiles_ != nullptr) Tiles::release();
  }
  InTiles(const InTiles&) = delete;
  InTiles& operator=(const InTiles&) = delete;

  // sums[t] = x[t] . group group_idx's rows of w.    sums : [kBlockTokens, kGroupRows], 64-byte aligned
  void operator()(float* sums, std::size_t group_idx) const {
    if (token_tiles_ == nullptr) return InRegisters(w_, tokens_)(sums, group_idx);
    with_packed_layout(w_.type, [&]<class Packed>(std::type_identity<Packed>) {
      multiply_tokens(sums, reinterpret_cast<const Packed*>(w_.packed) + group_idx * (w_.cols / kSuperBlock));
    });
  }

  // Operations as the products use them: low and high bytes are one.
  static std::size_t peak(std::size_t rounds) {
    TileConfig config;
    for (std::size_t tile = 0; tile < 8; ++tile) config.set(tile, kTileRows, kTileRowBytes);
    Tiles::configure(config);
    for (std::size_t i = 0; i < rounds; ++i) {
      Tiles::template add_unsigned_products<0, 4, 6>();
      Tiles::template add_signed_products<1, 5, 7>();
      Tiles::template add_unsigned_products<2, 4, 6>();
      Tiles::template add_signed_products<3, 5, 7>();
    }
    Tiles::release();
    return rounds * 2 * (kTileRows * kGroupRows * kTileRowBytes * 2);
  }

 private:
  // Of fewer tokens, the products in registers are faster.
  template <class Packed>
  static constexpr std::size_t kFewest = Packed::kSubBlock == kRun && !Packed::kSigned ? 9 : 16;

  enum Tile { kLowSums = 0, kHighSums = 2, kLowTokens = 4, kHighTokens = 5, kCodes = 6 };  // sums, codes: by turns two

  std::size_t num_tiles() const { return ceil_div(tokens_.count, kTileRows); }

  // The tokens as tiles: [num_tiles, cols / 32], and the thread's tiles for products of one sub-block.
  template <class Packed>
  void arrange() {
    thread_local std::vector<TokenTile> memory;  // grows to the largest that there is
    const std::size_t num_runs = w_.cols / kRun;
    if (memory.size() < num_tiles() * num_runs) memory.resize(num_tiles() * num_runs);
    token_tiles_ = memory.data();
    for (std::size_t t = 0; t < tokens_.count; ++t) {
      const std::size_t row = t % kTileRows;
      for (std::size_t run = 0; run < num_runs; ++run) {
        const ActivationBlock& x = tokens_.x[t][run];
        TokenTile& tile = memory[t / kTileRows * num_runs + run];
        put_codes(tile, row, x.codes);
        tile.scale[row] = x.scale;
        tile.sum[row] = x.sum;
        const bool halves = Packed::kSubBlock < kRun;
        tile.offset[0][row] = kTileOffset<Packed> * (halves ? x.minus_sum[0] : x.minus_sum[0] + x.minus_sum[1]);
        tile.offset[1][row] = kTileOffset<Packed> * x.minus_sum[1];
      }
    }
    TileConfig config;
    for (std::size_t turn = 0; turn < 2; ++turn) {
      config.set(kLowSums + turn, kTileRows, 4 * kGroupRows);
      config.set(kHighSums + turn, kTileRows, 4 * kGroupRows);
      config.set(kCodes + turn, StepShape<Packed>::kSubRows, 4 * kGroupRows);
    }
    for (const Tile tokens : {kLowTokens, kHighTokens}) config.set(tokens, kTileRows, Packed::kSubBlock);
    Tiles::configure(config);
  }

  template <class Packed>
  void multiply_tokens(float* sums, const Packed* blocks) const {
    constexpr std::size_t kStepRuns = StepShape<Packed>::kRuns;
    const std::size_t num_runs = w_.cols / kRun;
    std::fill_n(sums, num_tiles() * kTileRows * kGroupRows, 0.0f);
    StepCodes codes;
    StepDots dots;
    for (std::size_t first_run = 0; first_run < num_runs; first_run += kStepRuns) {
      const Packed& block = blocks[first_run / kRuns];
      const std::size_t run = first_run % kRuns;  // of the block
      for (std::size_t r = 0; r < kStepRuns; ++r) prefetch_ahead(block, run + r);
      codes.set(block, run);
      for (std::size_t tile = 0; tile < num_tiles(); ++tile) {
        const TokenTile* x = token_tiles_ + tile * num_runs + first_run;
        multiply_sub<0, Packed>(dots, codes, x);
        multiply_sub<1, Packed>(dots, codes, x);
        multiply_sub<2, Packed>(dots, codes, x);
        multiply_sub<3, Packed>(dots, codes, x);
        const std::size_t first = tile * kTileRows, count = std::min(kTileRows, tokens_.count - first);
        for (std::size_t part = 0; part < kGroupRows / kLanes; ++part) {
          add_scaled(sums + first * kGroupRows, dots, block, run, part, x, count);
        }
      }
    }
  }

  template <int kSub, class Packed>
  static void multiply_sub(StepDots& out, const StepCodes& codes, const TokenTile* x) {
    using Shape = StepShape<Packed>;
    constexpr int kTurn = kSub % 2;
    constexpr std::size_t kFirstByte = kSub % Shape::kSubsOfRun * Packed::kSubBlock;
    const TokenTile& tokens = x[kSub / Shape::kSubsOfRun];
    Tiles::template load<kCodes + kTurn>(codes.rows[kSub * Shape::kSubRows], sizeof(codes.rows[0]));
    Tiles::template load<kLowTokens>(tokens.low[0] + kFirstByte, sizeof(tokens.low[0]));
    Tiles::template zero<kLowSums + kTurn>();
    Tiles::template add_unsigned_products<kLowSums + kTurn, kLowTokens, kCodes + kTurn>();
    Tiles::template load<kHighTokens>(tokens.high[0] + kFirstByte, sizeof(tokens.high[0]));
    Tiles::template zero<kHighSums + kTurn>();
    Tiles::template add_signed_products<kHighSums + kTurn, kHighTokens, kCodes + kTurn>();
    Tiles::template store<kLowSums + kTurn>(out.low[kSub], sizeof(out.low[kSub][0]));
    Tiles::template store<kHighSums + kTurn>(out.high[kSub], sizeof(out.high[kSub][0]));
  }

  const Weight& w_;
  const TokenRows& tokens_;
  const TokenTile* token_tiles_ = nullptr;
};
