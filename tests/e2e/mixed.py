"""Requests of every kind, at random, whose answers are known: what load and end-to-end tests share."""
import collections
import json
import random
import threading
import time

from server import MODEL

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


def add_choice(said, choice):
    """Adds what a choice says, whole or a piece of a stream: [content, reasoning, [[a call's name, its arguments]]]."""
    message = choice.get("message") or choice.get("delta") or {}
    said[0] += choice.get("text") or message.get("content") or ""
    said[1] += message.get("reasoning_content") or ""
    for call in message.get("tool_calls") or []:
        if "id" in call:  # it begins; ids differ from request to request
            assert call.get("index", len(said[2])) == len(said[2]), call
            said[2].append([call["function"]["name"], ""])
        said[2][call.get("index", -1)][1] += call["function"]["arguments"]
    return said


def gists(answer):
    return [add_choice(["", "", []], choice) for choice in answer["choices"]]


def answers_alone(server):
    """[(path, body, what each choice says)] of every kind of request, one after the other."""
    out = []
    for path, body in requests():
        status, answer, _ = server.raw("POST", path, json.dumps(body))
        assert status == 200, (body, answer)
        out.append((path, body, gists(answer)))
    return out


class Client(threading.Thread):
    """Asks at random, and sometimes leaves, while go_on() says so; what it is told must be what was `expected`."""

    def __init__(self, server, expected, go_on, seed):
        super().__init__()
        self.server, self.expected, self.go_on = server, expected, go_on
        self.random = random.Random(seed)
        self.counts = collections.Counter()
        self.problem = None

    def run(self):
        try:
            while self.go_on(self):
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
        found = gists(answer)
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
                    add_choice(found[choice["index"]], choice)
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
