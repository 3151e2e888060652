// The vectors of packed products, AVX-512 with VNNI: a group's 16 rows at once. packed_lanes256-inl.h has the same
// names.

using Ints = __m512i;  // 32 bits a lane, or pairs of 16
using Floats = __m512;
inline constexpr std::size_t kLanes = 16;

// Into a register, once: gcc would rather load again for every use.
inline void keep(Ints& v) {
  asm("" : "+v"(v));
}
// Vector `part` of those at p.
inline Ints load(const void* p, std::size_t part) {
  Ints v = _mm512_loadu_si512(static_cast<const Ints*>(p) + part);
  keep(v);
  return v;
}
inline void store(float* p, Floats v) {
  _mm512_storeu_ps(p, v);
}
inline Floats load_floats(const float* p) {
  return _mm512_loadu_ps(p);
}
inline Ints all_ints(std::int32_t v) {
  return _mm512_set1_epi32(v);
}
inline Ints all_halves(int v) {
  return _mm512_set1_epi16(static_cast<short>(v));
}
inline Ints all_bytes(const std::array<std::int8_t, 16>& v) {  // in each 16 bytes
  return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(v.data())));
}
inline Floats all_floats(float v) {
  return _mm512_set1_ps(v);
}
inline Floats halves_to_floats(const std::uint16_t* p, std::size_t part) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p) + part));
}
inline Ints bytes_to_ints(const std::uint8_t* p, std::size_t part) {
  return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p) + part));
}
inline Ints bytes_to_ints(const std::int8_t* p, std::size_t part) {
  return _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p) + part));
}
inline Floats to_floats(Ints v) {
  return _mm512_cvtepi32_ps(v);
}
inline Floats as_floats(Ints bits) {
  return _mm512_castsi512_ps(bits);
}
inline Ints as_ints(Floats bits) {
  return _mm512_castps_si512(bits);
}
inline Floats multiply(Floats a, Floats b) {
  return _mm512_mul_ps(a, b);
}
inline Floats multiply_add(Floats a, Floats b, Floats sum) {
  return _mm512_fmadd_ps(a, b, sum);
}
inline Floats multiply_subtract(Floats a, Floats b, Floats sum) {  // sum - a * b
  return _mm512_fnmadd_ps(a, b, sum);
}
inline Ints add(Ints a, Ints b) {
  return _mm512_add_epi32(a, b);
}
inline Ints add_products(Ints sum, Ints a, Ints b) {  // of 16 bits, both of a lane
  return _mm512_dpwssd_epi32(sum, a, b);
}
inline Ints bit_and(Ints a, Ints b) {
  return _mm512_and_si512(a, b);
}
inline Ints bit_or(Ints a, Ints b) {
  return _mm512_or_si512(a, b);
}
inline Ints bit_xor(Ints a, Ints b) {
  return _mm512_xor_si512(a, b);
}
inline Ints or_masked(Ints a, Ints b, Ints mask) {  // a | (b & mask)
  return _mm512_ternarylogic_epi32(a, b, mask, 0xf8);
}
template <int kShift>  // of halves, to the left; negative: to the right
inline Ints shift_halves(Ints v) {
  if constexpr (kShift >= 0) return _mm512_slli_epi16(v, kShift);
  return _mm512_srli_epi16(v, kShift < 0 ? -kShift : 0);
}
inline Ints high_bytes_signed(Ints v) {  // of halves
  return _mm512_srai_epi16(v, 8);
}
template <int kShift>
inline Ints shift_ints_left(Ints v) {
  return _mm512_slli_epi32(v, kShift);
}
inline Ints look_up(Ints table, Ints bytes) {  // in 16 bytes each; 0 where a byte's top bit is set
  return _mm512_shuffle_epi8(table, bytes);
}
inline Ints replace_equal(Ints v, Ints keys, std::int32_t key, std::int32_t by) {
  return _mm512_mask_mov_epi32(v, _mm512_cmpeq_epi32_mask(keys, all_ints(key)), all_ints(by));
}
