// Products of packed weights with AMX: tiles for many tokens, AVX-512 VNNI for few.

#include "kernels/x86/packed.h"

#if defined(__x86_64__)

#include <cpuid.h>
#include <hwy/base.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

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
HWY_PUSH_ATTRIBUTES("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,amx-tile,amx-int8")
namespace qnext {
namespace {

#include "kernels/x86/packed_lanes512-inl.h"
//
#include "kernels/x86/packed_products-inl.h"
//
#include "kernels/x86/packed_tiles-inl.h"

// The CPU's tiles, as EmulatedTiles. The tile's number is part of an instruction.
struct AmxTiles {
  static void configure(const TileConfig& config) { asm volatile("ldtilecfg %0" : : "m"(config)); }
  static void release() { asm volatile("tilerelease"); }

  template <int kTile>
  static void zero() {
    asm volatile("tilezero %%tmm%c0" : : "i"(kTile));
  }
  template <int kTile>
  static void load(const void* p, std::size_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(p), "r"(stride), "i"(kTile) : "memory");
  }
  template <int kTile>
  static void store(void* p, std::size_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(p), "r"(stride), "i"(kTile) : "memory");
  }
  template <int kC, int kA, int kB>
  static void add_unsigned_products() {
    asm volatile("tdpbuud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kC), "i"(kA), "i"(kB));
  }
  template <int kC, int kA, int kB>
  static void add_signed_products() {
    asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kC), "i"(kA), "i"(kB));
  }
};

}  // namespace
}  // namespace qnext
HWY_POP_ATTRIBUTES
#ifndef __clang__
#pragma GCC diagnostic pop
#endif

namespace qnext {
namespace {

// Tiles are large: a process asks the kernel before its threads may use them. Source: Linux,
// Documentation/arch/x86/xstate.rst.
bool allow_tiles() {
  constexpr unsigned kTileBit = 1u << 24, kInt8Bit = 1u << 25;  // CPUID 7, 0: EDX
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return false;
  if ((edx & kTileBit) == 0 || (edx & kInt8Bit) == 0) return false;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return ::syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

}  // namespace

const PackedProducts* amx_products() {
  return vnni_products() != nullptr && allow_tiles() ? &kProducts<InTiles<AmxTiles>> : nullptr;
}

}  // namespace qnext

#endif
