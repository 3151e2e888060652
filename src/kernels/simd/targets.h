#pragma once
// Which instruction sets the kernels are compiled for. Include this before any header of Highway's.
//
// x86: SSE4, AVX2 and AVX-512 (Highway's AVX3). A CPU without SSE4.2 runs the reference table: Highway's own fallback
// (one lane, many ops missing) would cost every kernel a second form. arm64: NEON; its SVE vectors have no constant
// width, which the register tiles need.

#if defined(__x86_64__)
#define HWY_BASELINE_TARGETS HWY_SSE4
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_AVX3_DL)
#elif defined(__aarch64__)
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128)
#endif
