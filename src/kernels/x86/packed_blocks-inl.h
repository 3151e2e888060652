// One block of a packed group as vectors: codes of column pairs, scales, mins. Included by packed.cc alone, within its
// target attributes and namespace.

struct Pairs {  // of 32 columns: pair i of each row
  __m512i of[16];
  __m512i& operator[](std::size_t i) { return of[i]; }
  __m512i operator[](std::size_t i) const { return of[i]; }
};

// Into a register, once: gcc would rather load again for every shift.
inline __m512i load(const void* p) {
  __m512i v = _mm512_load_si512(p);
  asm("" : "+v"(v));
  return v;
}
inline __m512 halves_to_floats(const std::uint16_t* halves) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(halves)));
}
inline __m512i bytes_to_ints(const std::uint8_t* bytes) {
  return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
}
inline __m512i bytes_to_ints(const std::int8_t* bytes) {
  return _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
}
template <class Byte>
inline __m512 bytes_to_floats(const Byte* bytes) {
  return _mm512_cvtepi32_ps(bytes_to_ints(bytes));
}
template <int kShift>  // to the left; negative: to the right
inline __m512i shift_halves(__m512i v) {
  if constexpr (kShift >= 0) return _mm512_slli_epi16(v, kShift);
  return _mm512_srli_epi16(v, kShift < 0 ? -kShift : 0);
}

// ---- Codes ----

inline void unpack(Pairs& pairs, const PackedBits4& codes) {
  const __m512i mask = _mm512_set1_epi16(0xf);
#pragma GCC unroll 4
  for (std::size_t v = 0; v < 4; ++v) {
    const __m512i packed = load(codes[v]);
    pairs[4 * v] = _mm512_and_si512(packed, mask);
    pairs[4 * v + 1] = _mm512_and_si512(_mm512_srli_epi16(packed, 4), mask);
    pairs[4 * v + 2] = _mm512_and_si512(_mm512_srli_epi16(packed, 8), mask);
    pairs[4 * v + 3] = _mm512_srli_epi16(packed, 12);
  }
}

// Adds the bits above the lower four: those of pair first + j lie kBits * j up in a half of `packed`.
template <int kBits, std::size_t... kPair>
inline void add_high_bits(Pairs& pairs, std::size_t first, __m512i packed, std::index_sequence<kPair...>) {
  const __m512i mask = _mm512_set1_epi16(((1 << kBits) - 1) << 4);
  constexpr int kOrAnd = 0xf8;  // a | (b & c)
  ((pairs[first + kPair] = _mm512_ternarylogic_epi32(
        pairs[first + kPair], shift_halves<4 - kBits* static_cast<int>(kPair)>(packed), mask, kOrAnd)),
   ...);
}

inline void unpack(Pairs& pairs, const PackedQ4K& block, std::size_t run) {
  unpack(pairs, block.codes[run]);
}

inline void unpack(Pairs& pairs, const PackedQ5K& block, std::size_t run) {
  unpack(pairs, block.codes[run]);
  add_high_bits<1>(pairs, 0, load(block.high_bits[run]), std::make_index_sequence<16>());
}

inline void unpack(Pairs& pairs, const PackedQ6K& block, std::size_t run) {
  unpack(pairs, block.low_bits[run]);
#pragma GCC unroll 2
  for (std::size_t v = 0; v < 2; ++v) {
    add_high_bits<2>(pairs, 8 * v, load(block.high_bits[run][v]), std::make_index_sequence<8>());
  }
}

inline void unpack(Pairs& pairs, const PackedQ8_0& block, std::size_t run) {
#pragma GCC unroll 8
  for (std::size_t v = 0; v < 8; ++v) {
    const __m512i packed = load(block.codes[run][v]);
    pairs[2 * v] = _mm512_srai_epi16(_mm512_slli_epi16(packed, 8), 8);
    pairs[2 * v + 1] = _mm512_srai_epi16(packed, 8);
  }
}

inline void unpack(Pairs& pairs, const PackedQ4_0& block, std::size_t run) {
  unpack(pairs, block.codes[run]);
}

// Formats with levels.
template <class Packed>
requires requires {
  Packed::kLevels;
}
inline void unpack(Pairs& pairs, const Packed& block, std::size_t run) {
  unpack(pairs, block.codes[run]);
  const __m512i levels = _mm512_xor_si512(  // + 128
      _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(Packed::kLevels.data()))),
      _mm512_set1_epi8(static_cast<char>(0x80)));
  const __m512i high_byte = _mm512_set1_epi16(static_cast<short>(0x8000));  // of a half: index 128 makes it 0
#pragma GCC unroll 16
  for (std::size_t i = 0; i < 16; ++i) pairs[i] = _mm512_shuffle_epi8(levels, _mm512_or_si512(pairs[i], high_byte));
}

// ---- Scales ----

// The factors of sub-block `sub` of a block.
struct Scales {
  __m512 scale;
  __m512 min;  // where Packed::kMins
};
struct BlockScales {  // what they all share
  __m512 d, dmin;
};

inline BlockScales block_scales(const PackedQ4K& block) {
  return {halves_to_floats(block.d), halves_to_floats(block.dmin)};
}
inline Scales scales_of(const PackedQ4K& block, const BlockScales& shared, std::size_t sub) {
  return {_mm512_mul_ps(shared.d, bytes_to_floats(block.scales[sub])),
          _mm512_mul_ps(shared.dmin, bytes_to_floats(block.mins[sub]))};
}

inline BlockScales block_scales(const PackedQ6K& block) {
  return {halves_to_floats(block.d), _mm512_setzero_ps()};
}
inline Scales scales_of(const PackedQ6K& block, const BlockScales& shared, std::size_t sub) {
  return {_mm512_mul_ps(shared.d, bytes_to_floats(block.scales[sub])), _mm512_setzero_ps()};
}

inline BlockScales block_scales(const PackedIQ4XS& block) {
  return {halves_to_floats(block.d), _mm512_setzero_ps()};
}
inline Scales scales_of(const PackedIQ4XS& block, const BlockScales& shared, std::size_t sub) {
  return {_mm512_mul_ps(shared.d, bytes_to_floats(block.scales[sub])), _mm512_setzero_ps()};
}

// These share nothing.
inline BlockScales block_scales(const PackedQ8_0&) {
  return {_mm512_setzero_ps(), _mm512_setzero_ps()};
}
inline BlockScales block_scales(const PackedQ4_0&) {
  return {_mm512_setzero_ps(), _mm512_setzero_ps()};
}
inline BlockScales block_scales(const PackedMXFP4&) {
  return {_mm512_setzero_ps(), _mm512_setzero_ps()};
}
inline Scales scales_of(const PackedQ8_0& block, const BlockScales&, std::size_t sub) {
  return {halves_to_floats(block.d[sub]), _mm512_setzero_ps()};
}
inline Scales scales_of(const PackedQ4_0& block, const BlockScales&, std::size_t sub) {
  return {halves_to_floats(block.d[sub]), _mm512_setzero_ps()};
}
// mxfp4_scale(): 2^(exponent - 127) / 2, where exponent 0 is a subnormal and 255 a NaN.
inline Scales scales_of(const PackedMXFP4& block, const BlockScales&, std::size_t sub) {
  const __m512i exponents = bytes_to_ints(block.exponents[sub]);
  __m512i bits = _mm512_slli_epi32(exponents, 23);
  bits = _mm512_mask_mov_epi32(bits, _mm512_cmpeq_epi32_mask(exponents, _mm512_setzero_si512()),
                               _mm512_set1_epi32(0x00400000));
  bits = _mm512_mask_mov_epi32(bits, _mm512_cmpeq_epi32_mask(exponents, _mm512_set1_epi32(255)),
                               _mm512_set1_epi32(0x7fc00000));
  return {_mm512_mul_ps(_mm512_castsi512_ps(bits), _mm512_set1_ps(0.5f)), _mm512_setzero_ps()};
}
