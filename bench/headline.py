#!/usr/bin/env python3
"""Compares Qwen3-Next-80B-A3B with dense Qwen3-32B in this engine: prefill and decode of both at several contexts, from
synthetic models of their shapes with few layers.

usage: bench/headline.py [--contexts 4096,32768,131072] [--gen 32] [--repeat 2] [--threads N] [--work build/bench]
                         [--tokenizer build/downloads/tokenizer-qwen3/tokenizer.json] [--qnext build/release/qnext] [--json FILE]

A model's time for a token is taken as head + layers * layer, from two files that differ in their number of layers: 4 and 8 of
the hybrid (of 48), 1 and 3 of the dense one (of 64). A prompt of N tokens costs as much as a chunk of 512 at a depth of N/2,
since attention's part grows with depth. Both files of a model, and both models, are measured in turns.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import sys

from peers import QNEXT, run_json

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODELS = {"Qwen3-Next-80B-A3B": {"layers": 48, "few": (4, 8), "options": []},
          "Qwen3-32B": {"layers": 64, "few": (1, 3), "options": ["--dense"]}}


def ensure_file(args, name, layers):
    path = args.work / f"headline-{name}-{layers}.gguf"
    if not path.exists():
        args.work.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, ROOT / "tools/make_synthetic.py", path, "--layers", str(layers), "--tokenizer", args.tokenizer,
                        *MODELS[name]["options"]], check=True, stdout=sys.stderr)
    return path


def milliseconds_a_token(args, path, depth, what):
    """{phase: milliseconds} of one run."""
    threads = [] if args.threads is None else ["--threads", str(args.threads)]
    options = ["--prompt", "512", "--gen", "0"] if what == "prefill" else ["--prompt", "0", "--gen", str(args.gen)]
    report = run_json([str(args.qnext), "bench", str(path), *options, "--depth", str(depth), "--repeat", "1", "--json", *threads])
    return 1000 / report["results"][0]["tokens_per_s"]


def whole_model(args, name, depth, what):
    """Milliseconds a token of all layers: one round."""
    few = MODELS[name]["few"]
    fewer, more = (milliseconds_a_token(args, ensure_file(args, name, layers), depth, what) for layers in few)
    layer = (more - fewer) / (few[1] - few[0])
    return fewer + (MODELS[name]["layers"] - few[0]) * layer


def parse_args():
    def numbers(text):
        try:
            return [int(part) for part in text.split(",")]
        except ValueError as problem:
            raise argparse.ArgumentTypeError(f'expected numbers with commas between, found "{text}"') from problem

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, usage=argparse.SUPPRESS)
    parser.add_argument("--contexts", type=numbers, default=[4096, 32768, 131072])
    parser.add_argument("--gen", type=int, default=32)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("build/bench"))
    parser.add_argument("--tokenizer", default="build/downloads/tokenizer-qwen3/tokenizer.json")
    parser.add_argument("--qnext", type=pathlib.Path, default=QNEXT)
    parser.add_argument("--json", type=pathlib.Path)
    return parser.parse_args()


def main():
    args = parse_args()
    if min(args.contexts) < 2 or args.gen < 1 or args.repeat < 1:
        sys.exit("headline: --contexts are at least 2, --gen and --repeat at least 1")
    hybrid, dense = MODELS
    rows = []
    print(f"{'':>8}  {'context':>7}  {hybrid + ' ms/token':>28}  {dense + ' ms/token':>20}  times as fast")
    for what in ("prefill", "decode"):
        for context in args.contexts:
            depth = context // 2 if what == "prefill" else context
            rounds = [[whole_model(args, name, depth, what) for name in MODELS] for _ in range(args.repeat)]
            ratios = [of_dense / of_hybrid for of_hybrid, of_dense in rounds]
            times = [statistics.median(column) for column in zip(*rounds)]
            print(f"{what:>8}  {context:>7}  {times[0]:>28.1f}  {times[1]:>20.1f}  {statistics.median(ratios):.1f} ({min(ratios):.1f}-{max(ratios):.1f})",
                  flush=True)
            rows.append({"phase": what, "context": context, "hybrid_ms": times[0], "dense_ms": times[1], "ratios": ratios})
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
