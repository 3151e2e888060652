#!/usr/bin/env python3
"""Scores of models/qnext-tiny, by the engine, on the quantised files that ship; prints a table, and JSON with --json.

usage: bench/eval_tiny.py [--problems 500] [--stories 200] [--prompts 1000] [--models instruct,thinking] [--json FILE]

Of each model:
  problems   held-out ones (`qnext data synth --split held-out`: new numbers, every second in new words): the share whose
             answers have every number right
  stops      the share of held-out instructions and problems whose answer ends by itself
  stories    sampled, one for each of the first held-out instructions that ask for a story, all in different words: the
             share that end as a story should and do not go in circles, and of these the words that link-grammar cannot
             link to the rest of their sentence, per 50; all words of a sentence for which it has no linkage in time
  mtp        guesses of the MTP block that were right, by depth, of those whose forerunners were: on those stories and,
             by themselves, on the problems. Guesses are made at every step (--fixed-draft), not only where they pay

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
DRAFTS = 2  # that the shipped models were trained to make


def synth(kind, count):
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([QNEXT, "data", "synth", "--out", folder, "--kind", kind, "--count", str(count), "--seed", "7",
                        "--split", "held-out"], check=True, capture_output=True)
        with open(f"{folder}/{kind}.held-out.jsonl", encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]


def story_requests(count):
    """The user's words of held-out instructions that are answered with a story, each once."""
    asked = {}
    for instruction in synth("instructions", 6 * count + 100):  # a third of them, a quarter of these said before
        user, answer = instruction["messages"][:2]
        if len(answer["content"].split()) > 60 and "Answer:" not in answer["content"]:  # only divisions are as long
            asked.setdefault(user["content"], [user])
    if len(asked) < count:
        sys.exit(f"eval_tiny: {count} stories: the held-out instructions have only {len(asked)} different requests")
    return list(asked.values())[:count]


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


def shares_right(before, after):
    """Of the guesses between two counts, by depth."""
    spent = {depth: [now - then for now, then in zip(counts, before.get(depth, (0, 0)))] for depth, counts in after.items()}
    return {depth: right / tried for depth, (tried, right) in spent.items() if tried}


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


def sentences_of(texts):
    found = [" ".join(s.split()) for text in texts for s in re.split(r'(?<=[.!?])"?\s+', text.replace('"', " ").strip())]
    return [s.lstrip("!% ") for s in found if s.lstrip("!% ")]  # link-parser takes those for its commands and comments


def unlinked_in(sentence, result):
    """Words that a result of link-parser leaves out of the sentence's linkage: all where there is none, for want of time."""
    words = len(sentence.split())
    linkages = re.findall(r"^Found [1-9]\d* linkages?.*?(?:at null count (\d+))?$", result, re.M)
    if not linkages or "Timer is expired" in result:
        return words
    return min(int(linkages[-1] or 0), words)


def unlinked_words(texts):
    """Words in all, and those that link-grammar leaves out of the linkage of their sentence."""
    sentences = sentences_of(texts)
    done = subprocess.run(["link-parser", "en", "-verbosity=1", "-graphics=0", "-timeout=2", "-echo=1"],
                          input="\n".join(sentences) + "\n", capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"eval_tiny: link-parser ended with exit code {done.returncode}: {done.stderr[-1000:]}")
    rest = done.stdout
    unlinked = 0
    for sentence, following in zip(sentences, sentences[1:] + ["Bye."]):  # each is echoed before its result
        _, echoed, rest = rest.partition(f"\n{sentence}\n")
        at = rest.find(f"\n{following}\n")
        if not echoed or at < 0 or not re.search(r"^(Found \d+ linkage|No complete linkages found|Timer is expired)", rest[:at], re.M):
            sys.exit(f"eval_tiny: link-parser has no result for: {sentence}")
        unlinked += unlinked_in(sentence, rest[:at])
    return sum(len(sentence.split()) for sentence in sentences), unlinked


def evaluate(name, args):
    model = ROOT / f"models/qnext-tiny/qnext-tiny-{name}.gguf"
    problems, instructions = synth("problems", args.problems), synth("instructions", args.prompts)
    port = free_port()
    command = [str(QNEXT), "serve", str(model), "--port", str(port), "--pack-cache", "none", "--parallel", str(STREAMS),
               "--draft", str(DRAFTS), "--fixed-draft"]
    with Server(model.stem, command, port) as server:
        counts = [server.guesses()]
        said = ask_all(server, [p["messages"][:1] for p in problems], temperature=0)
        right = [numbers(answers(text)) == numbers(answers(p["messages"][1]["content"]))
                 for (text, _), p in zip(said, problems)]
        counts.append(server.guesses())
        stops = ask_all(server, [i["messages"][:1] for i in instructions])
        counts.append(server.guesses())
        stories = ask_all(server, story_requests(args.stories))
        counts.append(server.guesses())
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
            "mtp_right_stories": shares_right(counts[2], counts[3]), "mtp_right_problems": shares_right(counts[0], counts[1])}


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
