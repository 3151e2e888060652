#!/usr/bin/env python3
"""Writes a Qwen3-Next of the real widths with few layers and random weights, as GGUF: for measuring speed, here and in
llama.cpp. Weights are one random block of data over and over; only their sizes and magnitudes are a model's.

usage: tools/make_synthetic.py OUT.gguf --tokenizer tokenizer.json [--layers 4] [--type q4_k|q4_0|q8_0|bf16] [--experts 512]
                               [--mtp X | --dense]

--dense: layers of Qwen3-32B's shapes, to compare with.

--mtp X adds an MTP block that passes the last token's embedding on, and multiplies every layer's output by X. 0: layers cost
what they cost and change nothing, so that the block always guesses what the trunk says.
"""
import argparse
import array
import json
import os
import random
import struct

# name: GGUF's number, values and bytes of a block, its f16 scales as (offset, value for standard deviation 1)
TYPES = {
    "f32": (0, 1, 4, ()),
    "q4_0": (2, 32, 18, ((0, 1 / 4.6),)),
    "q8_0": (8, 32, 34, ((0, 1 / 73.9),)),
    "q4_k": (12, 256, 144, ((0, 1 / 188), (2, 7.5 / 188))),
    "q6_k": (14, 256, 210, ((208, 1 / 1367),)),
    "bf16": (30, 1, 2, ()),
}
POOL_BLOCKS = 1 << 14
H, V, HEADS, KV_HEADS, HEAD = 2048, 151936, 16, 2, 256  # hidden size, vocabulary, attention
K_HEADS, V_HEADS, STATE = 16, 32, 128  # delta net
USED, WIDTH, ROPE = 10, 512, 64  # experts a token, their width, rotary dimensions


def text(value):
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def field(key, value):
    """A metadata field: int as u32, float as f32, str, bool, or a list of strings or of ints (i32)."""
    if isinstance(value, bool):
        return text(key) + struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return text(key) + struct.pack("<II", 4, value)
    if isinstance(value, float):
        return text(key) + struct.pack("<If", 6, value)
    if isinstance(value, str):
        return text(key) + struct.pack("<I", 8) + text(value)
    if isinstance(value[0], str):
        return text(key) + struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
    return text(key) + struct.pack("<IIQ", 9, 5, len(value)) + array.array("i", value).tobytes()


def tokenizer_fields(path):
    with open(path, encoding="utf-8") as file:
        tokenizer = json.load(file)
    tokens, kinds = [f"[PAD{i}]" for i in range(V)], [5] * V
    for token, token_id in tokenizer["model"]["vocab"].items():
        tokens[token_id], kinds[token_id] = token, 1
    for token in tokenizer["added_tokens"]:
        tokens[token["id"]], kinds[token["id"]] = token["content"], 3 if token["special"] else 4
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]]
    return {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "qwen2", "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": kinds, "tokenizer.ggml.merges": merges, "tokenizer.ggml.eos_token_id": 151645,
            "tokenizer.ggml.padding_token_id": 151643, "tokenizer.ggml.add_bos_token": False}


# Qwen3-32B: hidden size, query and K/V heads, their width, and the feed-forward's
DENSE_H, DENSE_HEADS, DENSE_KV_HEADS, DENSE_HEAD, DENSE_WIDTH = 5120, 64, 8, 128, 25600


def dense_metadata(args):
    arch = {"block_count": args.layers, "context_length": 262144, "embedding_length": DENSE_H, "feed_forward_length": DENSE_WIDTH,
            "attention.head_count": DENSE_HEADS, "attention.head_count_kv": DENSE_KV_HEADS, "rope.freq_base": 1e6,
            "attention.layer_norm_rms_epsilon": 1e-6, "attention.key_length": DENSE_HEAD, "attention.value_length": DENSE_HEAD}
    return {"general.architecture": "qwen3", "general.name": "synthetic qwen3", "general.alignment": 32,
            **{f"qwen3.{key}": value for key, value in arch.items()}, **tokenizer_fields(args.tokenizer)}


def dense_tensors(args):
    """As tensors()."""
    kind, inner, kv = args.type, DENSE_HEADS * DENSE_HEAD, DENSE_KV_HEADS * DENSE_HEAD
    yield "token_embd.weight", (DENSE_H, V), kind, 0.02, 0
    yield "output_norm.weight", (DENSE_H,), "f32", 0.05, 1
    yield "output.weight", (DENSE_H, V), "q6_k" if kind == "q4_k" else kind, 0.02, 0
    for layer in range(args.layers):
        for name, dims in (("attn_q", (DENSE_H, inner)), ("attn_k", (DENSE_H, kv)), ("attn_v", (DENSE_H, kv)), ("attn_output", (inner, DENSE_H)),
                           ("ffn_gate", (DENSE_H, DENSE_WIDTH)), ("ffn_up", (DENSE_H, DENSE_WIDTH)), ("ffn_down", (DENSE_WIDTH, DENSE_H))):
            yield f"blk.{layer}.{name}.weight", dims, kind, 0.02, 0
        for name, width in (("attn_q_norm", DENSE_HEAD), ("attn_k_norm", DENSE_HEAD), ("attn_norm", DENSE_H), ("ffn_norm", DENSE_H)):
            yield f"blk.{layer}.{name}.weight", (width,), "f32", 0.05, 1


def metadata(args):
    mtp = {} if args.mtp is None else {"nextn_predict_layers": 1}
    arch = {"block_count": args.layers + len(mtp), **mtp, "context_length": 262144, "embedding_length": H, "feed_forward_length": 5120,
            "attention.head_count": HEADS, "attention.head_count_kv": KV_HEADS, "rope.freq_base": 1e7,
            "attention.layer_norm_rms_epsilon": 1e-6, "expert_count": args.experts, "expert_used_count": USED,
            "attention.key_length": HEAD, "attention.value_length": HEAD, "expert_feed_forward_length": WIDTH,
            "expert_shared_feed_forward_length": WIDTH, "ssm.conv_kernel": 4, "ssm.state_size": STATE,
            "ssm.group_count": K_HEADS, "ssm.time_step_rank": V_HEADS, "ssm.inner_size": V_HEADS * STATE,
            "full_attention_interval": 4, "rope.dimension_count": ROPE}
    return {"general.architecture": "qwen3next", "general.name": "synthetic qwen3next", "general.alignment": 32,
            **{f"qwen3next.{key}": value for key, value in arch.items()}, **tokenizer_fields(args.tokenizer)}


def tensors(args):
    """name, dimensions (fastest first), type, standard deviation, mean; f32 with a negative mean stays below 0. A deviation
    of None: the identity, and zeros beside it."""
    norm = 0.05 if args.mtp is None else 0  # the trunk's last norm and the block's are alike
    scale = 1 if args.mtp is None else args.mtp
    kind = args.type
    channels, inner = 2 * K_HEADS * STATE + V_HEADS * STATE, V_HEADS * STATE
    yield "token_embd.weight", (H, V), kind, 0.02 if args.mtp is None else 1, 0
    yield "output_norm.weight", (H,), "f32", norm, 1
    yield "output.weight", (H, V), "q6_k" if kind == "q4_k" else kind, 0.02, 0
    num_blocks = args.layers if args.mtp is None else args.layers + 1
    for layer in range(num_blocks):
        if layer % 4 == 3 or layer == args.layers:
            mixer = [("attn_q", (H, 2 * HEADS * HEAD)), ("attn_k", (H, KV_HEADS * HEAD)), ("attn_v", (H, KV_HEADS * HEAD)),
                     ("attn_output", (HEADS * HEAD, H))]
            small = [("attn_q_norm.weight", (HEAD,), 0.05, 1), ("attn_k_norm.weight", (HEAD,), 0.05, 1)]
        else:
            mixer = [("attn_qkv", (H, channels)), ("attn_gate", (H, inner)), ("ssm_ba", (H, 2 * V_HEADS)), ("ssm_out", (inner, H))]
            small = [("ssm_conv1d.weight", (4, channels), 0.3, 0), ("ssm_dt.bias", (V_HEADS,), 0.5, 0),
                     ("ssm_a", (V_HEADS,), 0.2, -1), ("ssm_norm.weight", (STATE,), 0.05, 1)]
        small += [("attn_norm.weight", (H,), 0.05, 1), ("post_attention_norm.weight", (H,), 0.05, 1),
                  ("ffn_gate_inp.weight", (H, args.experts), 0.05, 0), ("ffn_gate_inp_shexp.weight", (H,), 0.05, 0)]
        ffn = [("ffn_gate_exps", (H, WIDTH, args.experts)), ("ffn_up_exps", (H, WIDTH, args.experts)),
               ("ffn_down_exps", (WIDTH, H, args.experts)), ("ffn_gate_shexp", (H, WIDTH)), ("ffn_up_shexp", (H, WIDTH)),
               ("ffn_down_shexp", (WIDTH, H))]
        for name, dims in mixer + ffn:
            is_out = name in ("attn_output", "ssm_out", "ffn_down_exps", "ffn_down_shexp")
            deviation = (0.02 if (name, dims) in mixer else 0.03) * (scale if is_out else 1)
            yield f"blk.{layer}.{name}.weight", dims, kind, deviation, 0
        for name, dims, deviation, mean in small:
            yield f"blk.{layer}.{name}", dims, "f32", deviation, mean
    if args.mtp is not None:
        yield f"blk.{args.layers}.nextn.eh_proj.weight", (2 * H, H), "f32", None, 0
        for name in ("enorm", "hnorm", "shared_head_norm"):
            yield f"blk.{args.layers}.nextn.{name}.weight", (H,), "f32", 0, 1


def block_pool(kind, deviation, source):
    _, _, block_bytes, scales = TYPES[kind]
    pool = bytearray(source.randbytes(POOL_BLOCKS * block_bytes))
    for offset, value in scales:
        half = struct.pack("<e", deviation * value)
        pool[offset::block_bytes] = half[:1] * POOL_BLOCKS
        pool[offset + 1::block_bytes] = half[1:] * POOL_BLOCKS
    return pool


def write_values(file, kind, count, deviation, mean, source, pools):
    if deviation is None:
        data = b"".join(struct.pack(f"<{2 * H}f", *(float(i == row) for i in range(2 * H))) for row in range(H))
    elif kind == "f32":
        values = [source.gauss(mean, deviation) for _ in range(min(count, 65536))]
        values = [-abs(value) for value in values] if mean < 0 else values
        data = array.array("f", values).tobytes()
    elif kind == "bf16":
        values = array.array("H", array.array("f", [source.gauss(0, deviation) for _ in range(65536)]).tobytes())
        data = values[1::2].tobytes()
    else:
        if (kind, deviation) not in pools:
            pools[kind, deviation] = block_pool(kind, deviation, source)
        data = pools[kind, deviation]
    left = bytes_of(kind, count)
    while left > 0:
        left -= file.write(data[:left])


def bytes_of(kind, count):
    return count // TYPES[kind][1] * TYPES[kind][2]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--type", choices=("q4_k", "q4_0", "q8_0", "bf16"), default="q4_k")
    parser.add_argument("--experts", type=int, default=512)
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--mtp", type=float)
    other.add_argument("--dense", action="store_true")
    args = parser.parse_args()
    source, pools, offset, head, entries = random.Random(0), {}, 0, b"", []
    for name, dims, kind, deviation, mean in (dense_tensors if args.dense else tensors)(args):
        count = 1
        for dim in dims:
            count *= dim
        head += text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, TYPES[kind][0], offset)
        entries.append((kind, count, deviation, mean))
        offset += -(-bytes_of(kind, count) // 32) * 32
    fields = (dense_metadata if args.dense else metadata)(args)
    part = args.out + ".part"
    with open(part, "wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", 3, len(entries), len(fields)))
        file.write(b"".join(field(key, value) for key, value in fields.items()) + head)
        for kind, count, deviation, mean in entries:
            file.write(bytes(-file.tell() % 32))
            write_values(file, kind, count, deviation, mean, source, pools)
    os.rename(part, args.out)
    print(f"{args.out}: {args.layers} layers, {offset / 2**30:.2f} GiB of random {args.type}")


if __name__ == "__main__":
    main()
