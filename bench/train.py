#!/usr/bin/env python3
"""Training speed beside Hugging Face transformers: the same model, batch and threads, in turns.

    build/venv/bin/python3 -m venv /tmp/hf && /tmp/hf/bin/pip install -r bench/requirements-train.txt
    /tmp/hf/bin/python bench/train.py --qnext build/release/qnext

Prints a JSON line: tokens/s of each, by round, and the ratio of medians. transformers runs its PyTorch fallback of the
gated delta rule, as it does on every CPU.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import tempfile
import time

import numpy
import safetensors.numpy
import torch
import transformers

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
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    fields = {name: value for name, value in config.items() if name not in ("architectures", "model_type")}
    model = transformers.Qwen3NextForCausalLM(transformers.Qwen3NextConfig(**fields))
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    rates = []
    for step in range(args.steps):
        at = step * args.sequences * args.length
        batch = torch.tensor(tokens[at:at + args.sequences * args.length].reshape(args.sequences, args.length))
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
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        text = folder / "text.txt"
        text.write_text("a")
        subprocess.run([args.qnext, "data", "pack", folder / "data.safetensors", text, "--tokenizer", TOKENIZER], check=True,
                       capture_output=True)
        with safetensors.safe_open(folder / "data.safetensors", "numpy") as shard:
            metadata = shard.metadata()
        num_documents = args.steps * args.sequences
        tokens = numpy.random.default_rng(0).integers(0, int(metadata["vocab_size"]), num_documents * args.length)
        safetensors.numpy.save_file(
            {"tokens": tokens.astype(numpy.int32), "learned": numpy.ones(tokens.size, numpy.uint8),
             "bounds": numpy.arange(num_documents + 1, dtype=numpy.int64) * args.length},
            folder / "data.safetensors", metadata)
        config = model_config(int(metadata["vocab_size"]))
        ours, theirs = [], []
        for _ in range(args.rounds):
            ours.append(run_qnext(args, folder, config))
            theirs.append(run_transformers(args, config, tokens))
    print(json.dumps({"qnext_tokens_per_s": ours, "transformers_tokens_per_s": theirs,
                      "ratio": statistics.median(ours) / statistics.median(theirs), "torch": torch.__version__,
                      "transformers": transformers.__version__, "threads": args.threads, "precision": args.precision}))


if __name__ == "__main__":
    main()
