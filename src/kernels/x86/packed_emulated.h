#pragma once
// Products in emulated tiles, for the tests of products: what AMX's are written as, on every CPU with AVX2.

#include "kernels/kernels.h"

namespace qnext {

const PackedProducts* emulated_products();

}  // namespace qnext
