#pragma once
// The two memories of a sequence, as the network sees them: K/V pages for attention layers, state slots for Gated
// DeltaNet layers. The engine owns the bytes and decides who has which page and slot.

#include <algorithm>
#include <cstddef>
#include <span>

#include "base/result.h"
#include "base/units.h"
#include "kernels/kernels.h"
#include "model/config.h"
#include "tensor/view.h"

namespace qnext {

inline constexpr DType kKvTypes[] = {DType::kF32, DType::kI16, DType::kBF16, DType::kQ8_0};

// Errors: a type that no cache has, or whose blocks do not divide a head's width.
inline Status check_kv_type(const ModelConfig& config, DType type) {
  const DTypeInfo& info = dtype_info(type);
  if (std::ranges::find(kKvTypes, type) == std::end(kKvTypes)) {
    return error("kv_type: found {}, expected f32, i16, bf16 or q8_0", info.name);
  }
  if (type == DType::kI16 && config.Dh > kMaxI16Width) {
    return error("kv_type: i16 takes heads of at most {} values, and this model's are {} wide; take f32", kMaxI16Width,
                 config.Dh);
  }
  if (config.Dh % info.block_elements == 0) return success();
  return error("kv_type: {} keeps {} values together, and this model's heads are {} wide; take bf16", info.name,
               info.block_elements, config.Dh);
}

// K/V of all attention layers (and of the MTP block, the last one). A page holds every layer's K and V for page_tokens
// positions, so that one page id is all that a sequence needs:
//   page : [num_kv_layers][keys, values][Hkv, page_tokens, Dh], for i16 each followed by its scales [Hkv, page_tokens]
struct KvStore {
  std::byte* data = nullptr;
  DType type = DType::kF32;  // one that check_kv_type is content with
  std::size_t page_tokens = 0;
  std::size_t num_kv_layers = 0;
  std::size_t Hkv = 0, Dh = 0;

  static KvStore shape_for(const ModelConfig& config, DType type, std::size_t page_tokens) {
    return {.data = nullptr,
            .type = type,
            .page_tokens = page_tokens,
            .num_kv_layers = config.num_layers_of(MixerKind::kAttention) + (config.has_mtp ? 1 : 0),
            .Hkv = config.Hkv,
            .Dh = config.Dh};
  }
  std::size_t half_layer_bytes() const { return kv_bytes(type, page_tokens * Hkv, Dh); }
  std::size_t page_bytes() const { return num_kv_layers * 2 * half_layer_bytes(); }

  KvPages layer(std::size_t kv_layer_idx, std::span<const PageId> pages) const {
    std::byte* keys = data + kv_layer_idx * 2 * half_layer_bytes();
    return {.keys = keys,
            .values = keys + half_layer_bytes(),
            .page_stride_bytes = page_bytes(),
            .page_tokens = page_tokens,
            .pages = pages,
            .type = type,
            .num_kv_heads = Hkv,
            .head_dim = Dh};
  }
};

// Recurrent and conv state of all Gated DeltaNet layers, f32. A slot is one sequence's:
//   slot : [num_delta_layers] { recurrent [Hv, Dk, Dv], conv history [taps - 1, C], oldest first }
// A slot of zeros is the state before the first token.
struct StateStore {
  float* data = nullptr;
  std::size_t num_delta_layers = 0;
  std::size_t Hv = 0, Dk = 0, Dv = 0;
  std::size_t history = 0;  // conv taps - 1
  std::size_t C = 0;

  static StateStore shape_for(const ModelConfig& config) {
    return {.data = nullptr,
            .num_delta_layers = config.num_layers_of(MixerKind::kGatedDeltaNet),
            .Hv = config.Hv,
            .Dk = config.Dk,
            .Dv = config.Dv,
            .history = config.conv_taps == 0 ? 0 : config.conv_taps - 1,
            .C = config.C()};
  }
  std::size_t layer_floats() const { return Hv * Dk * Dv + history * C; }
  std::size_t slot_floats() const { return num_delta_layers * layer_floats(); }

  View<float> recurrent(StateSlotId slot, std::size_t delta_layer_idx) const {
    return {data + slot.value * slot_floats() + delta_layer_idx * layer_floats(), {Hv, Dk, Dv}};
  }
  View<float> conv_history(StateSlotId slot, std::size_t delta_layer_idx) const {
    return {data + slot.value * slot_floats() + delta_layer_idx * layer_floats() + Hv * Dk * Dv, {history, C}};
  }
  void copy_layer(StateSlotId to, StateSlotId from, std::size_t delta_layer_idx) const {
    const float* source = data + from.value * slot_floats() + delta_layer_idx * layer_floats();
    std::copy_n(source, layer_floats(), data + to.value * slot_floats() + delta_layer_idx * layer_floats());
  }
};

struct Caches {
  KvStore kv;
  StateStore state;
};

}  // namespace qnext
