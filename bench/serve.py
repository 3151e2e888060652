#!/usr/bin/env python3
"""Measures qnext serve, and other programs' servers beside it, from a second process, and prints one table.

usage: bench/serve.py MODEL.gguf [--peer "NAME=PATH/llama-server [ARGS]"] [--streams 1,8] [--prompt 128] [--gen 64]
                      [--turns 4] [--turn-prompt 2048] [--long-prompt 4096] [--threads N] [--qnext build/release/qnext]
                      [--json FILE]

A server is started at a free port with room for the most streams, measured, and stopped, one after the other:

  streams N   N prompts of --prompt tokens at once, --gen tokens each: tokens a second of all together, time to first
              token, time between tokens; an answer without all of its tokens is counted as cut short. Of qnext also the
              share of its decode steps' time that is not the model's, and the share of the whole time outside of steps
  turn K      a talk: --turn-prompt tokens, then each turn's prompt is the one before, --gen tokens more for its answer,
              and --prompt new ones: time to first token, and how many tokens the server says it had cached
  stall       --streams' second number, at most 4, of streams run, and a prompt of --long-prompt tokens comes: the longest
              pause of any of them, and the time to the long prompt's first token

Prompts are random token ids, the same for every server. Times are as the client sees them, p50 and p99.
"""
import argparse
import contextlib
import http.client
import json
import pathlib
import random
import re
import shlex
import socket
import subprocess
import sys
import threading
import time

QNEXT = pathlib.Path(__file__).resolve().parent.parent / "build/release/qnext"
IDS = range(300, 2000)  # plain tokens of any vocabulary
START_S = 600


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def quantile(values, q):
    values = sorted(values)
    return values[min(len(values) - 1, int(q * len(values)))] if values else 0.0


class Server:
    """A running server. `with` it."""

    def __init__(self, name, command, port):
        self.name, self.port = name, port
        print(f"serve: starting {shlex.join(command)}", file=sys.stderr)
        try:
            self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        except OSError as problem:
            sys.exit(f"serve: {command[0]}: {problem.strerror}")
        deadline = time.monotonic() + START_S
        while not self.healthy():
            if self.process.poll() is not None:
                sys.exit(f"serve: {name} ended with exit code {self.process.returncode}; run it by hand to see why:\n"
                         f"  {shlex.join(command)}")
            if time.monotonic() > deadline:
                self.process.kill()
                sys.exit(f"serve: {name} was not ready after {START_S} s")
            time.sleep(0.2)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def healthy(self):
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        return False

    def counters(self, name, label):
        """A counter of /metrics by its label; empty where the server has none."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode(errors="replace")
        return {key: float(value) for key, value in re.findall(rf'^{name}\{{{label}="(\w+)"\}} (\S+)$', text, re.M)}

    def step_seconds(self):
        """Seconds so far, of all steps and of what the model took of those that decode: nothing where none are told."""
        steps, model = (self.counters(f"qnext_step_{name}seconds_total", "phase") for name in ("", "model_"))
        return {"all": sum(steps.values()), "decode": steps.get("decode", 0), "model": model.get("decode", 0)}

    def complete(self, ids, num_tokens, **fields):
        """One streamed completion: {"begin", "times": [of each event with text], "tokens", "cached"}."""
        body = {"model": self.name, "prompt": ids, "max_tokens": num_tokens, "temperature": 0, "ignore_eos": True,
                "stream": True, "stream_options": {"include_usage": True}, **fields}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=3600)
        out = {"begin": time.monotonic(), "times": [], "tokens": 0, "cached": 0}
        with contextlib.closing(connection):
            connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            if answer.status != 200:
                sys.exit(f"serve: {self.name}: status {answer.status}: {answer.read().decode(errors='replace')[:500]}")
            for line in answer:
                if not line.startswith(b"data: {"):
                    continue
                event = json.loads(line[6:])
                if event.get("choices") and event["choices"][0].get("text"):
                    out["times"].append(time.monotonic())
                if event.get("usage"):
                    out["tokens"] = event["usage"]["completion_tokens"]
                    out["cached"] = (event["usage"].get("prompt_tokens_details") or {}).get("cached_tokens", 0)
        out["end"] = time.monotonic()
        if not out["times"]:
            out["times"] = [out["end"]]
        return out

    def guesses(self):
        """{depth: (tried, right)} of the MTP block's, so far, where those before them were right."""
        tried, right = (self.counters(f"qnext_guesses_{kind}total", "depth") for kind in ("", "right_"))
        return {int(depth): (count, right.get(depth, 0)) for depth, count in sorted(tried.items())}

    def complete_all(self, prompts, num_tokens):
        out = [None] * len(prompts)

        def ask(i):
            out[i] = self.complete(prompts[i], num_tokens)

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(prompts))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if None in out:
            sys.exit(f"serve: {self.name}: a request failed")
        return out


def first_s(answer):
    return answer["times"][0] - answer["begin"]


def gaps_s(answer):
    return [b - a for a, b in zip(answer["times"], answer["times"][1:])]


def measure_streams(server, prompts, num_tokens):
    before = server.step_seconds()
    answers = server.complete_all(prompts, num_tokens)
    spent = {key: total - before[key] for key, total in server.step_seconds().items()}
    seconds = max(a["end"] for a in answers) - min(a["begin"] for a in answers)
    firsts = [first_s(a) for a in answers]
    gaps = [gap for a in answers for gap in gaps_s(a)]
    own = {}
    if spent["decode"] > 0:
        own = {"engine_share_of_decode": 1 - spent["model"] / spent["decode"],
               "share_outside_steps": 1 - spent["all"] / seconds}
    return {**own, "tokens_per_s": sum(a["tokens"] for a in answers) / seconds,
            "cut_short": sum(a["tokens"] < num_tokens for a in answers),
            "first_p50_s": quantile(firsts, 0.5), "first_p99_s": quantile(firsts, 0.99),
            "between_p50_s": quantile(gaps, 0.5), "between_p99_s": quantile(gaps, 0.99)}


def measure_turns(server, draw, args):
    out, ids = [], draw(args.turn_prompt)
    for _ in range(args.turns):
        answer = server.complete(ids, args.gen)
        out.append({"prompt_tokens": len(ids), "cached_tokens": answer["cached"], "first_s": first_s(answer)})
        ids = ids + draw(args.gen) + draw(args.prompt)
    return out


def measure_stall(server, draw, args):
    num_streams = min(4, max(args.streams))
    long_answer = {}

    def ask_long():
        time.sleep(1)  # the streams are under way
        long_answer.update(server.complete(draw(args.long_prompt), 1))

    asker = threading.Thread(target=ask_long)
    asker.start()
    answers = server.complete_all([draw(16) for _ in range(num_streams)], 8 * args.gen)
    asker.join()
    return {"streams": num_streams, "longest_pause_s": max(gap for a in answers for gap in gaps_s(a)),
            "first_s": first_s(long_answer)}


def measure(name, command, port, args):
    drawn = random.Random(7)

    def draw(num_tokens):
        return [drawn.choice(IDS) for _ in range(num_tokens)]

    with Server(name, command, port) as server:
        server.complete(draw(64), 8)  # warm-up
        result = {"streams": {}}
        for count in args.streams:
            result["streams"][count] = measure_streams(server, [draw(args.prompt) for _ in range(count)], args.gen)
        result["turns"] = measure_turns(server, draw, args)
        result["stall"] = measure_stall(server, draw, args)
    return result


def print_table(results):
    names = list(results)
    rows = [("", names)]

    def row(label, text_of):
        rows.append((label, [text_of(results[name]) for name in names]))

    for count in results[names[0]]["streams"]:
        def of(key, scale=1):
            return lambda result: f"{result['streams'][count][key] * scale:.1f}"
        row(f"streams {count}: t/s", of("tokens_per_s"))
        if any(result["streams"][count]["cut_short"] for result in results.values()):
            row("  answers cut short", lambda result: str(result["streams"][count]["cut_short"]))
        for key, label in [("engine_share_of_decode", "  decode steps, not the model's"),
                           ("share_outside_steps", "  outside of steps")]:
            if any(key in result["streams"][count] for result in results.values()):
                row(label, lambda result, key=key: f"{result['streams'][count][key]:.2%}"
                    if key in result["streams"][count] else "-")
        row("  first token, p50 ms", of("first_p50_s", 1e3))
        row("  first token, p99 ms", of("first_p99_s", 1e3))
        row("  between tokens, p50 ms", of("between_p50_s", 1e3))
        row("  between tokens, p99 ms", of("between_p99_s", 1e3))
    for i, turn in enumerate(results[names[0]]["turns"]):
        row(f"turn {i + 1}, {turn['prompt_tokens']} tokens: first token, ms",
            lambda result, i=i: f"{result['turns'][i]['first_s'] * 1e3:.0f} ({result['turns'][i]['cached_tokens']} cached)")
    row("stall: longest pause, ms", lambda result: f"{result['stall']['longest_pause_s'] * 1e3:.0f}")
    row("  long prompt's first token, ms", lambda result: f"{result['stall']['first_s'] * 1e3:.0f}")
    widths = [max(len(label) for label, _ in rows)] + [max(len(r[1][i]) for r in rows) for i in range(len(names))]
    for label, cells in rows:
        print("  ".join([label.ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(cells, widths[1:])]))


def parse_args():
    def count(text):
        if not text.isdigit() or int(text) == 0:
            raise argparse.ArgumentTypeError(f'expected a number of at least 1, found "{text}"')
        return int(text)

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     usage=argparse.SUPPRESS)
    parser.add_argument("model")
    parser.add_argument("--peer", action="append", default=[])
    parser.add_argument("--streams", type=lambda text: [count(part) for part in text.split(",")], default=[1, 8])
    parser.add_argument("--prompt", type=count, default=128)
    parser.add_argument("--gen", type=count, default=64)
    parser.add_argument("--turns", type=count, default=4)
    parser.add_argument("--turn-prompt", type=count, default=2048)
    parser.add_argument("--long-prompt", type=count, default=4096)
    parser.add_argument("--threads", type=count)
    parser.add_argument("--qnext", default=str(QNEXT))
    parser.add_argument("--json")
    return parser.parse_args()


def main():
    args = parse_args()
    num_slots = max(args.streams)
    longest_turn = args.turn_prompt + args.turns * (args.gen + args.prompt)
    context = max(longest_turn, args.long_prompt, args.prompt) + 8 * args.gen + 64
    threads = [] if args.threads is None else ["--threads", str(args.threads)]
    port = free_port()
    commands = {"qnext": (port, [args.qnext, "serve", args.model, "--port", str(port), "--name", "qnext", "--parallel",
                                 str(num_slots), "--context", str(context), *threads])}
    for peer in args.peer:
        name, _, command = peer.partition("=")
        if not command:
            sys.exit(f'serve: --peer "{peer}": expected NAME=PATH, as in "llama.cpp=build/bin/llama-server"')
        port = free_port()
        commands[name] = (port, [*shlex.split(command), "-m", args.model, "--port", str(port), "-np", str(num_slots), "-c",
                                 str(num_slots * context), *threads])
    results = {name: measure(name, command, port, args) for name, (port, command) in commands.items()}
    print_table(results)
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
