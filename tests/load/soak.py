#!/usr/bin/env python3
"""Random load for a long time: all kinds of requests at once, some of them cancelled. Every answer must be the one that
the same request got alone, every stream must end exactly once, memory must stay flat, and nothing may run on at the end.

usage: soak.py [--seconds N] [--threads N]   N (1800); QNEXT names the program
"""
import argparse
import collections
import json
import pathlib
import random
import re
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "e2e"))
from server import MODEL, Server  # noqa: E402

TEXT = "Once upon a time there was a lighthouse keeper who counted the waves. One night he lost count. "
SCHEMA = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 8}, "legs": {"type": "integer"}},
          "required": ["name", "legs"], "additionalProperties": False}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"]}}}


def requests():
    """(path, body) of every kind; a body's answer depends on itself alone."""
    out = []
    for i in range(24):
        sampling = {"temperature": 0} if i % 2 else {"temperature": 1, "seed": i, "top_p": 0.9, "presence_penalty": 0.3}
        body = {"model": MODEL, "max_tokens": 4 + 3 * i, **sampling}
        if i % 3 == 0:
            body["n"] = 2
        if i % 5 == 0:
            body["stop"] = ["e", "\n"]
        if i % 6 == 1:
            body["structured_outputs"] = {"regex": "[a-z]{1,20}( [a-z]{1,9}){2,5}"}
        if i % 4 < 2:
            out.append(("/v1/completions", {**body, "prompt": (TEXT * 5)[: 1 + 37 * i % 450]}))
            continue
        messages = [{"role": "system", "content": "You are kind."}, {"role": "user", "content": (TEXT * 3)[: 1 + 53 * i % 300]}]
        if i % 8 == 6:
            body["response_format"] = {"type": "json_schema", "json_schema": {"name": "pet", "schema": SCHEMA}}
            body.pop("structured_outputs", None)
        elif i % 8 == 3:
            body |= {"tools": [TOOL], "tool_choice": "required", "max_tokens": 100}
            body.pop("structured_outputs", None)
        out.append(("/v1/chat/completions", {**body, "messages": messages}))
    out.append(("/v1/completions", {"model": MODEL, "prompt": TEXT, "max_tokens": 0, "echo": True, "logprobs": 1}))
    return out


def gist(choice):
    """What a choice says, whole or put together from a stream; ids of calls differ from request to request."""
    message = choice.get("message") or choice.get("delta") or {}
    calls = [(call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls") or []]
    return [choice.get("text") or message.get("content") or "", message.get("reasoning_content") or "", calls]


class Client(threading.Thread):
    def __init__(self, server, expected, end, seed):
        super().__init__()
        self.server, self.expected, self.end = server, expected, end
        self.random = random.Random(seed)
        self.counts = collections.Counter()
        self.problem = None

    def run(self):
        try:
            while time.monotonic() < self.end:
                path, body, answer = self.random.choice(self.expected)
                kind = self.random.choice(["whole", "stream", "stream", "cancel"])
                self.counts[getattr(self, kind)(path, body, answer)] += 1
        except Exception as problem:  # pylint: disable=broad-except
            self.problem = problem

    def whole(self, path, body, expected):
        status, answer, _ = self.server.raw("POST", path, json.dumps(body))
        if status == 429:
            time.sleep(0.05)
            return "refused"
        assert status == 200, (status, answer)
        found = [gist(choice) for choice in answer["choices"]]
        assert found == expected, (body, found, expected)
        return "whole"

    def stream(self, path, body, expected, cancel_after=None):
        with self.server.stream(path, {**body, "stream": True}) as answer:
            if answer.status == 429:
                return "refused"
            assert answer.status == 200, answer.read()
            found = [["", "", []] for _ in expected]
            ends = [0] * len(expected)
            done = 0
            for number, line in enumerate(answer):
                if cancel_after is not None and number >= cancel_after:
                    return "cancelled"
                assert not done or not line.strip(), f"after the end: {line}"
                if not line.startswith(b"data: "):
                    continue
                if line.strip() == b"data: [DONE]":
                    done += 1
                    continue
                event = json.loads(line[6:])
                assert "error" not in event, event
                for choice in event["choices"]:
                    assert not ends[choice["index"]], f"answer {choice['index']} goes on after its end: {event}"
                    for i, part in enumerate(gist(choice)):
                        found[choice["index"]][i] += part
                    ends[choice["index"]] += choice["finish_reason"] is not None
            assert done == 1 and ends == [1] * len(expected), (body, done, ends)
            if cancel_after is not None:
                return "ended before the cancel"
            assert found == expected, (body, found, expected)
        return "streamed"

    def cancel(self, path, body, expected):
        longer = {**body, "max_tokens": 300}
        longer.pop("stop", None)
        return self.stream(path, longer, expected, cancel_after=self.random.randrange(12))


def resident_mib(server):
    text = pathlib.Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--threads", type=int, default=8)
    args = parser.parse_args()
    with Server("--context", "1K", "--parallel", 4, "--queue", 8, "--prefix-cache", "16M") as server:
        expected = []
        for path, body in requests():
            status, answer, _ = server.raw("POST", path, json.dumps(body))
            assert status == 200, (body, answer)
            expected.append((path, body, [gist(choice) for choice in answer["choices"]]))
        begin = time.monotonic()
        clients = [Client(server, expected, begin + args.seconds, seed) for seed in range(args.threads)]
        for client in clients:
            client.start()
        sizes = []
        while any(client.is_alive() for client in clients):
            time.sleep(min(5, args.seconds / 10))
            sizes.append(resident_mib(server))
            if len(sizes) % 12 == 1:
                print(f"{time.monotonic() - begin:6.0f} s: {sum((c.counts for c in clients), collections.Counter())}, "
                      f"{sizes[-1]:.1f} MiB resident", flush=True)
        for client in clients:
            client.join()
            if client.problem:
                raise client.problem
        end = time.monotonic() + 60
        while server.metric("qnext_sequences_running") + server.metric("qnext_sequences_waiting") > 0:
            assert time.monotonic() < end, "a sequence of nobody's still runs"
            time.sleep(0.1)
        code, log = server.stop()
        assert code == 0, log[-3000:]
        assert " status=5" not in log, re.search(".* status=5.*", log)[0]
    counts = sum((client.counts for client in clients), collections.Counter())
    # Warm after a third of the time; what grows after that grows for ever.
    third = sizes[len(sizes) // 3:]
    growth = max(third[-3:]) - max(third[:3])
    print(f"{dict(counts)}; resident {third[0]:.1f} MiB after a third of the time, {third[-1]:.1f} MiB at the end")
    assert growth < max(8, 0.03 * third[0]), f"memory grew by {growth:.1f} MiB"


if __name__ == "__main__":
    main()
