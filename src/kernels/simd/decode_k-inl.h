// Decoders of the formats with blocks of 256 (decode-inl.h says what a decoder is).

#include "kernels/simd/decode-inl.h"

#if defined(QNEXT_SIMD_DECODE_K_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef QNEXT_SIMD_DECODE_K_INL_H
#undef QNEXT_SIMD_DECODE_K_INL_H
#else
#define QNEXT_SIMD_DECODE_K_INL_H
#endif

HWY_BEFORE_NAMESPACE();
namespace qnext::HWY_NAMESPACE {

// out[i] = d * scales[i], 16 of them.
HWY_INLINE void scale_sixteen(float* out, const std::int8_t* scales, std::uint16_t d) {
  const FloatVec d_vec = set_half(d);
  for (std::size_t i = 0; i < 16; i += kLanes) {
    hn::Store(hn::Mul(d_vec, load_codes(scales + i)), FloatTag(), out + i);
  }
}

// 2-bit codes of Q2_K and Q3_K: `take(byte vector, run of 32 elements, offset in the run)` makes a code of each.
template <class Take>
HWY_INLINE void unpack_two_bits(std::int8_t* out, const std::uint8_t* packed, const Take& take) {
  const ByteTag tag;
  auto* codes = reinterpret_cast<std::uint8_t*>(out);
  for (std::size_t half = 0; half < 2; ++half) {
    for (std::size_t j = 0; j < 32; j += kByteLanes) {
      auto bits = hn::LoadU(tag, packed + 32 * half + j);
      for (std::size_t pair = 0; pair < 4; ++pair, bits = hn::ShiftRight<2>(bits)) {
        const std::size_t run = 4 * half + pair;
        hn::StoreU(take(hn::And(bits, hn::Set(tag, 0x3)), run, j), tag, codes + 32 * run + j);
      }
    }
  }
}

struct FormatQ2_K : BlockFormat<BlockQ2_K, DType::kQ2_K> {
  struct Take {
    template <class V>
    HWY_INLINE V operator()(V low, std::size_t, std::size_t) const {
      return low;
    }
  };

  struct Step {
    alignas(64) float scales[16];
    alignas(64) float mins[16];
    alignas(64) std::int8_t codes[kSuperBlock];

    HWY_INLINE explicit Step(const std::byte* bytes) {
      const Block& block = at(bytes);
      const ByteTag16 tag;
      const auto scales_mins = hn::LoadU(tag, block.scales_mins);
      alignas(16) std::uint8_t sub[2][16];  // scales, mins
      hn::Store(hn::And(scales_mins, hn::Set(tag, 0xf)), tag, sub[0]);
      hn::Store(hn::ShiftRight<4>(scales_mins), tag, sub[1]);
      scale_sixteen(scales, reinterpret_cast<const std::int8_t*>(sub[0]), block.d);
      scale_sixteen(mins, reinterpret_cast<const std::int8_t*>(sub[1]), block.dmin);
      unpack_two_bits(codes, block.codes, Take());
      keep_in_memory(scales);
      keep_in_memory(mins);
      keep_in_memory(codes);
    }

    template <class Emit>
    HWY_INLINE void part(std::size_t p, Emit emit) const {
      HWY_UNROLL(4)
      for (std::size_t s = 4 * p; s < 4 * (p + 1); ++s) {
        emit_affine(16 * s, codes + 16 * s, 16, hn::Set(FloatTag(), scales[s]), hn::Set(FloatTag(), mins[s]), emit);
      }
    }
  };
};

struct FormatQ3_K : BlockFormat<BlockQ3_K, DType::kQ3_K> {
  struct Take {
    const std::uint8_t* high_bits;
    template <class V>
    HWY_INLINE V operator()(V low, std::size_t run, std::size_t offset) const {
      const ByteTag tag;
      const auto bit = hn::Set(tag, static_cast<std::uint8_t>(1u << run));
      const auto is_set = hn::Eq(hn::And(hn::LoadU(tag, high_bits + offset), bit), bit);
      return hn::Sub(low, hn::IfThenZeroElse(is_set, hn::Set(tag, 4)));  // the high bit is worth 4, the offset is 4
    }
  };

  struct Step {
    alignas(64) float scales[16];
    alignas(64) std::int8_t codes[kSuperBlock];

    HWY_INLINE explicit Step(const std::byte* bytes) {
      const Block& block = at(bytes);
      scale_sixteen(scales, unpack_q3_k_scales(block.scales).data(), block.d);
      unpack_two_bits(codes, block.codes, Take{block.high_bits});
      keep_in_memory(scales);
      keep_in_memory(codes);
    }

    template <class Emit>
    HWY_INLINE void part(std::size_t p, Emit emit) const {
      HWY_UNROLL(4)
      for (std::size_t s = 4 * p; s < 4 * (p + 1); ++s) {
        emit_scaled(16 * s, codes + 16 * s, 16, hn::Set(FloatTag(), scales[s]), emit);
      }
    }
  };
};

// The products d * scale (sub[0 .. 8)) and dmin * min (sub[8 .. 16)) of a Q4_K or Q5_K block. As unpack_scales_mins(),
// but the four words at once, and never through a scalar register: a K-quantised dot product spends its time here.
template <class Block>
HWY_INLINE void scale_sub_blocks(float* sub, const Block& block) {
  static_assert(offsetof(Block, dmin) == 2 && offsetof(Block, scales_mins) == 4);
  const hn::Full128<std::uint32_t> tag;
  alignas(16) static constexpr std::uint8_t kFirst[16] = {0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7};
  alignas(16) static constexpr std::uint8_t kLast[16] = {8, 9, 10, 11, 8, 9, 10, 11, 8, 9, 10, 11, 8, 9, 10, 11};
  alignas(16) static constexpr std::uint32_t kFirstShift[4] = {0, 2, 0, 2};
  alignas(16) static constexpr std::uint32_t kFirstMask[4] = {0x3f3f3f3f, 0x30303030, 0x3f3f3f3f, 0x30303030};
  alignas(16) static constexpr std::uint32_t kLastShift[4] = {0, 0, 0, 4};
  alignas(16) static constexpr std::uint32_t kLastMask[4] = {0, 0x0f0f0f0f, 0, 0x0f0f0f0f};
  // Reads 4 bytes of what follows the scales in the block.
  const auto packed = hn::LoadU(tag, reinterpret_cast<const std::uint32_t*>(block.scales_mins));
  const auto first = hn::TableLookupBytes(packed, hn::Load(tag, reinterpret_cast<const std::uint32_t*>(kFirst)));
  const auto last = hn::TableLookupBytes(packed, hn::Load(tag, reinterpret_cast<const std::uint32_t*>(kLast)));
  const auto words = hn::Or(hn::And(hn::Shr(first, hn::Load(tag, kFirstShift)), hn::Load(tag, kFirstMask)),
                            hn::And(hn::Shr(last, hn::Load(tag, kLastShift)), hn::Load(tag, kLastMask)));
  alignas(16) std::uint8_t bytes[16];
  hn::Store(hn::BitCast(ByteTag16(), words), ByteTag16(), bytes);
#if HWY_TARGET == HWY_AVX3
  alignas(64) static constexpr std::int32_t kDOrDmin[16] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1};
  const FloatVec halves = load_halves(reinterpret_cast<const std::uint8_t*>(&block));
  const FloatVec d_dmin = hn::TableLookupLanes(halves, hn::SetTableIndices(FloatTag(), kDOrDmin));
  hn::Store(hn::Mul(d_dmin, to_float(load_words(bytes))), FloatTag(), sub);
#else
  const FloatVec d = set_half(block.d);
  const FloatVec dmin = set_half(block.dmin);
  for (std::size_t i = 0; i < 8; i += kLanes) {
    hn::Store(hn::Mul(d, to_float(load_words(bytes + i))), FloatTag(), sub + i);
    hn::Store(hn::Mul(dmin, to_float(load_words(bytes + 8 + i))), FloatTag(), sub + 8 + i);
  }
#endif
}

struct FormatQ4_K : BlockFormat<BlockQ4_K, DType::kQ4_K> {
  struct Step {
    const Block& block;
    alignas(64) float sub[16];

    HWY_INLINE explicit Step(const std::byte* bytes) : block(at(bytes)) {
      scale_sub_blocks(sub, block);
      keep_in_memory(sub);
    }

    template <class Emit>
    HWY_INLINE void part(std::size_t p, Emit emit) const {
      const AffineCodes low(hn::Set(FloatTag(), sub[2 * p]), hn::Set(FloatTag(), sub[2 * p + 8]));
      const AffineCodes high(hn::Set(FloatTag(), sub[2 * p + 1]), hn::Set(FloatTag(), sub[2 * p + 9]));
      const std::uint8_t* codes = block.codes + 32 * p;
      const std::size_t k = 64 * p;
      for (std::size_t j = 0; j < 32; j += kLanes) emit(k + j, low(load_words(codes + j)));
      for (std::size_t j = 0; j < 32; j += kLanes) emit(k + 32 + j, high(hn::ShiftRight<4>(load_words(codes + j))));
    }
  };
};

struct FormatQ5_K : BlockFormat<BlockQ5_K, DType::kQ5_K> {
  struct Step {
    alignas(64) float sub[16];
    alignas(64) std::int8_t codes[kSuperBlock];

    HWY_INLINE explicit Step(const std::byte* bytes) {
      scale_sub_blocks(sub, at(bytes));
      unpack(codes, at(bytes));
      keep_in_memory(sub);
      keep_in_memory(codes);
    }

    template <class Emit>
    HWY_INLINE void part(std::size_t p, Emit emit) const {
      HWY_UNROLL(4)
      for (std::size_t s = 2 * p; s < 2 * (p + 1); ++s) {
        const FloatVec scale = hn::Set(FloatTag(), sub[s]);
        emit_affine(32 * s, codes + 32 * s, 32, scale, hn::Set(FloatTag(), sub[s + 8]), emit);
      }
    }
  };

  static HWY_INLINE void unpack(std::int8_t* out, const Block& block) {
    const ByteTag tag;
    auto* codes = reinterpret_cast<std::uint8_t*>(out);
    for (std::size_t c = 0; c < 4; ++c) {
      for (std::size_t j = 0; j < 32; j += kByteLanes) {
        const auto packed = hn::LoadU(tag, block.codes + 32 * c + j);
        const auto high_bits = hn::LoadU(tag, block.high_bits + j);
        const auto sixteen_where = [&](std::size_t s) HWY_ATTR {
          const auto bit = hn::Set(tag, static_cast<std::uint8_t>(1u << s));
          return hn::IfThenElseZero(hn::Eq(hn::And(high_bits, bit), bit), hn::Set(tag, 16));
        };
        const auto low = hn::And(packed, hn::Set(tag, 0xf));
        hn::Store(hn::Or(low, sixteen_where(2 * c)), tag, codes + 64 * c + j);
        hn::Store(hn::Or(hn::ShiftRight<4>(packed), sixteen_where(2 * c + 1)), tag, codes + 64 * c + 32 + j);
      }
    }
  }
};

struct FormatQ6_K : BlockFormat<BlockQ6_K, DType::kQ6_K> {
  // Where runs of 32 codes lie once unpacked: run r of half h (elements 128h + 32r ..) at kHalf * h + kRun * r.
#if HWY_TARGET == HWY_AVX3
  static constexpr std::size_t kHalf = 32, kRun = 64;  // one vector has the run of both halves
#else
  static constexpr std::size_t kHalf = 128, kRun = 32;
#endif

  struct Step {
    alignas(64) float scales[16];
    alignas(64) std::int8_t codes[kSuperBlock];

    HWY_INLINE explicit Step(const std::byte* bytes) {
      scale_sixteen(scales, at(bytes).scales, at(bytes).d);
      unpack(codes, at(bytes));
      keep_in_memory(scales);
      keep_in_memory(codes);
    }

    template <class Emit>
    HWY_INLINE void part(std::size_t p, Emit emit) const {
      HWY_UNROLL(4)
      for (std::size_t s = 4 * p; s < 4 * (p + 1); ++s) {
        const std::int8_t* sub_block = codes + kHalf * (s / 8) + kRun * (s / 2 % 4) + 16 * (s % 2);
        emit_scaled(16 * s, sub_block, 16, hn::Set(FloatTag(), scales[s]), emit);
      }
    }
  };

  static HWY_INLINE void unpack(std::int8_t* codes, const Block& block) {
#if HWY_TARGET == HWY_AVX3
    const hn::ScalableTag<std::uint8_t> tag;
    const ByteTag half_tag;
    const auto low0 = hn::Combine(tag, hn::LoadU(half_tag, block.low_bits + 64), hn::LoadU(half_tag, block.low_bits));
    const auto low1 =
        hn::Combine(tag, hn::LoadU(half_tag, block.low_bits + 96), hn::LoadU(half_tag, block.low_bits + 32));
    store_runs(codes, tag, low0, low1, hn::LoadU(tag, block.high_bits));
#else
    const ByteTag tag;
    for (std::size_t h = 0; h < 2; ++h) {
      for (std::size_t j = 0; j < 32; j += kByteLanes) {
        const std::uint8_t* low_bits = block.low_bits + 64 * h + j;
        store_runs(codes + kHalf * h + j, tag, hn::LoadU(tag, low_bits), hn::LoadU(tag, low_bits + 32),
                   hn::LoadU(tag, block.high_bits + 32 * h + j));
      }
    }
#endif
  }

  // The codes, less 32, of the four runs whose low bits are in low0 and low1 (two each) and high bits in `high`.
  template <class Tag, class V>
  static HWY_INLINE void store_runs(std::int8_t* out, Tag tag, V low0, V low1, V high) {
    auto* codes = reinterpret_cast<std::uint8_t*>(out);
    const V nibble = hn::Set(tag, 0xf);
    const V two_bits = hn::Set(tag, 0x30);
    const V offset = hn::Set(tag, 32);
    const V run0 = hn::Or(hn::And(low0, nibble), hn::And(hn::ShiftLeft<4>(high), two_bits));
    const V run1 = hn::Or(hn::And(low1, nibble), hn::And(hn::ShiftLeft<2>(high), two_bits));
    const V run2 = hn::Or(hn::ShiftRight<4>(low0), hn::And(high, two_bits));
    const V run3 = hn::Or(hn::ShiftRight<4>(low1), hn::And(hn::ShiftRight<2>(high), two_bits));
    hn::StoreU(hn::Sub(run0, offset), tag, codes);
    hn::StoreU(hn::Sub(run1, offset), tag, codes + kRun);
    hn::StoreU(hn::Sub(run2, offset), tag, codes + 2 * kRun);
    hn::StoreU(hn::Sub(run3, offset), tag, codes + 3 * kRun);
  }
};

struct FormatIQ4_XS : BlockFormat<BlockIQ4_XS, DType::kIQ4_XS> {
  struct Step {
    const Block& block;
    float d;

    HWY_INLINE explicit Step(const std::byte* bytes) : block(at(bytes)), d(f16_to_f32(block.d)) {}

    template <class Emit>
    HWY_INLINE void part(std::size_t p, Emit emit) const {
      HWY_UNROLL(4)
      for (std::size_t s = 2 * p; s < 2 * (p + 1); ++s) {
        const FloatVec scale = hn::Set(FloatTag(), d * static_cast<float>(iq4_xs_scale(block, s)));
        emit_halves(32 * s, block.codes + 16 * s, scale, kIq4Levels, emit);
      }
    }
  };
};

}  // namespace qnext::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
