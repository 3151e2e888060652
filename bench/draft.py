#!/usr/bin/env python3
"""Measures what guessing ahead (serve --draft) brings, by depth, context and how often guesses are right, and prints a
table.

usage: bench/draft.py MODEL [--drafts 1,2,4] [--contexts 64,2048] [--temperatures 0,0.5,1] [--gen 96] [--rounds 3]
                      [--threads N] [--qnext build/release/qnext] [--json FILE]

One server without guesses and one for each of --drafts run side by side, and get the same requests in turn, so that
each is compared with the one beside it. A guess is the likeliest token: --temperatures makes it right less often. Of
each row: the share of first, second, ... guesses that were right, and how much faster than without guesses answers were,
as the median of rounds, after one that is not counted. The first token's time is no part of it.
"""
import argparse
import contextlib
import json
import pathlib
import random
import statistics
import sys

from serve import IDS, QNEXT, Server, free_port


def tokens_per_s(server, prompt, temperature, num_tokens, seed):
    answer = server.complete(prompt, num_tokens, temperature=temperature, seed=seed)
    return (answer["tokens"] - 1) / max(answer["times"][-1] - answer["times"][0], 1e-9)


def measure(servers, prompt, temperature, args):
    speeds = {num_drafts: [] for num_drafts in servers}
    before = {}
    for number in range(1 + args.rounds):
        for num_drafts, server in servers.items():
            speed = tokens_per_s(server, prompt, temperature, args.gen, number)
            if number == 0:  # the prompt runs, and the server finds out how deep to guess
                before[num_drafts] = server.guesses()
            else:
                speeds[num_drafts].append(speed)
    rows = []
    for num_drafts, server in servers.items():
        if num_drafts == 0:
            continue
        spent = {depth: (tried - before[num_drafts].get(depth, (0, 0))[0], right - before[num_drafts].get(depth, (0, 0))[1])
                 for depth, (tried, right) in server.guesses().items()}
        rows.append({"draft": num_drafts, "context": len(prompt), "temperature": temperature,
                     "without_tokens_per_s": statistics.median(speeds[0]),
                     "tokens_per_s": statistics.median(speeds[num_drafts]),
                     "speedup": statistics.median(b / a for a, b in zip(speeds[0], speeds[num_drafts])),
                     "guesses": {depth: tried for depth, (tried, _) in spent.items()},
                     "right": {depth: right / tried for depth, (tried, right) in spent.items() if tried}})
    return rows


def parse_args():
    def numbers(kind):
        def parse(text):
            try:
                return [kind(part) for part in text.split(",")]
            except ValueError as problem:
                raise argparse.ArgumentTypeError(f'expected numbers with commas between, found "{text}"') from problem
        return parse

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     usage=argparse.SUPPRESS)
    parser.add_argument("model")
    parser.add_argument("--drafts", type=numbers(int), default=[1, 2, 4])
    parser.add_argument("--contexts", type=numbers(int), default=[64, 2048])
    parser.add_argument("--temperatures", type=numbers(float), default=[0, 0.5, 1])
    parser.add_argument("--gen", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--qnext", default=str(QNEXT))
    parser.add_argument("--json")
    return parser.parse_args()


def main():
    args = parse_args()
    if min(args.drafts) < 1 or min(args.contexts) < 1 or args.gen < 2 or args.rounds < 1:
        sys.exit("draft: --drafts, --contexts and --rounds are at least 1, --gen at least 2")
    threads = [] if args.threads is None else ["--threads", str(args.threads)]
    drawn = random.Random(11)
    rows = []
    print(f"{'draft':>5}  {'context':>7}  {'temperature':>11}  {'right':>16}  {'t/s':>6}  {'without':>7}  speed-up")
    with contextlib.ExitStack() as stack:
        servers = {}
        for num_drafts in [0, *args.drafts]:
            port = free_port()
            command = [args.qnext, "serve", args.model, "--port", str(port), "--name", "qnext", "--parallel", "1",
                       "--context", str(max(args.contexts) + args.gen + 8), "--draft", str(num_drafts), *threads]
            servers[num_drafts] = stack.enter_context(Server("qnext", command, port))
        for context in args.contexts:
            prompt = [drawn.choice(IDS) for _ in range(context)]
            for temperature in args.temperatures:
                for row in measure(servers, prompt, temperature, args):
                    right = ", ".join(f"{share:.0%}" for share in row["right"].values()) or "none tried"
                    print(f"{row['draft']:>5}  {context:>7}  {temperature:>11}  {right:>16}  {row['tokens_per_s']:>6.1f}  "
                          f"{row['without_tokens_per_s']:>7.1f}  {row['speedup']:.2f}", flush=True)
                    rows.append(row)
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
