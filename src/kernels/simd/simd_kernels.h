#pragma once
// The Highway kernels. Each function fills its ops' pointers with those of the target that Highway has chosen at the
// time of the call (dispatch.cc chooses one after the other, and so builds a table a target).

#include "kernels/kernels.h"

namespace qnext {

void add_simd_matmul(KernelTable& table);       // decode_rows, matmul, expert_hidden, expert_output
void add_simd_rows(KernelTable& table);         // rms_norm .. add_gated, route_top_k
void add_simd_delta_net(KernelTable& table);    // causal_conv_silu, delta_gates, delta_rule_step
void add_simd_delta_chunk(KernelTable& table);  // delta_rule_chunk
// store_kv, attend; has_vnni: the CPU has AVX-512 VNNI, and the table may use it
void add_simd_attention(KernelTable& table, bool has_vnni);

}  // namespace qnext
