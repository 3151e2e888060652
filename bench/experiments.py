#!/usr/bin/env python3
"""Experiments on what the model family's training claims, at a size that two cores train in a minute.

usage: bench/experiments.py NUMBER [--seeds 1,2,3] [--steps 300] [--threads 2] [--qnext build/release/qnext]
                            [--work build/experiments] [--out docs/experiments]

  1  more experts at fixed active ones, balanced over the global batch or over each micro-batch: loss
  2  attention's output gate: attention to a document's first token, largest activation
  3  decay of norm weights: how far they grow from where they began
  4  balanced router rows at the beginning: load of the busiest expert, early loss
  5  multi-step MTP against single-step: guesses of the engine that are right, by depth
  6  3:1 hybrid, all attention, all Gated DeltaNet: loss of text, and recall of a value by its key

Trains each variant once a seed (a run that is in WORK already, of the same recipe, is not done again), prints a table, and
writes OUT/NUMBER.json (of each variant: mean, standard deviation and every seed's value of each measure) and
OUT/NUMBER-*.svg. docs/experiments/ has half a page on each. Needs numpy, which build/venv has.
"""
import argparse
import json
import math
import pathlib
import random
import shutil
import statistics
import subprocess
import sys

import numpy as np

from numpy_forward import Forward, documents, read_safetensors
from serve import QNEXT, Server, free_port

ROOT = pathlib.Path(__file__).resolve().parent.parent
BATCH = 4096
BASE = {
    "model": {
        "architectures": ["Qwen3NextForCausalLM"], "model_type": "qwen3_next", "vocab_size": 2048, "hidden_size": 64,
        "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
        "hidden_act": "silu", "attention_bias": False, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False, "rope_theta": 10000.0, "partial_rotary_factor": 0.5, "full_attention_interval": 4,
        "linear_conv_kernel_dim": 4, "linear_key_head_dim": 32, "linear_value_head_dim": 32, "linear_num_key_heads": 2,
        "linear_num_value_heads": 4, "decoder_sparse_step": 1, "mlp_only_layers": [], "num_experts": 16,
        "num_experts_per_tok": 2, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32, "norm_topk_prob": True,
        "eos_token_id": 2041},
    "batch_tokens": BATCH, "micro_batch_tokens": BATCH, "context_tokens": 512,
    "schedule": {"learning_rate": 4e-3, "warmup_steps": 20, "decay_share": 0.3},
    "balance": {"weight": 1e-2}, "mtp": {"steps": 0}, "checkpoint_steps": 1 << 29}
# Documents for a step, some 4,450 tokens: a run reads each text once.
TEXTS = {"stories": 10, "arithmetic": 7.5, "dialogues": 7.5, "descriptions": 7.5, "facts": 5}
HELD_OUT_STEPS = 20
BEGINNINGS = 256  # of texts that the engine goes on with
TAIL = 50  # steps at the end whose mean is a run's loss
# Of the recall task: a document's pairs, at least and at most; questions, at least; keys and values that there are; how many
# times the steps of texts it is trained for; and with how many pairs it is tested, on how many documents.
PAIRS, QUESTIONS, KEYS, VALUES, PATIENCE, TESTED_PAIRS, TESTS = (2, 64), 32, 128, 32, 5, (4, 8, 16, 24, 32, 48, 64), 16


def fail(text):
    sys.exit(f"experiments: {text}")


class Lab:
    """The program, the folder of data and runs, and what the command line says of every run."""

    def __init__(self, args):
        self.qnext_path, self.work, self.out = args.qnext, args.work.resolve() / f"{args.steps}-steps", args.out
        self.number, self.seeds, self.steps, self.threads = args.number, args.seeds, args.steps, args.threads

    def qnext(self, *args):
        done = subprocess.run([self.qnext_path, *map(str, args)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        if done.returncode != 0:
            fail(f"qnext {args[0]} failed: {done.stderr.decode(errors='replace').strip().splitlines()[-1:]}")

    def prepare(self):
        """A tokenizer of 2,048 tokens, and shards: text, held-out text, and keys with values to be recalled."""
        self.work.mkdir(parents=True, exist_ok=True)
        own = ["--tokenizer", self.work / "tokenizer/tokenizer.json"]
        for split, shard, steps in (("train", "text", max(self.steps, 20)), ("held-out", "held-out", HELD_OUT_STEPS)):
            if (self.work / f"{shard}.safetensors").exists():
                continue
            for kind, count in TEXTS.items():
                self.qnext("data", "synth", "--out", self.work, "--kind", kind, "--count", int(count * steps), "--split", split)
            texts = [self.work / (f"{kind}.jsonl" if split == "train" else f"{kind}.{split}.jsonl") for kind in TEXTS]
            if not own[1].exists():
                self.qnext("data", "tokenizer", own[1].parent, *texts, "--vocab-size", BASE["model"]["vocab_size"])
            self.qnext("data", "pack", self.work / f"{shard}.safetensors", *texts, *own)
        if not (self.work / "pairs.safetensors").exists():
            write_recall(self.work / "pairs.safetensors", self.work / "text.safetensors", PATIENCE * self.steps * BATCH)

    def train(self, name, changes, seed):
        run = self.work / f"{self.number}-{name}-{seed}".replace(",", "").replace(" ", "_")
        changes = dict(changes)
        steps = self.steps * changes.pop("times_steps", 1)
        recipe = merged({"tokenizer": str(self.work / "tokenizer/tokenizer.json"), "data": [str(self.work / "text.safetensors")],
                         "seed": seed, "steps": steps, **BASE}, changes)
        if changes.get("data"):
            recipe["data"] = [str(self.work / f"{shard}.safetensors") for shard in changes["data"]]
        text = json.dumps(recipe, indent=1)
        if not ((run / "model.safetensors").exists() and (run / "recipe.json").read_text() == text):
            shutil.rmtree(run, ignore_errors=True)  # of another recipe, or not finished
            (self.work / "recipe.json").write_text(text)
            print(f"experiments: {run.name}", file=sys.stderr, flush=True)
            self.qnext("train", self.work / "recipe.json", "--out", run, "--type", "f32", "--threads", self.threads)
        return run

    def plot(self, name, runs, file, options):
        logs = [f"{variant.replace(',', '')}={','.join(str(run / file) for run in of)}" for variant, of in runs.items()]
        self.qnext("plot", *logs, *options, "--out", self.out / f"{self.number}-{name}.svg")


def recall_document(dice, num_pairs):
    """Pairs of a key and its value, then every key again, in another order, as often as makes QUESTIONS or more of them, with
    the value that is to be recalled: ids, and which of them those values are. A symbol is a token of its own."""
    keys = dice.sample(range(300, 300 + KEYS), num_pairs)
    values = {key: 300 + KEYS + dice.randrange(VALUES) for key in keys}
    asked = [key for _ in range(-(-QUESTIONS // num_pairs)) for key in dice.sample(keys, num_pairs)]
    return [token for key in keys + asked for token in (key, values[key])], [0, 0] * num_pairs + [0, 1] * len(asked)


def write_recall(path, like, num_tokens):
    """A shard of documents whose numbers of pairs are even on a logarithmic scale; values that are recalled alone are learned."""
    tokens, learned, bounds, dice = [], [], [0], random.Random(1)
    while len(tokens) < num_tokens:
        document = recall_document(dice, round(math.exp(dice.uniform(*map(math.log, PAIRS)))))
        tokens += document[0]
        learned += document[1]
        bounds.append(len(tokens))
    tensors = {"tokens": np.array(tokens, "<i4"), "bounds": np.array(bounds, "<i8"), "learned": np.array(learned, "u1")}
    with open(like, "rb") as shard:  # its metadata name the tokenizer
        header = {"__metadata__": json.loads(shard.read(int.from_bytes(shard.read(8), "little")))["__metadata__"]}
    end = 0
    for (name, values), kind in zip(tensors.items(), ("I32", "I64", "U8")):
        header[name] = {"dtype": kind, "shape": [values.size], "data_offsets": [end, end + values.nbytes]}
        end += values.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(values.tobytes() for values in tensors.values()))


def merged(base, changes):
    out = dict(base)
    for name, value in changes.items():
        out[name] = merged(base[name], value) if isinstance(value, dict) and name in base else value
    return out


def log_of(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def write_points(run, name, points):
    """Lines that `qnext plot` reads, beside the run's log."""
    (run / f"{name}.jsonl").write_text("".join(json.dumps(point) + "\n" for point in points))


def mean_at_end(run, field):
    return statistics.mean(step[field] for step in log_of(run)[-TAIL:])


def loss(run):
    """Of the last steps; each text is read once, so this is text that the model had not seen."""
    return {"loss": mean_at_end(run, "loss")}


# ---- 1 ----

def experts(num_experts, scope):
    return {"model": {"num_experts": num_experts}, "balance": {"scope": scope}, "micro_batch_tokens": BATCH // 8}


def measure_experts(lab, run):
    return {**loss(run), "busiest expert's load": mean_at_end(run, "max_load")}


# ---- 2 ----

def measure_gate(lab, run):
    """What attention and the residual stream are like on held-out documents."""
    recipe = json.loads((run / "recipe.json").read_text())
    forward = Forward(run, recipe.get("output_gate", True))
    chosen = [ids for ids in documents(lab.work / "held-out.safetensors") if len(ids) >= 96][:16]
    shares, even, largest, scales = {}, [], [], []
    positions = 32
    by_key = np.zeros(positions)
    for ids in chosen:
        seen = forward(ids)
        for layer, p in seen.attention.items():
            shares.setdefault(layer, []).append(p[:, 17:, 0])
            by_key += p[:, positions:, :positions].mean((0, 1)) / len(seen.attention) / len(chosen)
        even.append(1 / (np.arange(17, len(ids)) + 1))
        largest.append([np.abs(x).max() for x in seen.residuals])
        scales.append([np.sqrt(np.mean(x * x)) for x in seen.residuals])
    write_points(run, "by_key", [{"key": i, "attention": share} for i, share in enumerate(by_key)])
    write_points(run, "by_layer", [{"layers": i, "largest": x} for i, x in enumerate(np.max(largest, 0))])
    return {**loss(run),
            **{f"first token's share, layer {layer}": float(np.mean(np.concatenate([s.ravel() for s in of])))
               for layer, of in shares.items()},
            "share if even": float(np.mean(np.concatenate(even))), "largest activation": float(np.max(largest)),
            "its ratio to the RMS": float(np.max(np.array(largest) / scales))}


# ---- 3 ----

def measure_norms(lab, run):
    """Distances of the zero-centred norms' weights from 0, where they began."""
    distances = np.sort(np.concatenate([np.abs(value) for name, value in read_safetensors(run / "model.safetensors").items()
                                        if "norm" in name and "linear_attn" not in name]))[::-1]
    write_points(run, "norms", [{"rank": i + 1, "distance": float(d)} for i, d in enumerate(distances)])
    return {**loss(run), "largest": float(distances[0]), "RMS": float(np.sqrt(np.mean(distances ** 2)))}


# ---- 4 ----

def measure_router(lab, run):
    log = log_of(run)
    return {"busiest expert's load, step 1": log[0]["max_load"], "balance, step 1": log[0]["balance"],
            "load, steps 1-20": statistics.mean(step["max_load"] for step in log[:20]),
            "loss, steps 41-60": statistics.mean(step["loss"] for step in log[:60][-20:]), **loss(run)}


# ---- 5 ----

def measure_acceptance(lab, run):
    """The engine's guesses that were right, by depth, of those whose forerunners all were: greedy ends to held-out
    beginnings."""
    depth, streams = 4, 16
    begins = [ids[:32].tolist() for ids in documents(lab.work / "held-out.safetensors") if len(ids) >= 96][:BEGINNINGS]
    port = free_port()
    command = [str(lab.qnext_path), "serve", str(run), "--port", str(port), "--draft", str(depth), "--fixed-draft",
               "--pack-cache", "none", "--threads", str(lab.threads), "--parallel", str(streams)]
    with Server(run.name, command, port) as server:
        server.complete_all(begins, 40)
        guesses = server.guesses()
    tried = {d: count for d, (count, _) in guesses.items() if count}
    shares = {d: guesses[d][1] / count for d, count in tried.items()}
    write_points(run, "acceptance", [{"depth": d, "right": share} for d, share in shares.items()])
    return {**loss(run), **{f"right at depth {d}": share for d, share in shares.items()},
            **{f"tried at depth {d}": tried[d] for d in shares}}


# ---- 6 ----

def mixers(interval):  # DeltaNet and attention have 33,280 and 32,768 weights: a token costs the same in each
    return {"model": {"layer_types": ["full_attention" if interval and (i + 1) % interval == 0 else "linear_attention" for i in range(4)],
                      "full_attention_interval": interval or 4}}


def recall(mixer):  # states of twice as many heads, of a quarter of the size: 16 keys a head, and as many weights
    small = {f"linear_{name}_head_dim": 16 for name in ("key", "value")} | {"linear_num_key_heads": 4, "linear_num_value_heads": 8}
    return {"model": {**mixer["model"], **small}, "data": ["pairs"], "times_steps": PATIENCE}


def measure_mixers(lab, run):
    """Of texts, or of the recall task: the share of values that are said right, the first time that they are asked for."""
    if "recall" not in run.name:
        return {**loss(run), "accuracy": mean_at_end(run, "accuracy")}
    forward, dice, found = Forward(run), random.Random(2), {}
    for num_pairs in TESTED_PAIRS:
        right = []
        for _ in range(TESTS):
            ids = np.array(recall_document(dice, num_pairs)[0][:4 * num_pairs])
            values = np.arange(2 * num_pairs + 1, len(ids), 2)
            right.append(np.mean(forward(ids).logits[values - 1].argmax(-1) == ids[values]))
        found[f"right of {num_pairs} pairs"] = float(np.mean(right))
    write_points(run, "recall", [{"pairs": num_pairs, "right": share} for num_pairs, share in zip(TESTED_PAIRS, found.values())])
    return found


# Of each: its variants as changes of BASE, what is measured of a run, and plots: name, file of a run, options, and a word
# that the variants shown have or (with "-") have not.
MIXERS = {"hybrid": mixers(4), "all attention": mixers(1), "all DeltaNet": mixers(0)}
EXPERIMENTS = {
    1: {"variants": {**{f"{e} experts": experts(e, "global_batch") for e in (4, 16, 64)},
                     **{f"{e} experts, micro-batch": experts(e, "micro_batch") for e in (16, 64)}},
        "measure": measure_experts, "plots": [("loss", "log.jsonl", ["--y", "loss", "--smooth", "40"], "")]},
    2: {"variants": {"gate": {"model": {"full_attention_interval": 2}, "output_gate": True},
                     "no gate": {"model": {"full_attention_interval": 2}, "output_gate": False}},
        "measure": measure_gate, "plots": [("attention", "by_key.jsonl", ["--x", "key", "--y", "attention", "--log-y"], ""),
                                           ("activations", "by_layer.jsonl", ["--x", "layers", "--y", "largest"], "")]},
    3: {"variants": {f"{word}decay {decay}": {"adamw": {"weight_decay": decay, "decay_norms": not word}}
                     for decay in (0.1, 1.0) for word in ("", "no ")},
        "measure": measure_norms, "plots": [("norms", "norms.jsonl", ["--x", "rank", "--y", "distance"], "")]},
    4: {"variants": {"balanced": {"balance": {"balanced_router": True}}, "as drawn": {"balance": {"balanced_router": False}}},
        "measure": measure_router, "plots": [("load", "log.jsonl", ["--y", "max_load", "--smooth", "5"], "")]},
    5: {"variants": {f"{k} step{'s' if k > 1 else ''}": {"mtp": {"steps": k, "weight": 0.3, "decay": 1.0}} for k in (1, 2, 4)},
        "measure": measure_acceptance, "plots": [("acceptance", "acceptance.jsonl", ["--x", "depth", "--y", "right"], "")]},
    6: {"variants": {**MIXERS, **{f"{name}, recall": recall(change) for name, change in MIXERS.items()}},
        "measure": measure_mixers, "plots": [("recall", "recall.jsonl", ["--x", "pairs", "--y", "right"], "recall"),
                                             ("learning", "log.jsonl", ["--y", "accuracy", "--smooth", "10"], "recall"),
                                             ("loss", "log.jsonl", ["--y", "loss", "--smooth", "40"], "-recall")]},
}


def shown(variant, word):
    return word[1:] not in variant if word.startswith("-") else word in variant


def cpu_name():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"


def print_table(results):
    names = []
    for variant, measures in results.items():
        if list(measures) != names:
            names = list(measures)
            print("\n| | " + " | ".join(names) + " |\n" + "|---" * (len(names) + 1) + "|")
        print(f"| {variant} | " + " | ".join(f"{m['mean']:.4g} ± {m['deviation']:.2g}" for m in measures.values()) + " |")


def run_experiment(lab):
    experiment = EXPERIMENTS[lab.number]
    lab.prepare()
    lab.out.mkdir(parents=True, exist_ok=True)
    results, runs = {variant: {} for variant in experiment["variants"]}, {variant: [] for variant in experiment["variants"]}
    for seed in lab.seeds:  # a seed of all variants first: what is slow for a while is slow for all
        for variant, changes in experiment["variants"].items():
            run = lab.train(variant, changes, seed)
            runs[variant].append(run)
            for name, value in experiment["measure"](lab, run).items():
                results[variant].setdefault(name, {"values": []})["values"].append(value)
    for measures in results.values():
        for measure in measures.values():
            values = measure["values"]
            measure.update(mean=statistics.mean(values), deviation=statistics.stdev(values) if len(values) > 1 else 0.0)
    about = {"experiment": lab.number, "steps": lab.steps, "batch_tokens": BATCH, "seeds": lab.seeds, "cpu": cpu_name()}
    (lab.out / f"{lab.number}.json").write_text(json.dumps({**about, "results": results}, indent=1) + "\n")
    for name, file, options, word in experiment["plots"]:
        lab.plot(name, {variant: of for variant, of in runs.items() if shown(variant, word)}, file, options)
    print_table(results)


def parse_args():
    def count(text):
        if not text.isdigit() or int(text) == 0:
            raise argparse.ArgumentTypeError(f'expected a number of at least 1, found "{text}"')
        return int(text)

    def seeds(text):
        if not all(part.isdigit() for part in text.split(",")) or len(set(text.split(","))) != len(text.split(",")):
            raise argparse.ArgumentTypeError(f'expected different numbers by commas, as in 1,2,3, found "{text}"')
        return [int(part) for part in text.split(",")]

    parser = argparse.ArgumentParser(prog="experiments", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     usage=argparse.SUPPRESS)
    parser.add_argument("number", type=int, choices=sorted(EXPERIMENTS))
    parser.add_argument("--seeds", type=seeds, default=[1, 2, 3])
    parser.add_argument("--steps", type=count, default=300)
    parser.add_argument("--threads", type=count, default=2)
    parser.add_argument("--qnext", type=pathlib.Path, default=QNEXT)
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "build/experiments")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "docs/experiments")
    args = parser.parse_args()
    for program in (args.qnext, args.qnext.with_name("qnext-train")):
        if not program.exists():
            fail(f"{program}: not there: make train")
    return args


if __name__ == "__main__":
    try:
        run_experiment(Lab(parse_args()))
    except OSError as problem:
        fail(f"{problem.filename}: {problem.strerror}")
