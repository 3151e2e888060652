// Products in emulated tiles, with AVX2 around them: all of the AMX table that other CPUs can run.

#include "kernels/x86/packed_emulated.h"

#if defined(__x86_64__)

#include <hwy/base.h>
#include <immintrin.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "base/check.h"
#include "kernels/x86/packed_formats.h"
#include "kernels/x86/tiles.h"

// gcc 12 takes the undefined operands inside its own intrinsics for ours.
#ifndef __clang__
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
HWY_PUSH_ATTRIBUTES("avx2,fma,f16c")
namespace qnext {
namespace {

#include "kernels/x86/packed_lanes256-inl.h"
//
#include "kernels/x86/packed_products-inl.h"
//
#include "kernels/x86/packed_tiles-inl.h"

}  // namespace
}  // namespace qnext
HWY_POP_ATTRIBUTES
#ifndef __clang__
#pragma GCC diagnostic pop
#endif

namespace qnext {

const PackedProducts* emulated_products() {
  const bool has = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  return has ? &kProducts<InTiles<EmulatedTiles>> : nullptr;
}

}  // namespace qnext

#else

namespace qnext {

const PackedProducts* emulated_products() {
  return nullptr;
}

}  // namespace qnext

#endif
