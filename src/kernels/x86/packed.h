#pragma once
// Products of packed weights (kernels.h, PackedProducts) for CPUs with AVX-512 VNNI. x86 only.

#include "kernels/kernels.h"

namespace qnext {

// What this CPU runs them with, or null when it lacks AVX-512 VNNI.
const PackedProducts* vnni_products();

}  // namespace qnext
