// Vector decoders of weights: one struct a format with
//   kStep        elements that are decoded together; divides kDotBlock and kChunk (matmul.cc)
//   kStepBytes   their bytes
//   kParts       a step is cut into so many equal parts
//   Step(bytes)  unpacks what the parts share; Step::part(p, emit) then calls emit(k, v) for each vector of part p in
//                order: v has the values k .. k + kLanes of the step
// The parts let a caller interleave several rows, whose sums would otherwise each wait for their own last addition.
// The values are those of tensor/block_formats.h to the bit: the same operations in the same order, but that a
// multiplication which is exact in f32 (few bits times few bits) is fused with the subtraction that follows.

#include <cstddef>
#include <cstdint>

#include "tensor/block_formats.h"

#if defined(QNEXT_SIMD_DECODE_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef QNEXT_SIMD_DECODE_INL_H
#undef QNEXT_SIMD_DECODE_INL_H
#else
#define QNEXT_SIMD_DECODE_INL_H
#endif

HWY_BEFORE_NAMESPACE();
namespace qnext::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using FloatTag = hn::ScalableTag<float>;
using IntTag = hn::RebindToSigned<FloatTag>;
using UintTag = hn::RebindToUnsigned<FloatTag>;
using FloatVec = hn::Vec<FloatTag>;
using UintVec = hn::Vec<UintTag>;
inline constexpr std::size_t kLanes = HWY_LANES(float);

using ByteTag = hn::CappedTag<std::uint8_t, 32>;  // formats interleave their bits in runs of 32 bytes (or 16)
using ByteTag16 = hn::CappedTag<std::uint8_t, 16>;
inline constexpr std::size_t kByteLanes = HWY_LANES(std::uint8_t) < 32 ? HWY_LANES(std::uint8_t) : 32;

// ---- Loads and conversions ----

HWY_INLINE const std::uint8_t* as_bytes(const std::byte* bytes) {
  return reinterpret_cast<const std::uint8_t*>(bytes);
}

// kLanes bytes as unsigned numbers.
HWY_INLINE UintVec load_words(const std::uint8_t* bytes) {
  return hn::PromoteTo(UintTag(), hn::LoadU(hn::Rebind<std::uint8_t, UintTag>(), bytes));
}

// kLanes signed bytes as floats.
HWY_INLINE FloatVec load_codes(const std::int8_t* codes) {
  const auto bytes = hn::LoadU(hn::Rebind<std::int8_t, IntTag>(), codes);
  return hn::ConvertTo(FloatTag(), hn::PromoteTo(IntTag(), bytes));
}

HWY_INLINE FloatVec to_float(UintVec words) {
  return hn::ConvertTo(FloatTag(), hn::BitCast(IntTag(), words));
}

using HalfTag = hn::Rebind<std::uint16_t, UintTag>;  // kLanes f16 numbers, as bits
using HalfVec = hn::Vec<HalfTag>;

// Highway's conversion where the hardware has one; else ours, which keeps infinities and NaNs.
HWY_INLINE FloatVec halves_to_floats(HalfVec halves) {
#if HWY_TARGET == HWY_SSE4
  const UintVec words = hn::PromoteTo(UintTag(), halves);
  const UintVec magnitude = hn::ShiftLeft<13>(hn::And(words, hn::Set(UintTag(), 0x7fffu)));
  // Read as f32 the exponent is too small by 112; the product also normalises what is subnormal in f16.
  const FloatVec finite = hn::Mul(hn::BitCast(FloatTag(), magnitude), hn::Set(FloatTag(), 0x1p112f));
  const UintVec all_ones_exponent = hn::Set(UintTag(), 0x7c00u << 13);
  const auto special = hn::Eq(hn::And(magnitude, all_ones_exponent), all_ones_exponent);
  const UintVec infinite = hn::IfThenElseZero(special, hn::Set(UintTag(), 0x7f800000u));
  const UintVec sign = hn::ShiftLeft<16>(hn::And(words, hn::Set(UintTag(), 0x8000u)));
  return hn::BitCast(FloatTag(), hn::Or(hn::Or(hn::BitCast(UintTag(), finite), infinite), sign));
#else
  return hn::PromoteTo(FloatTag(), hn::BitCast(hn::Rebind<hwy::float16_t, FloatTag>(), halves));
#endif
}

HWY_INLINE FloatVec load_halves(const std::uint8_t* bytes) {
  return halves_to_floats(hn::LoadU(HalfTag(), reinterpret_cast<const std::uint16_t*>(bytes)));
}

// One f16 number in every lane.
HWY_INLINE FloatVec set_half(std::uint16_t half) {
#if HWY_TARGET == HWY_SSE4
  return hn::Set(FloatTag(), f16_to_f32(half));
#else
  const hn::Rebind<hwy::float16_t, FloatTag> half_tag;
  return hn::PromoteTo(FloatTag(), hn::BitCast(half_tag, hn::Set(hn::RebindToUnsigned<decltype(half_tag)>(), half)));
#endif
}

// Makes the compiler read the array from memory again. Left to itself it remembers the vectors just stored there and
// gets their elements by shuffles, of which a CPU does one a cycle; a load can broadcast or widen at two a cycle.
template <class T, std::size_t kCount>
HWY_INLINE void keep_in_memory(T (&array)[kCount]) {
#if HWY_COMPILER_GCC || HWY_COMPILER_CLANG
  asm("" : "+m"(array));
#endif
}

// scale * code for `count` codes.
template <class Emit>
HWY_INLINE void emit_scaled(std::size_t k, const std::int8_t* codes, std::size_t count, FloatVec scale, Emit emit) {
  for (std::size_t i = 0; i < count; i += kLanes) emit(k + i, hn::Mul(scale, load_codes(codes + i)));
}

// scale * code - min. The product is exact: scales have at most 17 bits, codes 5.
template <class Emit>
HWY_INLINE void emit_affine(std::size_t k, const std::int8_t* codes, std::size_t count, FloatVec scale, FloatVec min,
                            Emit emit) {
  for (std::size_t i = 0; i < count; i += kLanes) emit(k + i, hn::MulSub(scale, load_codes(codes + i), min));
}

// ---- Values of 4-bit codes ----
// With 16 lanes the sixteen values that a scale gives fit one register: they are computed once a sub-block, and a
// lookup (which reads 4 bits of each lane and ignores the rest) replaces masking, converting and multiplying.

#if HWY_TARGET == HWY_AVX3

HWY_INLINE FloatVec lookup_16(FloatVec table, UintVec words) {
  return hn::TableLookupLanes(table, hn::Indices512<float>{words.raw});
}

struct AffineCodes {  // scale * code - min
  FloatVec table;
  HWY_INLINE AffineCodes(FloatVec scale, FloatVec min) : table(hn::MulSub(scale, hn::Iota(FloatTag(), 0.0f), min)) {}
  HWY_INLINE FloatVec operator()(UintVec words) const { return lookup_16(table, words); }
};

#else

struct AffineCodes {
  FloatVec scale, min;
  HWY_INLINE AffineCodes(FloatVec sub_scale, FloatVec sub_min) : scale(sub_scale), min(sub_min) {}
  HWY_INLINE FloatVec operator()(UintVec words) const {
    return hn::MulSub(scale, to_float(hn::And(words, hn::Set(UintTag(), 0xfu))), min);
  }
};

#endif

// 32 codes in 16 bytes, halves: scale * levels[code].
template <class Emit>
HWY_INLINE void emit_halves(std::size_t k, const std::uint8_t* bytes, FloatVec scale,
                            const std::array<std::int8_t, 16>& levels, Emit emit) {
#if HWY_TARGET == HWY_AVX3
  const FloatVec table = hn::Mul(scale, load_codes(levels.data()));
  const UintVec words = load_words(bytes);
  emit(k, lookup_16(table, words));
  emit(k + 16, lookup_16(table, hn::ShiftRight<4>(words)));
#else
  const ByteTag16 tag;
  const auto table = hn::LoadU(tag, reinterpret_cast<const std::uint8_t*>(levels.data()));
  const auto packed = hn::LoadU(tag, bytes);
  alignas(16) std::uint8_t codes[32];
  hn::Store(hn::TableLookupBytes(table, hn::And(packed, hn::Set(tag, 0xf))), tag, codes);
  hn::Store(hn::TableLookupBytes(table, hn::ShiftRight<4>(packed)), tag, codes + 16);
  emit_scaled(k, reinterpret_cast<const std::int8_t*>(codes), 32, scale, emit);
#endif
}

// 32 codes in halves, d * code + m (as Q4_1): the product is exact.
template <class Emit>
HWY_INLINE void emit_halves_affine(const std::uint8_t* bytes, FloatVec d, FloatVec m, Emit emit) {
  const AffineCodes value(d, hn::Neg(m));
  for (std::size_t i = 0; i < 16; i += kLanes) emit(i, value(load_words(bytes + i)));
  for (std::size_t i = 0; i < 16; i += kLanes) emit(16 + i, value(hn::ShiftRight<4>(load_words(bytes + i))));
}

// ---- Plain types ----

// The Step of a format without parts.
template <class Format>
struct WholeStep {
  const std::byte* bytes;

  template <class Emit>
  HWY_INLINE void part(std::size_t, Emit emit) const {
    Format::decode(bytes, emit);
  }
};

template <class Element, DType kDType>
struct PlainFormat {
  static constexpr DType kType = kDType;
  static constexpr std::size_t kStep = 4 * kLanes;
  static constexpr std::size_t kStepBytes = kStep * sizeof(Element);
  static constexpr std::size_t kParts = 1;
};

struct FormatF32 : PlainFormat<float, DType::kF32> {
  using Step = WholeStep<FormatF32>;

  template <class Emit>
  static HWY_INLINE void decode(const std::byte* bytes, Emit emit) {
    for (std::size_t k = 0; k < kStep; k += kLanes) {
      emit(k, hn::LoadU(FloatTag(), reinterpret_cast<const float*>(bytes) + k));
    }
  }
};

struct FormatF16 : PlainFormat<std::uint16_t, DType::kF16> {
  using Step = WholeStep<FormatF16>;

  template <class Emit>
  static HWY_INLINE void decode(const std::byte* bytes, Emit emit) {
    for (std::size_t k = 0; k < kStep; k += kLanes) emit(k, load_halves(as_bytes(bytes) + 2 * k));
  }
};

struct FormatBF16 : PlainFormat<std::uint16_t, DType::kBF16> {
  using Step = WholeStep<FormatBF16>;

  template <class Emit>
  static HWY_INLINE void decode(const std::byte* bytes, Emit emit) {
    for (std::size_t k = 0; k < kStep; k += kLanes) {
      const auto halves = hn::LoadU(hn::Rebind<std::uint16_t, UintTag>(),
                                    reinterpret_cast<const std::uint16_t*>(as_bytes(bytes) + 2 * k));
      emit(k, hn::BitCast(FloatTag(), hn::ShiftLeft<16>(hn::PromoteTo(UintTag(), halves))));
    }
  }
};

// A step is as wide as a scale's block, so that it has one scale.
struct FormatF8E4M3 {
  static constexpr DType kType = DType::kF8E4M3;
  static constexpr std::size_t kStep = kFp8ScaleBlock;
  static constexpr std::size_t kStepBytes = kStep;
  static constexpr std::size_t kParts = 2;

  struct Step {
    const std::byte* bytes;
    float scale;

    template <class Emit>
    HWY_INLINE void part(std::size_t p, Emit emit) const {
      const FloatVec factor = hn::Set(FloatTag(), scale * 0x1p8f);
      for (std::size_t k = 64 * p; k < 64 * (p + 1); k += 2 * kLanes) {
        const auto halves = load_as_halves(as_bytes(bytes) + k);
        emit(k, hn::Mul(halves_to_floats(hn::LowerHalf(HalfTag(), halves)), factor));
        emit(k + kLanes, hn::Mul(halves_to_floats(hn::UpperHalf(HalfTag(), halves)), factor));
      }
    }
  };

  using HalvesTag = hn::Repartition<std::uint16_t, FloatTag>;

  // 2 * kLanes numbers times 2^-8, which f16 holds exactly: its exponent has one bit more, and its bias is 8 more.
  // Subnormals become subnormals.
  static HWY_INLINE hn::Vec<HalvesTag> load_as_halves(const std::uint8_t* bytes) {
    const HalvesTag tag;
    const auto codes = hn::PromoteTo(tag, hn::LoadU(hn::Rebind<std::uint8_t, HalvesTag>(), bytes));
    const auto signed_codes = hn::BitCast(hn::RebindToSigned<HalvesTag>(), hn::ShiftLeft<8>(codes));
    const auto spread = hn::BitCast(tag, hn::ShiftRight<1>(signed_codes));  // the sign stays, and comes once more
    const auto is_nan = hn::Eq(hn::And(codes, hn::Set(tag, 0x7f)), hn::Set(tag, 0x7f));
    return hn::Or(hn::And(spread, hn::Set(tag, 0xbf80)), hn::IfThenElseZero(is_nan, hn::Set(tag, 0x7fff)));
  }
};

// ---- Blocks of 32 ----

template <class BlockT, DType kDType>
struct BlockFormat {
  using Block = BlockT;
  static constexpr DType kType = kDType;
  static constexpr std::size_t kStep = sizeof(Block) > 2 * kSmallBlock ? kSuperBlock : kSmallBlock;
  static constexpr std::size_t kStepBytes = sizeof(Block);
  static constexpr std::size_t kParts = kStep == kSuperBlock ? 4 : 1;

  // Blocks are read in place: the structs are packed, so that any address will do.
  static HWY_INLINE const Block& at(const std::byte* bytes) { return *reinterpret_cast<const Block*>(bytes); }
};

inline constexpr std::array<std::int8_t, 16> kQ4Levels = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7};

struct FormatQ4_0 : BlockFormat<BlockQ4_0, DType::kQ4_0> {
  using Step = WholeStep<FormatQ4_0>;

  template <class Emit>
  static HWY_INLINE void decode(const std::byte* bytes, Emit emit) {
    emit_halves(0, at(bytes).codes, set_half(at(bytes).d), kQ4Levels, emit);
  }
};

struct FormatIQ4_NL : BlockFormat<BlockIQ4_NL, DType::kIQ4_NL> {
  using Step = WholeStep<FormatIQ4_NL>;

  template <class Emit>
  static HWY_INLINE void decode(const std::byte* bytes, Emit emit) {
    emit_halves(0, at(bytes).codes, set_half(at(bytes).d), kIq4Levels, emit);
  }
};

struct FormatMXFP4 : BlockFormat<BlockMXFP4, DType::kMXFP4> {
  using Step = WholeStep<FormatMXFP4>;

  template <class Emit>
  static HWY_INLINE void decode(const std::byte* bytes, Emit emit) {
    emit_halves(0, at(bytes).codes, hn::Set(FloatTag(), mxfp4_scale(at(bytes).exponent)), kMxfp4Levels, emit);
  }
};

struct FormatQ4_1 : BlockFormat<BlockQ4_1, DType::kQ4_1> {
  using Step = WholeStep<FormatQ4_1>;

  template <class Emit>
  static HWY_INLINE void decode(const std::byte* bytes, Emit emit) {
    emit_halves_affine(at(bytes).codes, set_half(at(bytes).d), set_half(at(bytes).m), emit);
  }
};

struct FormatQ8_0 : BlockFormat<BlockQ8_0, DType::kQ8_0> {
  using Step = WholeStep<FormatQ8_0>;

  template <class Emit>
  static HWY_INLINE void decode(const std::byte* bytes, Emit emit) {
    emit_scaled(0, at(bytes).codes, 32, set_half(at(bytes).d), emit);
  }
};

// codes[i] = 5-bit code i - offset, for Q5_0 and Q5_1.
HWY_INLINE void unpack_five_bits(std::int8_t* codes, const std::uint8_t* nibbles, const std::uint8_t* high_bits,
                                 std::uint8_t offset) {
  // Lanes 0-7 test the bits of one byte of high_bits, lanes 8-15 those of the next.
  alignas(16) static constexpr std::uint8_t kByteOf[2][16] = {{0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1},
                                                              {2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3}};
  alignas(16) static constexpr std::uint8_t kBitOf[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
  const ByteTag16 tag;
  std::uint32_t bits;
  std::memcpy(&bits, high_bits, sizeof(bits));
  const auto all_bits = hn::BitCast(tag, hn::Set(hn::Repartition<std::uint32_t, ByteTag16>(), bits));
  const auto packed = hn::LoadU(tag, nibbles);
  const auto bit_of = hn::Load(tag, kBitOf);
  for (std::size_t half = 0; half < 2; ++half) {
    const auto low = half == 0 ? hn::And(packed, hn::Set(tag, 0xf)) : hn::ShiftRight<4>(packed);
    const auto tested = hn::And(hn::TableLookupBytes(all_bits, hn::Load(tag, kByteOf[half])), bit_of);
    const auto high = hn::IfThenElseZero(hn::Eq(tested, bit_of), hn::Set(tag, 16));
    hn::StoreU(hn::Sub(hn::Or(low, high), hn::Set(tag, offset)), tag,
               reinterpret_cast<std::uint8_t*>(codes) + 16 * half);
  }
}

struct FormatQ5_0 : BlockFormat<BlockQ5_0, DType::kQ5_0> {
  using Step = WholeStep<FormatQ5_0>;

  template <class Emit>
  static HWY_INLINE void decode(const std::byte* bytes, Emit emit) {
    std::int8_t codes[32];
    unpack_five_bits(codes, at(bytes).codes, as_bytes(bytes) + offsetof(Block, high_bits), 16);
    emit_scaled(0, codes, 32, set_half(at(bytes).d), emit);
  }
};

struct FormatQ5_1 : BlockFormat<BlockQ5_1, DType::kQ5_1> {
  using Step = WholeStep<FormatQ5_1>;

  template <class Emit>
  static HWY_INLINE void decode(const std::byte* bytes, Emit emit) {
    std::int8_t codes[32];
    unpack_five_bits(codes, at(bytes).codes, as_bytes(bytes) + offsetof(Block, high_bits), 0);
    emit_affine(0, codes, 32, set_half(at(bytes).d), hn::Neg(set_half(at(bytes).m)), emit);
  }
};

}  // namespace qnext::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
