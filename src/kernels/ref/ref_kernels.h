#pragma once
// The reference kernels: plain scalar C++ with double sums. Each add_ function fills its ops' pointers of the table.
// They specify results, not speed; unlike the fast tables they may allocate.

#include "kernels/kernels.h"

namespace qnext {

void add_matmul(KernelTable& table);     // decode_rows, matmul
void add_experts(KernelTable& table);    // route_top_k, expert_hidden, expert_output
void add_rows(KernelTable& table);       // rms_norm .. add_gated
void add_delta_net(KernelTable& table);  // causal_conv_silu, delta_gates, delta_rule_step, delta_rule_chunk
void add_attention(KernelTable& table);  // store_kv, attend

}  // namespace qnext
