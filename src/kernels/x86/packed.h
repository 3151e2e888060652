#pragma once
// Products of packed weights (kernels.h, PackedProducts). x86 only.

#include "kernels/kernels.h"

namespace qnext {

const PackedProducts* avx2_products();  // for CPUs with AVX2, FMA and F16C
const PackedProducts* vnni_products();  // null where the CPU lacks AVX-512 VNNI; the CPU has AVX-512 F, BW, DQ and VL
const PackedProducts*
amx_products();  // null where that, or AMX with 8-bit integers, or the OS's permission, is lacking

}  // namespace qnext
