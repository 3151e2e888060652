// Products of packed weights with AVX-512 VNNI.

#include "kernels/x86/packed.h"

#if defined(__x86_64__)

#include <hwy/base.h>
#include <immintrin.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <utility>

#include "base/check.h"
#include "kernels/x86/packed_formats.h"

// gcc 12 takes the undefined operands inside its own intrinsics for ours.
#ifndef __clang__
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
HWY_PUSH_ATTRIBUTES("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")
namespace qnext {
namespace {

#include "kernels/x86/packed_lanes512-inl.h"
//
#include "kernels/x86/packed_products-inl.h"

}  // namespace
}  // namespace qnext
HWY_POP_ATTRIBUTES
#ifndef __clang__
#pragma GCC diagnostic pop
#endif

namespace qnext {

const PackedProducts* vnni_products() {
  return __builtin_cpu_supports("avx512vnni") ? &kProducts<InRegisters> : nullptr;
}

}  // namespace qnext

#endif
