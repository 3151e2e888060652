#!/usr/bin/env python3
"""Scores of models/qnext-tiny, by the engine, on the quantised files that ship; prints a table, and JSON with --json.

usage: bench/eval_tiny.py [--problems 500] [--stories 200] [--prompts 1000] [--models instruct,thinking] [--json FILE]

Of each model:
  problems   held-out ones (`qnext data synth --split held-out`: new numbers, every second in new words): the share whose
             answers have every number right
  stops      the share of held-out instructions and problems whose answer ends by itself
  stories    sampled: the share that end as a story should and do not go in circles, and of these the words that
             link-grammar cannot link to the rest of their sentence, per 50
  mtp        guesses of the MTP block that were right, by depth, on those stories

Needs build/release/qnext-train (make train) and link-grammar (Debian), which `make eval-tiny` sees to.
"""
import argparse
import collections
import concurrent.futures
import contextlib
import http.client
import json
import pathlib
import re
import subprocess
import sys
import tempfile

from serve import QNEXT, Server, free_port

ROOT = pathlib.Path(__file__).resolve().parent.parent
STREAMS = 16
MAX_TOKENS = 1600


def synth(kind, count):
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([QNEXT, "data", "synth", "--out", folder, "--kind", kind, "--count", str(count), "--seed", "7",
                        "--split", "held-out"], check=True, capture_output=True)
        return [json.loads(line) for line in open(f"{folder}/{kind}.held-out.jsonl", encoding="utf-8")]


def ask(server, messages, **fields):
    """The answer's text without its thoughts, and why it ended."""
    body = {"model": server.name, "messages": messages, "max_completion_tokens": MAX_TOKENS, **fields}
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=3600)
    with contextlib.closing(connection):
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        answer = json.loads(connection.getresponse().read())
    if "choices" not in answer:
        sys.exit(f"eval_tiny: {server.name}: {answer}")
    choice = answer["choices"][0]
    return choice["message"].get("content") or "", choice["finish_reason"]


def ask_all(server, prompts, **fields):
    with concurrent.futures.ThreadPoolExecutor(STREAMS) as pool:
        jobs = [pool.submit(ask, server, messages, **{"seed": i, **fields}) for i, messages in enumerate(prompts)]
        return [job.result() for job in jobs]


def numbers(text):
    return [number.replace(",", "") for number in re.findall(r"\d[\d,]*(?:\.\d+)?", text)]


def answers(text):
    return "; ".join(re.findall(r"(?m)^Answer: (.*)", text))


def goes_in_circles(text):
    words = text.lower().split()
    runs = collections.Counter(tuple(words[i:i + 8]) for i in range(len(words) - 7))
    return bool(runs) and max(runs.values()) >= 3


def is_whole(text, reason):
    return reason == "stop" and len(text.split()) >= 30 and bool(re.search(r'[.!?]"?$', text.strip())) and not goes_in_circles(text)


def unlinked_words(texts):
    """Words in all, and those that link-grammar leaves out of the linkage of their sentence."""
    sentences = [s for text in texts for s in re.split(r'(?<=[.!?])"?\s+', text.replace('"', " ").strip()) if s.strip()]
    words = sum(len(sentence.split()) for sentence in sentences)
    out = subprocess.run(["link-parser", "en", "-verbosity=1", "-graphics=0", "-timeout=2"],
                         input="\n".join(" ".join(s.split()) for s in sentences) + "\n", capture_output=True, text=True, check=False)
    unlinked = sum(int(count) for count in re.findall(r"at null count (\d+)", out.stdout))
    return words, unlinked


def evaluate(name, args):
    model = ROOT / f"models/qnext-tiny/qnext-tiny-{name}.gguf"
    problems, instructions = synth("problems", args.problems), synth("instructions", args.prompts)
    port = free_port()
    command = [str(QNEXT), "serve", str(model), "--port", str(port), "--pack-cache", "none", "--parallel", str(STREAMS)]
    with Server(model.stem, command, port) as server:
        said = ask_all(server, [p["messages"][:1] for p in problems], temperature=0)
        right = [numbers(answers(text)) == numbers(answers(p["messages"][1]["content"]))
                 for (text, _), p in zip(said, problems)]
        stops = ask_all(server, [i["messages"][:1] for i in instructions])
        stories = ask_all(server, [[{"role": "user", "content": "Tell me a story."}]] * args.stories)
        tried, good = (server.counters(f"qnext_guesses_{kind}total", "depth") for kind in ("", "right_"))
    ended = [reason == "stop" for _, reason in said + stops]
    whole = [text for text, reason in stories if is_whole(text, reason)]
    words, unlinked = unlinked_words(whole)
    for problem, (text, _), fine in zip(problems, said, right):
        if args.show and not fine:
            print(f"--- {problem['messages'][0]['content']}\n{text}\n(expected: {answers(problem['messages'][1]['content'])})",
                  file=sys.stderr)
    return {"model": model.name, "problems_right": sum(right) / len(right),
            "problems_right_known_words": sum(right[0::2]) / len(right[0::2]),
            "problems_right_new_words": sum(right[1::2]) / len(right[1::2]),
            "stops": sum(ended) / len(ended), "stories_whole": len(whole) / len(stories), "distinct_stories": len(set(whole)),
            "unlinked_words_per_50": 50 * unlinked / max(words, 1),
            "mtp_right": {depth: good.get(depth, 0) / count for depth, count in sorted(tried.items()) if count}}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=500)
    parser.add_argument("--stories", type=int, default=200)
    parser.add_argument("--prompts", type=int, default=1000)
    parser.add_argument("--models", default="instruct,thinking")
    parser.add_argument("--show", action="store_true", help="print the problems that were answered wrong")
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    results = [evaluate(name, args) for name in args.models.split(",")]
    for result in results:
        print("\n".join(f"{key:28} {value if not isinstance(value, float) else format(value, '.3f')}" for key, value in result.items()), "\n")
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
