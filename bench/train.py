#!/usr/bin/env python3
"""Training speed beside Hugging Face transformers: the same model, batch and threads, in turns. Or what training takes of
memory.

    build/venv/bin/python3 -m venv /tmp/hf && /tmp/hf/bin/pip install -r bench/requirements-train.txt
    /tmp/hf/bin/python bench/train.py --qnext build/release/qnext
    build/venv/bin/python3 bench/train.py --memory

Prints a JSON line: tokens/s of each, by round, and the ratio of medians. transformers runs its PyTorch fallback of the
gated delta rule, as it does on every CPU. With --memory, which needs neither torch nor transformers: two steps of a model
of over 200 M parameters on documents of 2,048 tokens, layers recomputed in the backward pass and not, and the most memory
that the process had resident, checkpoints and export included.
"""
import argparse
import importlib.metadata
import json
import math
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import numpy

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOKENIZER = ROOT / "tests/data/text/tokenizer-small/tokenizer.json"


def model_config(vocab_size):  # 29 M parameters, 6 M of them active
    return {
        "architectures": ["Qwen3NextForCausalLM"], "model_type": "qwen3_next", "vocab_size": vocab_size, "hidden_size": 256,
        "intermediate_size": 256, "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64,
        "hidden_act": "silu", "attention_bias": False, "max_position_embeddings": 4096, "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False, "rope_theta": 10000.0, "partial_rotary_factor": 0.25, "full_attention_interval": 4,
        "linear_conv_kernel_dim": 4, "linear_key_head_dim": 64, "linear_value_head_dim": 64, "linear_num_key_heads": 4,
        "linear_num_value_heads": 8, "decoder_sparse_step": 1, "mlp_only_layers": [], "num_experts": 32,
        "num_experts_per_tok": 4, "moe_intermediate_size": 128, "shared_expert_intermediate_size": 128,
        "norm_topk_prob": True}


def large_config(vocab_size):  # 255 M parameters with the MTP block
    return {**model_config(vocab_size), "hidden_size": 768, "intermediate_size": 768, "num_hidden_layers": 12,
            "num_attention_heads": 12, "linear_num_key_heads": 6, "linear_num_value_heads": 12, "num_experts": 12,
            "num_experts_per_tok": 2, "moe_intermediate_size": 512, "shared_expert_intermediate_size": 512}


def header_of(path):
    """A safetensors file's."""
    with open(path, "rb") as file:
        return json.loads(file.read(int.from_bytes(file.read(8), "little")))


def write_shard(args, folder, num_documents, length):
    """Documents of random tokens as folder/data.safetensors; returns the tokens and the vocabulary's size."""
    (folder / "text.txt").write_text("a")
    shard = folder / "data.safetensors"
    subprocess.run([args.qnext, "data", "pack", shard, folder / "text.txt", "--tokenizer", TOKENIZER], check=True, capture_output=True)
    metadata = header_of(shard)["__metadata__"]
    tokens = numpy.random.default_rng(0).integers(0, int(metadata["vocab_size"]), num_documents * length).astype(numpy.int32)
    tensors = {"bounds": ("I64", numpy.arange(num_documents + 1, dtype=numpy.int64) * length), "tokens": ("I32", tokens),
               "learned": ("U8", numpy.ones(tokens.size, numpy.uint8))}
    header, at = {"__metadata__": metadata}, 0
    for name, (kind, values) in tensors.items():
        header[name] = {"dtype": kind, "shape": [values.size], "data_offsets": [at, at + values.nbytes]}
        at += values.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    shard.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(values.tobytes() for _, values in tensors.values()))
    return tokens, int(metadata["vocab_size"])


def measure_memory(args, folder):
    length, steps = 2048, 2
    write_shard(args, folder, steps, length)
    out = {"tokens": length, "threads": args.threads, "precision": args.precision}
    for recompute in (True, False):
        recipe, run = folder / "memory.json", folder / f"recompute-{recompute}"
        recipe.write_text(json.dumps({
            "model": large_config(vocab_size=16384), "tokenizer": str(TOKENIZER), "data": ["data.safetensors"], "steps": steps,
            "batch_tokens": length, "context_tokens": length, "schedule": {"learning_rate": 1e-4}, "recompute": recompute,
            "precision": args.precision, "checkpoint_steps": steps}))
        process = subprocess.Popen([args.qnext, "train", recipe, "--out", run, "--threads", str(args.threads)],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            sys.exit(f"train: qnext train ended with exit code {process.returncode}: {recipe.read_text()}")
        out["parameters"] = sum(math.prod(tensor["shape"]) for name, tensor in header_of(run / "model.safetensors").items()
                                if name != "__metadata__")
        steps_log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        key = "recomputed" if recompute else "kept"
        out[f"{key}_peak_gib"] = usage.ru_maxrss / (1 << 20)  # Linux: KiB
        out[f"{key}_tokens_per_s"] = steps_log[-1]["tokens_per_s"]
        shutil.rmtree(run)
    print(json.dumps(out))


def run_qnext(args, folder, config):
    with open(folder / "recipe.json", "w", encoding="utf-8") as file:
        json.dump({"model": config, "tokenizer": str(TOKENIZER), "data": ["data.safetensors"], "steps": args.steps,
                   "batch_tokens": args.sequences * args.length, "context_tokens": args.length,
                   "schedule": {"learning_rate": 1e-4}, "balance": {"weight": 0}, "mtp": {"steps": 0},
                   "precision": args.precision,
                   "checkpoint_steps": 1 << 29}, file)
    out = folder / f"run-{time.monotonic_ns()}"
    subprocess.run([args.qnext, "train", folder / "recipe.json", "--out", out, "--threads", str(args.threads)],
                   check=True, capture_output=True)
    steps = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return statistics.median(step["tokens_per_s"] for step in steps[1:])


def run_transformers(args, config, tokens):
    import torch
    import transformers
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    fields = {name: value for name, value in config.items() if name not in ("architectures", "model_type")}
    model = transformers.Qwen3NextForCausalLM(transformers.Qwen3NextConfig(**fields))
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    rates = []
    for step in range(args.steps):
        at = step * args.sequences * args.length
        batch = torch.tensor(tokens[at:at + args.sequences * args.length].reshape(args.sequences, args.length), dtype=torch.int64)
        begin = time.monotonic()
        optimizer.zero_grad(set_to_none=True)
        model(input_ids=batch, labels=batch, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rates.append(batch.numel() / (time.monotonic() - begin))
    return statistics.median(rates[1:])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qnext", default=ROOT / "build/release/qnext", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4, help="of a round; the first is not counted")
    parser.add_argument("--precision", default="f32", choices=("f32", "bf16"), help="of qnext's products; transformers' are f32")
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--memory", action="store_true", help="measure memory, not speed")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        if args.memory:
            measure_memory(args, folder)
            return
        tokens, vocab_size = write_shard(args, folder, args.steps * args.sequences, args.length)
        config = model_config(vocab_size)
        ours, theirs = [], []
        for _ in range(args.rounds):
            ours.append(run_qnext(args, folder, config))
            theirs.append(run_transformers(args, config, tokens))
    print(json.dumps({"qnext_tokens_per_s": ours, "transformers_tokens_per_s": theirs,
                      "ratio": statistics.median(ours) / statistics.median(theirs),
                      **{name: importlib.metadata.version(name) for name in ("torch", "transformers")}, "threads": args.threads, "precision": args.precision}))


if __name__ == "__main__":
    main()
