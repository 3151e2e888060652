#!/usr/bin/env python3
"""Measures qnext and other programs' llama-bench on one GGUF file, in alternation, and prints one table.

usage: bench/peers.py MODEL.gguf --peer "NAME=PATH/llama-bench [ARGS]" [--peer ...] [--prompt 512,4096] [--gen 64]
                      [--rounds 3] [--threads N] [--qnext build/release/qnext] [--json FILE]

A round runs each program once, every second round backwards. Figures are tokens a second: the median of the rounds and,
in brackets, the least and the most. "ours" is the median of the rounds' ratios, qnext to that peer: neighbours on the
machine change the figures from round to round, but both sides of a ratio at once. ARGS are the peer's own, such as -rtr 1
for ik_llama.cpp. Every program gets as many threads.
"""
import argparse
import json
import os
import pathlib
import shlex
import statistics
import subprocess
import sys

QNEXT = pathlib.Path(__file__).resolve().parent.parent / "build/release/qnext"


def run_json(command):
    """What `command` prints, parsed. Ends the program with a message when there is none."""
    shown = shlex.join(command)
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except OSError as problem:
        sys.exit(f"peers: {shown}: {problem.strerror}")
    if done.returncode != 0:
        last_lines = "\n".join(done.stderr.decode(errors="replace").splitlines()[-5:])
        sys.exit(f"peers: {shown}\nfailed with exit code {done.returncode}:\n{last_lines}")
    try:
        return json.loads(done.stdout)
    except ValueError:
        sys.exit(f"peers: {shown}\nprinted no JSON")


class Qnext:
    name = "qnext"

    def __init__(self, args):
        self.command = [str(args.qnext), "bench", args.model, "--prompt", args.prompt, "--gen", str(args.gen),
                        "--repeat", "1", "--threads", str(args.threads), "--json"]

    def measure(self):
        results = run_json(self.command)["results"]
        return {(r["phase"], r["tokens"]): (r["tokens_per_s"], r["share_of_roof"]) for r in results}


class LlamaBench:
    def __init__(self, args, peer):
        self.name, _, command = peer.partition("=")
        if not command:
            sys.exit(f'peers: --peer "{peer}": expected NAME=PATH, as in "ik=build/bin/llama-bench -rtr 1"')
        self.command = [*shlex.split(command), "-m", args.model, "-p", args.prompt, "-n", str(args.gen), "-r", "1",
                        "-t", str(args.threads), "-o", "json"]

    def measure(self):
        out = {}
        for test in run_json(self.command):
            phase = ("prefill", test["n_prompt"]) if test["n_gen"] == 0 else ("decode", test["n_gen"])
            out[phase] = (test["avg_ts"], None)
        return out


def spread(values):
    return f"{statistics.median(values):.1f} ({min(values):.1f}-{max(values):.1f})"


def table(programs, rounds):
    """Lines of text; rounds: one {program's name: {(phase, tokens): (tokens a second, share or None)}} each."""
    rows = [["", *(program.name for program in programs), *(f"ours / {peer.name}" for peer in programs[1:]), "share of roof"]]
    for test in rounds[0]["qnext"]:
        speeds = {p.name: [r[p.name][test][0] for r in rounds if test in r[p.name]] for p in programs}
        row = [f"{test[0]} {test[1]}", *(spread(values) if values else "-" for values in speeds.values())]
        for peer in programs[1:]:
            ratios = [ours / theirs for ours, theirs in zip(speeds["qnext"], speeds[peer.name])]
            row.append(f"{statistics.median(ratios):.2f}" if ratios else "-")
        rows.append([*row, f"{statistics.median(r['qnext'][test][1] for r in rounds):.0%}"])
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--peer", action="append", required=True, metavar='"NAME=PATH [ARGS]"')
    parser.add_argument("--prompt", default="512,4096")
    parser.add_argument("--gen", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--qnext", default=QNEXT)
    parser.add_argument("--json", metavar="FILE", help="every round's figures, too")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error("--rounds: at least 1")
    if not os.path.isfile(args.model):
        sys.exit(f"peers: {args.model}: no such file")
    programs = [Qnext(args), *(LlamaBench(args, peer) for peer in args.peer)]
    rounds, interrupted = [], False
    try:
        for number in range(args.rounds):
            figures = {}
            for program in programs if number % 2 == 0 else reversed(programs):
                print(f"round {number + 1} of {args.rounds}: {program.name} ...", file=sys.stderr)
                figures[program.name] = program.measure()
            rounds.append(figures)
    except KeyboardInterrupt:
        interrupted = True
    if rounds and args.json:
        plain = [{name: {f"{phase} {tokens}": value[0] for (phase, tokens), value in tests.items()}
                  for name, tests in figures.items()} for figures in rounds]
        pathlib.Path(args.json).write_text(json.dumps(plain, indent=2) + "\n")
    if rounds:
        print("\n".join(table(programs, rounds)))
    if interrupted:
        sys.exit(130)


if __name__ == "__main__":
    main()
