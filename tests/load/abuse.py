#!/usr/bin/env python3
"""Clients that mean harm, or are broken: slow, cut off, many, huge, deep, wrong. After each kind the server must answer
a normal request with the very tokens of before, hold nothing, and at last end cleanly.

usage: abuse.py [--seconds N]   N (120) for each kind, and at last schemathesis with N / 5 examples of each operation; QNEXT
                                names the program, which may be built with a sanitizer
"""
import argparse
import concurrent.futures
import contextlib
import json
import pathlib
import random
import resource
import socket
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "e2e"))
from server import MODEL, Server  # noqa: E402
from test_openapi import run_schemathesis  # noqa: E402

NORMAL = {"model": MODEL, "prompt": "Once upon a time", "max_tokens": 24, "temperature": 0}
CHAT = "/v1/chat/completions"


def head(path=CHAT, length=0, extra=""):
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n{extra}\r\n".encode()


IDLE = 1000  # connections


class Attacker:
    def __init__(self, server, seed, expected):
        self.server, self.expected = server, expected
        self.port = server.port
        self.random = random.Random(seed)

    def connect(self, timeout_s=20):
        return contextlib.closing(socket.create_connection(("127.0.0.1", self.port), timeout_s))

    def exchange(self, data, timeout_s=60):
        """What comes back until the server closes or says something whole; it may hang up whenever it likes."""
        with self.connect(timeout_s) as peer, contextlib.suppress(ConnectionError, TimeoutError):
            peer.sendall(data)
            return peer.recv(1 << 16)
        return b""

    def post(self, body, path=CHAT):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = self.exchange(head(path, len(data), "Connection: close\r\n") + data)
        # 500 never from input; 200 is fine where the request was.
        if answer and answer.split(b" ", 2)[1][:1] == b"5":
            raise AssertionError(f"{answer[:300]} for {data[:300]}")
        return answer

    def chat(self, **fields):
        return {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8, **fields}

    # ---- one round of each kind ----

    def slow_headers(self):
        with self.connect() as peer, contextlib.suppress(ConnectionError):
            for byte in head()[: self.random.randrange(4, 60)]:
                peer.sendall(bytes([byte]))
                time.sleep(self.random.random() * 0.01)

    def half_requests(self):
        body = json.dumps(self.chat(stream=True, max_tokens=200)).encode()
        data = head(length=len(body)) + body
        with self.connect(0.5) as peer, contextlib.suppress(ConnectionError, TimeoutError):
            peer.sendall(data[: self.random.randrange(len(data) + 1)])
            if self.random.random() < 0.5:
                peer.recv(self.random.randrange(1, 600))
            if self.random.random() < 0.5:  # gone with a reset
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    def idle_connections(self):
        with contextlib.ExitStack() as stack:
            peers = [stack.enter_context(self.connect()) for _ in range(IDLE)]
            check(self.server, self.expected, "beside idle connections")
            for peer in self.random.sample(peers, 20):  # they are open: each of them may ask
                peer.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
                if not peer.recv(1 << 16).startswith(b"HTTP/1.1 200"):
                    raise AssertionError("an idle connection was closed")

    def huge_bodies(self):
        kind = self.random.randrange(4)
        if kind == 0:
            self.exchange(head(length=1 << 40) + b"{" * 1000)
        elif kind == 1:
            self.post(b'{"model": "' + b"x" * self.random.randrange(1 << 24) + b'"}')
        elif kind == 2:
            self.post(self.chat(messages=[{"role": "user", "content": "ж🙂 " * self.random.randrange(1 << 18)}]))
        else:
            self.post(self.chat(messages=[{"role": "user", "content": "x"}] * self.random.randrange(1, 1 << 15)))

    def deep_json(self):
        depth = self.random.randrange(1, 1 << 20)
        opening, closing = self.random.choice([(b"[", b"]"), (b'{"a":', b"}"), (b'[{"a":', b"}]")])
        self.post(b'{"messages": ' + opening * depth + b"1" + closing * self.random.choice([0, depth]) + b"}")

    def bad_bytes(self):
        body = bytearray(json.dumps(self.chat(stop=["ж"])).encode())
        for _ in range(self.random.randrange(1, 20)):
            body[self.random.randrange(len(body))] = self.random.randrange(256)
        self.post(bytes(body))
        noise = bytes(self.random.randrange(256) for _ in range(self.random.randrange(1, 2000)))
        self.exchange(noise, timeout_s=1)
        self.exchange(head(length=len(noise), extra="X: " + "ä" * 10 + "\r\n") + noise, timeout_s=1)
        self.exchange(head() * self.random.randrange(2, 200), timeout_s=1)
        chunked = b"POST " + CHAT.encode() + b" HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n"
        self.exchange(chunked, timeout_s=1)

    def schema_bombs(self):
        def nested(depth, width):
            if depth == 0:
                return {"type": self.random.choice(["string", "integer", "number", "boolean", "null", "no-such"])}
            return {"type": "object", "properties": {f"p{i}": nested(depth - 1, width) for i in range(width)},
                    "required": [f"p{i}" for i in range(width)], "additionalProperties": False}

        kind = self.random.randrange(6)
        if kind == 0:
            schema = nested(self.random.randrange(1, 7), self.random.randrange(1, 5))
        elif kind == 1:
            schema = {"$ref": "#"}
        elif kind == 2:
            schema = {"$defs": {f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(30)}
                      | {"d30": {"type": "null"}}, "$ref": "#/$defs/d0"}
        elif kind == 3:
            schema = {"type": "string", "minLength": self.random.randrange(1 << 40), "maxLength": 1 << 50}
        elif kind == 4:
            schema = {"type": "string", "pattern": "(" * self.random.randrange(1, 500) + "a{1,1000}" + "){1,1000}" * 50}
        else:
            schema = {"enum": ["x" * i for i in range(self.random.randrange(1, 3000))]}
        self.post(self.chat(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}))

    def stop_floods(self):
        length = self.random.randrange(1, 1 << 20)
        self.post(self.chat(max_tokens=100, temperature=2, stop=["x" * length, "ж" * (length // 2), " ", "\x00"][: self.random.randrange(5)]))
        self.post(self.chat(stop=["x"] * self.random.randrange(5, 10000)))

    def many_fields(self):
        fields = {f"f{i}": i for i in range(self.random.randrange(1, 5000))}
        self.post({**self.chat(), **fields})
        bias = {str(i): self.random.choice([-100, 100, 1e308, "x"]) for i in range(self.random.randrange(1, 3000))}
        self.post(self.chat(logit_bias=bias, n=self.random.choice([1, 128, 10**9]), top_logprobs=20, logprobs=True))
        self.post({"model": MODEL, "prompt": [[1] * self.random.randrange(1, 400)] * 64, "max_tokens": 2}, "/v1/completions")

    def vanishing_readers(self):
        """Asks for long streams and never reads: the server must not wait for them for ever, nor fill its memory."""
        with contextlib.ExitStack() as stack, contextlib.suppress(ConnectionError, TimeoutError):
            body = json.dumps(self.chat(stream=True, max_tokens=400, logprobs=True, top_logprobs=20, n=4)).encode()
            for _ in range(4):
                stack.enter_context(self.connect()).sendall(head(length=len(body)) + body)
            time.sleep(0.5)


KINDS = ["slow_headers", "half_requests", "idle_connections", "huge_bodies", "deep_json", "bad_bytes", "schema_bombs",
         "stop_floods", "many_fields", "vanishing_readers"]


def settle(server):
    """Until nothing runs any more."""
    end = time.monotonic() + 120
    while server.metric("qnext_sequences_running") + server.metric("qnext_sequences_waiting") > 0:
        if time.monotonic() > end:
            raise AssertionError("a sequence of nobody's still runs")
        time.sleep(0.1)


def check(server, expected, when):
    answer = server.client().completions.create(**NORMAL).choices[0].text
    if answer != expected:
        raise AssertionError(f"{when}: {answer!r}, expected {expected!r}")


def main():
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # the server's, too
    if most < 2 * IDLE:
        sys.exit(f"abuse: only {most} files may be open here; {2 * IDLE} are needed (ulimit -Hn)")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120)
    seconds = parser.parse_args().seconds
    with Server("--context", 512, "--parallel", 4, "--queue", 32) as server:
        expected = server.client().completions.create(**NORMAL).choices[0].text
        for number, kind in enumerate(KINDS):
            end = time.monotonic() + seconds
            rounds = 0
            with concurrent.futures.ThreadPoolExecutor(4) as pool:
                def attack(worker):
                    attacker = Attacker(server, 1000 * number + worker, expected)
                    count = 0
                    while count == 0 or time.monotonic() < end:
                        getattr(attacker, kind)()
                        count += 1
                    return count
                rounds = sum(pool.map(attack, range(1 if kind == "idle_connections" else 4)))
            settle(server)
            check(server, expected, f"after {kind}")
            print(f"{kind}: {rounds} rounds", flush=True)
        code, said = run_schemathesis(server, max(2, int(seconds / 5)))
        if code != 0:
            raise AssertionError(said)
        settle(server)
        check(server, expected, "after schemathesis")
        print("schemathesis: nothing found", flush=True)
        code, log = server.stop()
        if code != 0:
            raise AssertionError(f"ended with {code}: {log[-3000:]}")
    print("the server answers as before")


if __name__ == "__main__":
    main()
