// Elementary functions on vectors, and the loop that applies them to rows of any width.
// Included once a target: see Highway's guide on -inl.h files.

#if defined(QNEXT_KERNELS_SIMD_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef QNEXT_KERNELS_SIMD_MATH_INL_H_
#undef QNEXT_KERNELS_SIMD_MATH_INL_H_
#else
#define QNEXT_KERNELS_SIMD_MATH_INL_H_
#endif

#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

#include <cstddef>

#include "base/units.h"

HWY_BEFORE_NAMESPACE();
namespace qnext {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// work(d, i) for i over `range` in steps of d's lanes: whole vectors, then single lanes for what is left. Lanes do not
// mix in an elementwise op, so an element's result does not depend on where a range was cut, and nothing is overread.
template <class Work>
HWY_INLINE void for_each_vector(Range range, const Work& work) {
  const hn::ScalableTag<float> d;
  const hn::CappedTag<float, 1> one_lane;
  std::size_t i = range.begin;
  for (; i + hn::Lanes(d) <= range.end; i += hn::Lanes(d)) work(d, i);
  for (; i < range.end; ++i) work(one_lane, i);
}

// e^x within 1.5 ulp for every float: subnormal results are rounded once, overflow gives infinity, NaN stays NaN.
// (Highway's own Exp turns NaN into 0 and is only valid up to 104.)
template <class D, class V = hn::Vec<D>>
HWY_INLINE V exp(D d, V x) {
  const hn::RebindToSigned<D> di;
  // Beyond these the result is 0 and infinity. In this order the x86 instructions hand a NaN on.
  x = hn::Min(hn::Set(d, 89.0f), hn::Max(hn::Set(d, -104.0f), x));
  // x = n ln 2 + r, |r| <= ln(2) / 2; ln 2 in two parts, the upper so short that n times it is exact.
  const auto n = hn::NearestInt(hn::Mul(x, hn::Set(d, 1.44269504f)));
  const V whole = hn::ConvertTo(d, n);
  V r = hn::NegMulAdd(whole, hn::Set(d, 0x1.63p-1f), x);
  r = hn::NegMulAdd(whole, hn::Set(d, -2.12194440e-4f), r);
  // Taylor's series to r^7 / 7!: the rest is below 5.3e-9 of e^r.
  V tail = hn::Set(d, 1.0f / 5040.0f);
  tail = hn::MulAdd(tail, r, hn::Set(d, 1.0f / 720.0f));
  tail = hn::MulAdd(tail, r, hn::Set(d, 1.0f / 120.0f));
  tail = hn::MulAdd(tail, r, hn::Set(d, 1.0f / 24.0f));
  tail = hn::MulAdd(tail, r, hn::Set(d, 1.0f / 6.0f));
  tail = hn::MulAdd(tail, r, hn::Set(d, 0.5f));
  const V power = hn::Add(hn::Set(d, 1.0f), hn::MulAdd(hn::Mul(r, r), tail, r));
  // 2^n in two factors: n reaches -150 and 128, beyond what one exponent holds.
  const auto half = hn::ShiftRight<1>(n);
  const auto bias = hn::Set(di, 127);
  const V lower = hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(half, bias)));
  const V upper = hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(hn::Sub(n, half), bias)));
  return hn::Mul(hn::Mul(power, lower), upper);
}

// 1 / (1 + e^-x). From e^-|x| <= 1, so that nothing overflows and small results keep their accuracy.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V sigmoid(D d, V x) {
  const V one = hn::Set(d, 1.0f);
  const V e = exp(d, hn::Neg(hn::Abs(x)));
  return hn::Div(hn::IfThenElse(hn::Lt(x, hn::Zero(d)), e, one), hn::Add(one, e));
}

template <class D, class V = hn::Vec<D>>
HWY_INLINE V silu(D d, V x) {
  return hn::Mul(x, sigmoid(d, x));
}

// log(1 + e^x), and x itself above 20 as the reference has it.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V softplus(D d, V x) {
  return hn::IfThenElse(hn::Gt(x, hn::Set(d, 20.0f)), x, hn::Log1p(d, exp(d, x)));
}

}  // namespace HWY_NAMESPACE
}  // namespace qnext
HWY_AFTER_NAMESPACE();

#endif  // the include guard's toggle
